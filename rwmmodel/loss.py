"""The autoregressive training loss of all members at once.

It equals the plain form (every member runs the whole window on its own bootstrap resample of the batch) because
resampling an index is the same as weighting it by how often it was drawn. So the history runs through the shared bases
once, and only the autoregressive steps, which differ by member, run with the members folded into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmmodel.data import Windows
from rwmmodel.ensemble import DynamicsEnsemble


class LossConfig(Frozen):
    """Terms of the loss and their weights; the forecast horizon N is the windows' length minus the history."""

    main_option: ClassVar = "kind"

    kind: Literal["sampled_mse", "nll"] = "sampled_mse"
    """State term: squared error of a sample (its optimum is std = 0), or the Gaussian negative log-likelihood."""
    teacher_forcing: bool = False
    """Feed back recorded states instead of the member's own samples: the ablation of arXiv:2501.10100."""
    followers: int | None = Field(None, ge=1)
    """Members that go on in a window after its first forecast step, other ones in another window: on average the same
    loss, for fewer steps of the base. None lets all of them, and teacher forcing, which feeds nothing back, does so
    always."""
    auxiliary_share: float = Field(1.0, gt=0, le=1)
    """Share of a batch's windows that the auxiliary part learns from."""
    decay: float = Field(1.0, gt=0.0)
    """alpha: forecast step i has weight alpha^i."""
    state_weight: float = 1.0
    sequence_weight: float | None = None
    """Of the one-step error at every row of the history; None is 1 for the transformer and 0 for other bases."""
    bound_weight: float = 1.0
    """Of the gap between the upper and lower bound of log std."""
    kl_weight: float = 0.1
    """Of the divergence of posterior from prior, summed over both bases; it is 0 for bases without latents."""
    extension_weight: float = 1.0
    contact_weight: float = 1.0
    termination_weight: float = 1.0

    def sequence_weight_for(self, base: str) -> float:
        """Return the weight of the sequence term with a base; mlp, which reads no sequences, refuses one."""
        if base == "mlp" and self.sequence_weight:
            raise RwmError("The sequence term needs a base that reads sequences; mlp reads one window.", "--base gru")
        if self.sequence_weight is None:
            return float(base == "transformer")
        return self.sequence_weight


@dataclass(frozen=True)
class LossTerms:
    """Scalar tensors: the weighted total, then every unweighted term, averaged over members."""

    total: Tensor
    state: Tensor
    sequence: Tensor
    bound: Tensor
    kl: Tensor
    extension: Tensor
    contact: Tensor
    termination: Tensor

    def stacked(self) -> Tensor:
        """Return the terms as one tensor, ``(8,)``, detached, in the order of the fields."""
        return torch.stack([getattr(self, f.name).detach() for f in fields(self)])

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """Return the terms as plain numbers, ready to log."""
        return {f"{prefix}{f.name}": value for f, value in zip(fields(self), self.stacked().tolist(), strict=True)}


def draw_noise(generator: torch.Generator, forecast: int, members: int, batch: int, state_dim: int) -> Tensor:
    """Draw standard normal noise ``(N, 2, B, Bt, S)``.

    ``noise[i, 0]`` draws the sample that is fed back after forecast step i, ``noise[i, 1]`` the separate one in that
    step's regression term.
    """
    shape = (forecast, 2, members, batch, state_dim)
    return torch.randn(shape, generator=generator, device=generator.device)


def draw_bootstrap(generator: torch.Generator, members: int, batch: int) -> Tensor:
    """Draw each member's bootstrap as multinomial weights ``(B, Bt)`` that sum to Bt; all 1 for a single member."""
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
    The auxiliary part sees recorded states only. Forecast step i is weighted alpha^i / N. With ``followers`` the steps
    i > 0 of a window are made by that many members, and its bootstrap weights there are 1.

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
        rows, history = windows.states.shape[1], model.config.history
        raise RwmError(f"Windows of {rows} rows leave nothing to predict after a history of {history}.")
    decay = config.decay ** torch.arange(forecast, device=noise.device, dtype=noise.dtype) / forecast
    sequence_weight = config.sequence_weight_for(model.config.base)
    state_terms = _teacher_forced_terms if config.teacher_forcing else _state_terms
    state, sequence, kl = state_terms(model, windows, config, noise, weights, decay)
    learned = slice(0, max(1, round(config.auxiliary_share * weights.shape[1])))
    contact, termination, extension, auxiliary_kl = _auxiliary_terms(
        model, windows.select(learned), weights[:, learned], decay
    )
    kl = kl + auxiliary_kl
    bound = model.state_head.log_delta.exp().mean()
    total = (
        config.state_weight * state
        + sequence_weight * sequence
        + config.bound_weight * bound
        + config.kl_weight * kl
        + config.extension_weight * extension
        + config.contact_weight * contact
        + config.termination_weight * termination
    )
    return LossTerms(total, state, sequence, bound, kl, extension, contact, termination)


def _state_terms(
    model: DynamicsEnsemble, windows: Windows, config: LossConfig, noise: Tensor, weights: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the state, sequence and KL terms; every step sees the member's own earlier samples."""
    history, states, actions = model.config.history, windows.states, windows.actions
    wanted = history if config.sequence_weight_for(model.config.base) else 1
    pairs = torch.cat((states[:, :history], actions[:, 1 : history + 1]), dim=-1)
    features, carry, kl = model.state_base.encode_with_kl(pairs, last=wanted)
    sequence = _sequence_term(model, features, states[:, :history], config.kind, weights)
    mean, std = model.state_head(features[..., -1, :], states[:, history - 1])
    total = decay[0] * (weights * _error(config.kind, mean, std, states[:, history], noise[0, 1])).mean()
    if len(decay) == 1:
        return total, sequence, (weights * kl).mean()
    rows, later_weights = _followed(config.followers, weights)
    every = torch.arange(len(rows), device=rows.device).unsqueeze(1)
    last, carry = (mean + std * noise[0, 0])[every, rows], model.state_base.spread(carry, rows)
    for i in range(1, len(decay)):
        pairs = torch.cat((last, actions[:, history + i][rows]), dim=-1)
        if model.config.shared_base:
            features, carry = model.state_base.step(pairs.flatten(0, 1), carry)
            features = features.view(*rows.shape, -1)
        else:
            features, carry = model.state_base.step(pairs, carry)
        mean, std = model.state_head(features, last)
        error = _error(config.kind, mean, std, states[:, history + i][rows], noise[i, 1][every, rows])
        total = total + decay[i] * (later_weights * error).mean()
        last = mean + std * noise[i, 0][every, rows]
    return total, sequence, (weights * kl).mean()


def _followed(followers: int | None, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the windows that each member goes on with, ``(B, n)``, and their weights, from the batch's ``(B, Bt)``.

    Windows are drawn at random, so that any division of a batch is: the first go to the first member, and so on, round
    the batch as often as each has ``followers``.
    """
    members, batch = weights.shape
    if followers is None or followers >= members:
        return torch.arange(batch, device=weights.device).expand(members, batch), weights
    each = -(-followers * batch // members)
    rows = torch.arange(members * each, device=weights.device).view(members, each) % batch
    return rows, torch.ones_like(rows, dtype=weights.dtype)


def _teacher_forced_terms(
    model: DynamicsEnsemble, windows: Windows, config: LossConfig, noise: Tensor, weights: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same terms; all steps see recorded states only, so the base reads them in one call."""
    forecast, history, states = len(decay), model.config.history, windows.states
    before = history - 1 if config.sequence_weight_for(model.config.base) else 0
    pairs = torch.cat((states[:, :-1], windows.actions[:, 1:]), dim=-1)
    features, _, kl = model.state_base.encode_with_kl(pairs, last=before + forecast)
    total = noise.new_zeros(())
    for i in range(forecast):
        row = history + i
        mean, std = model.state_head(features[..., before + i, :], states[:, row - 1])
        total = total + decay[i] * (weights * _error(config.kind, mean, std, states[:, row], noise[i, 1])).mean()
    sequence = _sequence_term(model, features[..., : before + 1, :], states[:, :history], config.kind, weights)
    return total, sequence, (weights * kl).mean()


def _sequence_term(model: DynamicsEnsemble, features: Tensor, states: Tensor, kind: str, weights: Tensor) -> Tensor:
    """Return the one-step error of rows 1..M-1, each predicted from the recorded rows before it.

    Without noise: the squared error of the mean, or the negative log-likelihood. ``features`` are those after pairs
    0..M-1, ``(Bt, M, H)`` or ``(B, Bt, M, H)``; with those after the last pair alone, the term is 0. ``states`` are
    rows 0..M-1, ``(Bt, M, S)``.
    """
    if features.shape[-2] == 1:
        return weights.new_zeros(())
    members, batch = weights.shape
    last, target = states[:, :-1].flatten(0, 1), states[:, 1:].flatten(0, 1)
    features = features[..., :-1, :].flatten(-3, -2)
    if kind == "nll":
        mean, std = model.state_head(features, last)
        error = _nll(mean, std, target)
    else:
        error = (model.state_head.predict(features, last) - target).square().sum(-1)
    return (weights.unsqueeze(-1) * error.view(members, batch, -1)).mean()


def _error(kind: str, mean: Tensor, std: Tensor, target: Tensor, noise: Tensor) -> Tensor:
    """Return the state term of every member and window, ``(B, Bt)``."""
    return _nll(mean, std, target) if kind == "nll" else (mean + std * noise - target).square().sum(-1)


def _nll(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood up to its constant, summed over state dimensions, ``(B, Bt)``."""
    return (0.5 * ((target - mean) / std).square() + std.log()).sum(dim=-1)


def _auxiliary_terms(
    model: DynamicsEnsemble, windows: Windows, weights: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the contact, termination, extension and KL terms; extension is 0 where the schema has none."""
    (members, batch), forecast = weights.shape, len(decay)
    pairs = torch.cat((windows.states[:, :-1], windows.actions[:, 1:]), dim=-1)
    features, _, kl = model.auxiliary_base.encode_with_kl(pairs, last=forecast)
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
    contact_term, termination_term = (
        cross_entropy(contact, windows.contact),
        cross_entropy(termination, windows.termination),
    )
    return contact_term, termination_term, extension_term, (weights * kl).mean()
