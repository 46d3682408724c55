"""The autoregressive training loss of all members at once.

It equals the plain form (every member runs the whole window on its own bootstrap resample of the batch) because
resampling by index is weighting by how often an index was drawn. So the history runs through the shared bases once,
and only the fed-back steps, which differ by member, run with the members folded into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import Frozen
from rwmmodel.bases import tile_carry
from rwmmodel.data import Windows
from rwmmodel.ensemble import DynamicsEnsemble


class LossConfig(Frozen):
    """Terms of the loss and their weights; the forecast horizon N is the windows' length minus the history."""

    kind: Literal["sampled_mse", "nll"] = "sampled_mse"
    """State term: squared error of a sample (its optimum is std = 0), or the Gaussian negative log-likelihood."""
    teacher_forcing: bool = False
    """Feed recorded states back instead of the member's own samples: the ablation of arXiv:2501.10100."""
    decay: float = Field(1.0, gt=0.0)
    """alpha: forecast step i counts alpha^i."""
    state_weight: float = 1.0
    bound_weight: float = 1.0
    """On the gap between the upper and lower bound of log std."""
    extension_weight: float = 1.0
    contact_weight: float = 1.0
    termination_weight: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_kind(cls, value: Any) -> Any:
        """Take the name of a kind alone for that kind with the default weights."""
        return {"kind": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class LossTerms:
    """Scalar tensors: the weighted total, then every term before its weight, averaged over members."""

    total: Tensor
    state: Tensor
    bound: Tensor
    extension: Tensor
    contact: Tensor
    termination: Tensor

    def scaled(self, factor: float) -> LossTerms:
        """Return the terms times ``factor``, detached."""
        return LossTerms(*(getattr(self, f.name).detach() * factor for f in fields(self)))

    def __add__(self, other: LossTerms) -> LossTerms:
        return LossTerms(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """Return the terms as plain numbers, ready to log."""
        values = torch.stack([getattr(self, f.name).detach() for f in fields(self)]).tolist()
        return {f"{prefix}{f.name}": value for f, value in zip(fields(self), values, strict=True)}


def draw_noise(generator: torch.Generator, forecast: int, members: int, batch: int, state_dim: int) -> Tensor:
    """Draw standard normal noise ``(N, 2, B, Bt, S)``.

    ``noise[i, 0]`` makes the sample that is fed back after forecast step i, ``noise[i, 1]`` is the fresh one of that
    step's regression term.
    """
    shape = (forecast, 2, members, batch, state_dim)
    return torch.randn(shape, generator=generator, device=generator.device)


def draw_bootstrap(generator: torch.Generator, members: int, batch: int) -> Tensor:
    """Draw each member's bootstrap as multinomial weights ``(B, Bt)`` that sum to Bt.

    A single member has nobody to differ from and sees every window once.
    """
    weights = torch.zeros(members, batch, device=generator.device)
    if members == 1:
        return weights + 1.0
    drawn = torch.randint(batch, (members, batch), generator=generator, device=generator.device)
    return weights.scatter_add_(1, drawn, torch.ones_like(weights))


def ensemble_loss(
    model: DynamicsEnsemble, windows: Windows, config: LossConfig, noise: Tensor, weights: Tensor
) -> LossTerms:
    """Return the loss of a batch of windows of M + N rows.

    Row M + i is predicted for i = 0..N-1. Step 0 sees the recorded history (states of rows 0..M-1, actions of rows
    1..M); step i > 0 sees in addition the member's own samples of rows M..M+i-1, through which the gradient flows.
    The auxiliary part sees recorded states only. Forecast step i is weighted alpha^i / N.

    Args:
        model: The ensemble.
        windows: Normalised windows, ``(Bt, M + N, ...)``.
        config: Kind and weights.
        noise: ``(N, 2, B, Bt, S)``, see :func:`draw_noise`.
        weights: Bootstrap weights ``(B, Bt)``, see :func:`draw_bootstrap`.

    Raises:
        RwmError: The windows are no longer than the history.
    """
    forecast = windows.states.shape[1] - model.config.history
    if forecast < 1:
        raise RwmError(
            f"Windows of {windows.states.shape[1]} rows leave nothing to predict after a history of "
            f"{model.config.history}."
        )
    decay = config.decay ** torch.arange(forecast, device=noise.device, dtype=noise.dtype) / forecast
    state_term = _teacher_forced_term if config.teacher_forcing else _state_term
    state = state_term(model, windows, config.kind, noise, weights, decay)
    contact, termination, extension = _auxiliary_terms(model, windows, weights, decay)
    bound = model.state_head.log_delta.exp().mean()
    total = (
        config.state_weight * state
        + config.bound_weight * bound
        + config.extension_weight * extension
        + config.contact_weight * contact
        + config.termination_weight * termination
    )
    return LossTerms(total, state, bound, extension, contact, termination)


def _state_term(
    model: DynamicsEnsemble, windows: Windows, kind: str, noise: Tensor, weights: Tensor, decay: Tensor
) -> Tensor:
    members, batch = weights.shape
    history, states, actions = model.config.history, windows.states, windows.actions
    pairs = torch.cat((states[:, :history], actions[:, 1 : history + 1]), dim=-1)
    features, carry = model.state_base.encode(pairs, last=1)
    features, last = features[..., 0, :], states[:, history - 1]
    total = noise.new_zeros(())
    for i in range(len(decay)):
        mean, std = model.state_head(features, last)
        target = states[:, history + i]
        total = total + decay[i] * (weights * _error(kind, mean, std, target, noise[i, 1])).mean()
        if i + 1 == len(decay):
            break
        last = mean + std * noise[i, 0]
        pairs = torch.cat((last, actions[:, history + i + 1].expand(members, batch, -1)), dim=-1)
        if model.config.shared_base:
            carry = tile_carry(carry, members) if i == 0 else carry
            features, carry = model.state_base.step(pairs.flatten(0, 1), carry)
            features = features.view(members, batch, -1)
        else:
            features, carry = model.state_base.step(pairs, carry)
    return total


def _teacher_forced_term(
    model: DynamicsEnsemble, windows: Windows, kind: str, noise: Tensor, weights: Tensor, decay: Tensor
) -> Tensor:
    """Every step sees recorded states only, so all of them run through the base at once."""
    forecast, states = len(decay), windows.states
    pairs = torch.cat((states[:, :-1], windows.actions[:, 1:]), dim=-1)
    features, _ = model.state_base.encode(pairs, last=forecast)
    total = noise.new_zeros(())
    for i in range(forecast):
        row = model.config.history + i
        mean, std = model.state_head(features[..., i, :], states[:, row - 1])
        total = total + decay[i] * (weights * _error(kind, mean, std, states[:, row], noise[i, 1])).mean()
    return total


def _error(kind: str, mean: Tensor, std: Tensor, target: Tensor, noise: Tensor) -> Tensor:
    """Return the state term of every member and window, ``(B, Bt)``."""
    return _nll(mean, std, target) if kind == "nll" else (mean + std * noise - target).square().sum(-1)


def _nll(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood up to its constant, summed over state dimensions, ``(B, Bt)``."""
    return (0.5 * ((target - mean) / std).square() + std.log()).sum(dim=-1)


def _auxiliary_terms(
    model: DynamicsEnsemble, windows: Windows, weights: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the contact, termination and extension terms; extension is 0 where the schema has none."""
    members, batch = weights.shape
    forecast = len(decay)
    pairs = torch.cat((windows.states[:, :-1], windows.actions[:, 1:]), dim=-1)
    features, _ = model.auxiliary_base.encode(pairs, last=forecast)
    contact, termination, extension = model.auxiliary_head(features.flatten(-3, -2))
    scale = weights.unsqueeze(-1) * decay / weights.numel()

    def average(error: Tensor) -> Tensor:
        return (error.mean(dim=-1).view(members, batch, forecast) * scale).sum()

    def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        target = target[:, -forecast:].flatten(0, 1).expand(members, -1, -1)
        return average(F.binary_cross_entropy_with_logits(logits, target, reduction="none"))

    extension_term = weights.new_zeros(())
    if extension is not None:
        extension_term = average((extension - windows.extension[:, -forecast:].flatten(0, 1)).square())
    return cross_entropy(contact, windows.contact), cross_entropy(termination, windows.termination), extension_term
