"""Held-out windows, and a model's autoregressive rollouts on them with the recorded actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.progress import Progress, silent
from rwmdata.schema import Schema
from rwmdata.windows import gather, window_starts
from rwmmodel.ensemble import DynamicsEnsemble

Mode = Literal["mean", "sampled_member"]
MODES: tuple[Mode, ...] = ("mean", "sampled_member")
Disturbance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a window's normalised states ``(W, rows, S)`` and actions ``(W, rows, A)``, returns those the model is fed."""
HELD_OUT = ("test", "val")
"""Splits of episodes no fit has trained on, the preferred one first."""
HORIZONS = (1, 8, 32, 100, 200, 368)
"""Forecast horizons that numbers are given for, control steps."""


@dataclass(frozen=True)
class HeldOutWindows:
    """Recorded windows of ``history + steps`` rows.

    ``rows`` is ``(W, history + steps, width)`` in physical units; ``start`` the global row and ``episode`` the
    episode of each window; ``split`` says where they come from.
    """

    rows: np.ndarray
    start: np.ndarray
    episode: np.ndarray
    split: str


@dataclass(frozen=True)
class Rollout:
    """A model's rollouts beside the record, states in normalised space.

    ``predicted`` and ``recorded`` are ``(W, steps, S)``, ``last`` the last recorded state of the history ``(W, S)``,
    ``epistemic`` and ``aleatoric`` ``(W, steps)``; ``epistemic_std`` and ``total_std``, by column, ``(W, steps, S)``:
    the standard deviation of the members' means, and the same with their mean predicted variance added. ``contact``
    ``(W, steps, C)`` and ``termination`` ``(W, steps)`` are probabilities; None where they were not asked for.
    """

    predicted: np.ndarray
    recorded: np.ndarray
    last: np.ndarray
    epistemic: np.ndarray
    aleatoric: np.ndarray
    epistemic_std: np.ndarray
    total_std: np.ndarray
    contact: np.ndarray | None = None
    termination: np.ndarray | None = None

    @property
    def error(self) -> np.ndarray:
        """Predicted minus recorded, ``(W, steps, S)``, in standard deviations."""
        return self.predicted - self.recorded

    @property
    def l1(self) -> np.ndarray:
        """Sum over state dimensions of the absolute error, ``(W, steps)``, in standard deviations."""
        return self.l1_of(self.predicted)

    def l1_of(self, predicted: np.ndarray) -> np.ndarray:
        """Return the L1 error, ``(W, steps)``, of another prediction ``(W, steps, S)`` of the same windows."""
        return np.abs(predicted - self.recorded).sum(axis=-1)

    @property
    def hold_last(self) -> np.ndarray:
        """The prediction that repeats the last state of the history, ``(W, steps, S)``."""
        return np.broadcast_to(self.last[:, None], self.recorded.shape)

    @property
    def steps(self) -> int:
        """Forecast steps."""
        return self.recorded.shape[1]

    @property
    def horizons(self) -> list[int]:
        """The ``HORIZONS`` that are no longer than the forecast."""
        return [h for h in HORIZONS if h <= self.steps]

    @property
    def recorded_l1(self) -> np.ndarray:
        """Sum over state dimensions of the recorded magnitude, ``(W, steps)``: what relative errors divide by."""
        return np.abs(self.recorded).sum(axis=-1)

    def rel_l1(self, predicted: np.ndarray) -> dict[int, float]:
        """Return sum |error| / sum |recorded| of another prediction, over all windows and steps up to each horizon."""
        ratio = self.l1_of(predicted).sum(axis=0).cumsum() / self.recorded_l1.sum(axis=0).cumsum()
        return {h: float(ratio[h - 1]) for h in self.horizons}

    @property
    def step_size(self) -> np.ndarray:
        """Sum over state dimensions of the predicted change from the state before, ``(W, steps)``."""
        before = np.concatenate((self.last[:, None], self.predicted[:, :-1]), axis=1)
        return np.abs(self.predicted - before).sum(axis=-1)


def held_out_windows(
    dataset: Dataset, count: int, history: int, steps: int, seed: int, splits: tuple[str, ...] = HELD_OUT
) -> HeldOutWindows:
    """Draw ``count`` windows from the first of ``splits`` that has any, spread over episodes.

    Episodes take turns, so that a few long ones do not fill the sample; fewer windows come back when fewer exist.

    Raises:
        RwmError: No held-out episode is long enough for one window.
    """
    length = history + steps
    for split in splits:
        starts = window_starts(*dataset.split_bounds(split), length)
        if len(starts):
            break
    else:
        longest = max((int(dataset.split_bounds(s)[1].max(initial=0)) for s in splits), default=0)
        raise RwmError(
            f"No held-out episode of '{dataset.name}' has the {length} rows one window needs "
            f"(history {history} + {steps} steps); the longest has {longest}.",
            f"--steps {longest - history}" if longest > history + 1 else "a dataset with longer episodes",
        )
    starts = np.random.default_rng(seed).permutation(starts)
    episode = np.searchsorted(dataset.episodes.start, starts, side="right") - 1
    turn = np.zeros(len(starts), np.int64)
    for e in np.unique(episode):
        turn[episode == e] = np.arange((episode == e).sum())
    chosen = np.argsort(turn, kind="stable")[:count]
    return HeldOutWindows(gather(dataset.matrix(), starts[chosen], length), starts[chosen], episode[chosen], split)


def roll_out(
    model: DynamicsEnsemble,
    schema: Schema,
    windows: HeldOutWindows,
    mode: Mode = "mean",
    seed: int = 0,
    progress: Progress = silent,
    disturb: Disturbance | None = None,
    aux: bool = False,
) -> Rollout:
    """Predict each window autoregressively: from its history, then from the recorded actions only.

    To predict row ``t + 1`` the model is fed its own state ``t`` and the action of row ``t + 1`` (the one that led
    there). In mode ``mean`` the ensemble mean is fed back; in ``sampled_member`` each window follows one member,
    drawn once. ``disturb`` changes what the model is fed; errors are still taken to the undisturbed record. ``aux``
    asks for contacts and terminations too.

    Raises:
        RwmError: A prediction or its uncertainty is not finite (window and step are named).
    """
    device, history = next(model.parameters()).device, model.config.history
    rows = torch.from_numpy(windows.rows).to(device)
    with torch.inference_mode():
        states = model.normalizer.state(rows[..., schema.state])
        actions = model.normalizer.action(rows[..., schema.action])
        members = None
        if mode == "sampled_member":
            draw = np.random.default_rng(seed).integers(model.config.members, size=len(rows))
            members = torch.from_numpy(draw).to(device)
        fed_states, actions = disturb(states, actions) if disturb else (states, actions)
        carry = model.warm_up(fed_states[:, : history - 1], actions[:, 1:history], aux)
        state, steps = fed_states[:, history - 1], rows.shape[1] - history
        parts: list[tuple[Tensor, ...]] = []
        ends: list[tuple[Tensor, ...]] = []
        for k in range(steps):
            prediction, carry = model.step(state, actions[:, history + k], carry, members, aux)
            state = prediction.state
            assert prediction.member_std is not None and prediction.aleatoric is not None
            spread = prediction.member_mean.var(dim=0) if len(prediction.member_mean) > 1 else torch.zeros_like(state)
            total = spread + prediction.member_std.square().mean(dim=0)
            parts.append((state, prediction.epistemic, prediction.aleatoric, spread.sqrt(), total.sqrt()))
            if aux:
                assert prediction.contact is not None and prediction.termination is not None
                ends.append((prediction.contact.sigmoid(), prediction.termination.sigmoid().squeeze(-1)))
            progress(k + 1, steps, {})
    predicted, *uncertainty = map(_over_steps, zip(*parts, strict=True))
    _refuse_non_finite((predicted, *uncertainty), windows)
    recorded, last = states[:, history:].cpu().numpy(), states[:, history - 1].cpu().numpy()
    return Rollout(predicted, recorded, last, *uncertainty, *map(_over_steps, zip(*ends, strict=True)))


def _over_steps(values: Sequence[Tensor]) -> np.ndarray:
    """Return values of every step, ``(W, ...)`` each, as ``(W, steps, ...)``."""
    return torch.stack(tuple(values), dim=1).float().cpu().numpy()


def stale_actions(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Delay the actions by one row, as the authors' evaluation does: to predict row t + 1 the model gets row t's.

    The first row keeps its own; no prediction reads it.
    """
    return states, torch.cat((actions[:, :1], actions[:, :-1]), dim=1)


def _refuse_non_finite(parts: tuple[np.ndarray, ...], windows: HeldOutWindows) -> None:
    """Refuse when any of ``parts (W, steps, ...)`` is not finite: a bounded state can be, where its spread is not."""
    finite = np.all([np.isfinite(p).reshape(*p.shape[:2], -1).all(axis=-1) for p in parts], axis=0)
    bad = np.argwhere(~finite)
    if len(bad):
        window, step = bad[0]
        raise RwmError(
            f"The model's prediction is not finite at step {step + 1} of the window that starts at row "
            f"{windows.start[window]} ({len(np.unique(bad[:, 0]))} of {len(finite)} windows); nothing was plotted.",
            "rwm fit, with a lower --lr",
        )
