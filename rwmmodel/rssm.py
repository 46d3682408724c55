"""A recurrent state-space model as a base (arXiv:1811.04551): a deterministic memory and a stochastic latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwmmodel.bases import BaseCarry, SingleBase

LEAST_STD = 0.1
"""Lower bound of the latent's standard deviation."""
Gaussian = tuple[Tensor, Tensor]
"""Mean and standard deviation."""


class RssmBase(SingleBase):
    """Memory h and latent z; the features are h and the latent that the prior predicts next.

    With pair t = (state s_t, action a that leads on to row t + 1)::

        z_t     ~ posterior(h_t, s_t)
        h_{t+1} = GRU(h_t, [z_t, a])
        features of pair t = [h_{t+1}, z ~ prior(h_{t+1})]

    Input states may be recorded or the model's own: both go through the posterior. The KL term
    KL(posterior(h_t, s_t) || prior(h_t)) trains the prior to predict the posterior. Latents are samples in training
    mode and means in evaluation mode. The carry is h ``(E, hidden)``.

    Args:
        state_dim: Size S; the first S columns of a pair are its state.
        action_dim: Size A; the rest.
        hidden: Size of h.
        latent: Size of z.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.width, self.state_dim = hidden + latent, state_dim
        self.cell = nn.GRUCell(latent + action_dim, hidden)
        self.posterior = _gaussian_net(hidden + state_dim, hidden, latent)
        self.prior = _gaussian_net(hidden, hidden, latent)

    def encode_with_kl(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry, Tensor]:
        """Read a history; the divergence is the mean over its pairs, ``(E,)``."""
        with self._autocast(inputs):
            features, hidden, divergence = self._read(inputs, last)
        return features.to(inputs.dtype), (hidden.to(inputs.dtype),), divergence.to(inputs.dtype)

    def _encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        features, hidden, _ = self._read(inputs, last)
        return features, (hidden,)

    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        hidden, _ = self._advance(inputs, carry[0])
        return self._features(hidden), (hidden,)

    def _read(self, inputs: Tensor, last: int) -> tuple[Tensor, Tensor, Tensor]:
        envs, steps = inputs.shape[:2]
        hidden = inputs.new_zeros(envs, self.cell.hidden_size)
        memories, posteriors = [hidden], []  # h_0 .. h_T
        for t in range(steps):
            hidden, posterior = self._advance(inputs[:, t], hidden)
            posteriors.append(posterior)
            memories.append(hidden)
        features = inputs.new_empty(envs, 0, self.width)
        if last > 0:
            features = self._features(torch.stack(memories[-last:], 1))
        mean, std = (torch.stack(part, 1) for part in zip(*posteriors, strict=True))
        divergence = kl_divergence((mean, std), _gaussian(self.prior(torch.stack(memories[:-1], 1)))).mean(-1)
        return features, hidden, divergence

    def _advance(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Gaussian]:
        state, action = inputs[:, : self.state_dim], inputs[:, self.state_dim :]
        posterior = _gaussian(self.posterior(torch.cat((hidden, state), dim=-1)))
        latent = self._draw(posterior)
        return self.cell(torch.cat((latent, action.to(latent.dtype)), dim=-1), hidden.to(latent.dtype)), posterior

    def _features(self, hidden: Tensor) -> Tensor:
        return torch.cat((hidden, self._draw(_gaussian(self.prior(hidden)))), dim=-1)

    def _draw(self, gaussian: Gaussian) -> Tensor:
        mean, std = gaussian
        return mean + std * torch.randn_like(std) if self.training else mean


def kl_divergence(p: Gaussian, q: Gaussian) -> Tensor:
    """Return KL(p || q) of diagonal Gaussians, summed over the last dimension."""
    (mean_p, std_p), (mean_q, std_q) = p, q
    ratio = (std_p / std_q).square()
    return 0.5 * (ratio + ((mean_p - mean_q) / std_q).square() - 1 - ratio.log()).sum(dim=-1)


def _gaussian_net(input_dim: int, hidden: int, latent: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_dim, hidden), nn.ELU(), nn.Linear(hidden, 2 * latent))


def _gaussian(raw: Tensor) -> Gaussian:
    mean, std = raw.to(torch.promote_types(raw.dtype, torch.float32)).chunk(2, dim=-1)
    return mean, F.softplus(std) + LEAST_STD
