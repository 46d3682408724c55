"""Held-out quality of a model during a fit: the loss, and the autoregressive error at several horizons."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.windows import WindowSampler, split_starts
from rwmmodel.data import RowStore
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import draw_noise, ensemble_loss

HORIZONS = (1, 8, 32, 100, 368)


class Validator:
    """A fixed sample of windows from the val split, scored with fixed noise: equal weights give equal numbers.

    Args:
        dataset: The dataset.
        store: Its normalised rows.
        config: The fit whose loss, horizons, batch and seed are taken.

    Raises:
        RwmError: The val split has no window.
    """

    def __init__(self, dataset: Dataset, store: RowStore, config: FitConfig) -> None:
        c = self.config = config
        self.store = store
        self.window = c.history + c.forecast
        self.starts = _sample(split_starts(dataset, "val", self.window), c)
        longest = int(dataset.episodes.length[dataset.split("val")].max())
        self.horizons = tuple(h for h in HORIZONS if c.history + h <= longest)
        self.rollout_window = c.history + max(self.horizons)
        self.rollout_starts = _sample(split_starts(dataset, "val", self.rollout_window), c)

    @torch.no_grad()
    def __call__(self, model: DynamicsEnsemble) -> dict[str, float]:
        """Return ``val/<term>`` of the loss and ``val/relative_l1_h<h>`` for every horizon the episodes allow."""
        model.eval()
        numbers = self._loss(model) | self._relative_l1(model)
        model.train()
        return numbers

    def _loss(self, model: DynamicsEnsemble) -> dict[str, float]:
        c = self.config
        generator = torch.Generator(self.store.rows.device).manual_seed(c.seed)
        sums: dict[str, float] = {}
        for starts in _chunks(self.starts, c.batch):
            noise = draw_noise(generator, c.forecast, c.members, len(starts), model.config.state_dim)
            weights = torch.ones(c.members, len(starts), device=noise.device)
            terms = ensemble_loss(model, self.store.windows(starts, self.window), c.loss, noise, weights)
            for name, value in terms.numbers("val/").items():
                sums[name] = sums.get(name, 0.0) + value * len(starts) / len(self.starts)
        return sums

    def _relative_l1(self, model: DynamicsEnsemble) -> dict[str, float]:
        """Return sum |predicted - recorded| / sum |recorded| over windows, dims and steps 1..h, normalised space."""
        steps = max(self.horizons)
        error, size = torch.zeros(steps), torch.zeros(steps)
        for starts in _chunks(self.rollout_starts, self.config.batch):
            windows = self.store.windows(starts, self.rollout_window)
            predicted = roll_mean(model, windows.states, windows.actions)
            recorded = windows.states[:, -steps:]
            error += (predicted - recorded).abs().sum(dim=(0, 2)).cpu()
            size += recorded.abs().sum(dim=(0, 2)).cpu()
        ratio = error.cumsum(0) / size.cumsum(0)
        return {f"val/relative_l1_h{h}": float(ratio[h - 1]) for h in self.horizons}


def roll_mean(model: DynamicsEnsemble, states: Tensor, actions: Tensor) -> Tensor:
    """Predict autoregressively with the ensemble mean and the recorded actions.

    Args:
        model: The ensemble.
        states: Recorded windows, normalised, ``(E, M + K, S)``; rows after the history are not looked at.
        actions: Actions of the same rows, ``(E, M + K, A)``.

    Returns:
        States predicted for rows M..M+K-1, ``(E, K, S)``.
    """
    history = model.config.history
    carry = model.warm_up(states[:, : history - 1], actions[:, 1:history], aux=False)
    state, predicted = states[:, history - 1], []
    for row in range(history, states.shape[1]):
        prediction, carry = model.step(state, actions[:, row], carry, aux=False)
        state = prediction.state
        predicted.append(state)
    return torch.stack(predicted, dim=1)


def _sample(starts: np.ndarray, config: FitConfig) -> np.ndarray:
    return WindowSampler(starts, config.seed).draw(0, min(config.val_windows, len(starts)))


def _chunks(starts: np.ndarray, size: int) -> list[np.ndarray]:
    return [starts[i : i + size] for i in range(0, len(starts), size)]
