"""Output heads of all members at once: parameters are stacked over members and run as one batched product."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedMLP(nn.Module):
    """B separate networks ``in -> hidden -> out`` with a ReLU, weights ``(B, in, out)`` initialised as by nn.Linear."""

    def __init__(self, members: int, input_dim: int, hidden: int, output_dim: int) -> None:
        super().__init__()
        self.weight_0 = _uniform(input_dim, members, input_dim, hidden)
        self.bias_0 = _uniform(input_dim, members, 1, hidden)
        self.weight_1 = _uniform(hidden, members, hidden, output_dim)
        self.bias_1 = _uniform(hidden, members, 1, output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(n, in)``, shared by all members, or ``(B, n, in)`` to ``(B, n, out)``."""
        if features.dim() == 2:
            features = features.expand(len(self.weight_0), -1, -1)
        hidden = torch.relu(torch.baddbmm(self.bias_0, features, self.weight_0))
        return torch.baddbmm(self.bias_1, hidden, self.weight_1)

    def of_members(self, features: Tensor, groups: list[Tensor]) -> Tensor:
        """Map features ``(n, in)`` to ``(n, out)``, each row by one member: ``groups[b]`` are the rows of member b."""
        output = features.new_empty(len(features), self.weight_1.shape[-1])
        for b, rows in enumerate(groups):
            hidden = torch.relu(torch.addmm(self.bias_0[b], features[rows], self.weight_0[b]))
            output[rows] = torch.addmm(self.bias_1[b], hidden, self.weight_1[b])
        return output


class StateHead(nn.Module):
    """Gaussian over the next state, per member: a residual mean and a softly bounded standard deviation.

    With ``prior_scale`` each member's mean includes a fixed random network (randomised prior functions,
    arXiv:1806.03335): the learned part compensates for it where there is data, and members differ where there is none.
    """

    def __init__(self, members: int, input_dim: int, hidden: int, state_dim: int, prior_scale: float = 0.0) -> None:
        super().__init__()
        self.mean = StackedMLP(members, input_dim, hidden, state_dim)
        self.prior_scale = prior_scale
        self.prior = StackedMLP(members, input_dim, hidden, state_dim).requires_grad_(False) if prior_scale else None
        self.log_std = StackedMLP(members, input_dim, hidden, state_dim)
        self.min_log_std = nn.Parameter(torch.full((members, 1, state_dim), -5.0))
        self.log_delta = nn.Parameter(torch.zeros(members, 1, state_dim))

    @property
    def max_log_std(self) -> Tensor:
        """Upper bound of the log standard deviation, ``(B, 1, S)``: always above ``min_log_std``."""
        return self.min_log_std + self.log_delta.exp()

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the next state per member, each ``(B, n, S)``, normalised.

        Args:
            features: ``(n, H)``, shared by all members, or ``(B, n, H)``.
            state: Last input state in normalised space, ``(n, S)`` or ``(B, n, S)``.
        """
        return self.predict(features, state), self.deviation(features)

    def deviation(self, features: Tensor) -> Tensor:
        """Return the standard deviation alone, ``(B, n, S)``."""
        lower, upper = self.min_log_std, self.max_log_std
        below_upper = upper - F.softplus(upper - self.log_std(features))
        return (lower + F.softplus(below_upper - lower)).exp()

    def predict(self, features: Tensor, state: Tensor) -> Tensor:
        """Return the mean alone, ``(B, n, S)``."""
        change = self.mean(features)
        if self.prior is not None:
            change = change + self.prior_scale * self.prior(features)
        return change + state


class AuxiliaryHead(nn.Module):
    """Logits of contact and termination and, where the schema has one, the extension, per member."""

    def __init__(self, members: int, input_dim: int, hidden: int, contact_dim: int, extension_dim: int) -> None:
        super().__init__()
        self.contact = StackedMLP(members, input_dim, hidden, contact_dim)
        self.termination = StackedMLP(members, input_dim, hidden, 1)
        self.extension = StackedMLP(members, input_dim, hidden, extension_dim) if extension_dim else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return contact logits ``(B, n, C)``, termination logit ``(B, n, 1)`` and extension ``(B, n, X)`` or None."""
        extension = self.extension(features) if self.extension is not None else None
        return self.contact(features), self.termination(features), extension

    def of_members(self, features: Tensor, groups: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the same without the member dimension for features ``(n, H)``, each row by one member's heads."""
        extension = self.extension.of_members(features, groups) if self.extension is not None else None
        return self.contact.of_members(features, groups), self.termination.of_members(features, groups), extension


def member_groups(member_ids: Tensor, members: int) -> list[Tensor]:
    """Return the rows of ``member_ids (n,)`` that name each member."""
    return [(member_ids == b).nonzero().squeeze(-1) for b in range(members)]


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    bound = 1.0 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
