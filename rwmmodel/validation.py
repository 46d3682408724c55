"""Held-out metrics of a model during a fit: the loss, and the autoregressive error at several horizons."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.windows import WindowSampler, ending_in_fall, split_starts
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
        config: Gives the loss, horizons, batch and seed.

    Raises:
        RwmError: The val split has no window.
    """

    def __init__(self, dataset: Dataset, store: RowStore, config: FitConfig) -> None:
        self.config, self.store = config, store
        self.window = config.history + config.last_forecast
        starts = split_starts(dataset, "val", self.window)
        self.starts = _sample(starts, config)
        self.falls = starts[ending_in_fall(dataset, starts, self.window)]
        longest = int(dataset.episodes.length[dataset.split("val")].max())
        self.horizons = tuple(h for h in HORIZONS if config.history + h <= longest)
        self.rollout_window = config.history + max(self.horizons)
        self.rollout_starts = _sample(split_starts(dataset, "val", self.rollout_window), config)

    @torch.no_grad()
    def __call__(self, model: DynamicsEnsemble) -> dict[str, float]:
        """Score a model.

        Returns:
            ``val/<term>`` of the loss, ``val/rel_l1_h<h>`` for every horizon that the episodes allow,
            ``val/contact_f1``, and of falls predicted one step ahead: ``val/false_falls``, the false positive rate,
            and, where the split has falls, ``val/termination_recall``.
        """
        model.eval()
        metrics = self._loss(model) | self._rel_l1(model) | self._auxiliary(model)
        model.train()
        return metrics

    def _loss(self, model: DynamicsEnsemble) -> dict[str, float]:
        config = self.config
        generator = torch.Generator(self.store.rows.device).manual_seed(config.seed)
        sums: dict[str, float] = {}
        for starts in _chunks(self.starts, config.batch):
            noise = draw_noise(generator, config.last_forecast, config.members, len(starts), model.config.state_dim)
            weights = torch.ones(config.members, len(starts), device=noise.device)
            terms = ensemble_loss(model, self.store.windows(starts, self.window), config.loss, noise, weights)
            for name, value in terms.numbers("val/").items():
                sums[name] = sums.get(name, 0.0) + value * len(starts) / len(self.starts)
        return sums

    def _auxiliary(self, model: DynamicsEnsemble) -> dict[str, float]:
        """Return how well contacts (F1 = 2 TP / (2 TP + FP + FN)) and falls are predicted one step ahead."""
        tp, fp, fn, _ = self._confusion(model, self.starts, "contact")
        metrics = {"val/contact_f1": 2 * tp / max(2 * tp + fp + fn, 1)}
        _, fp, _, tn = self._confusion(model, self.starts, "termination")
        metrics["val/false_falls"] = fp / max(fp + tn, 1)
        tp, _, fn, _ = self._confusion(model, self.falls, "termination")
        return metrics | ({"val/termination_recall": tp / (tp + fn)} if tp + fn else {})

    def _confusion(self, model: DynamicsEnsemble, starts: np.ndarray, name: str) -> list[float]:
        """Return true and false positives, false and true negatives of the predicted contacts or terminations."""
        counts, forecast = torch.zeros(4), self.config.last_forecast
        for chunk in _chunks(starts, self.config.batch):
            windows = self.store.windows(chunk, self.window)
            predicted = forecast_logits(model, windows.states, windows.actions, forecast)[name] > 0
            true = getattr(windows, name)[:, -forecast:] > 0.5
            cells = (predicted & true, predicted & ~true, ~predicted & true, ~predicted & ~true)
            counts += torch.stack([cell.sum() for cell in cells]).cpu()
        return counts.tolist()

    def _rel_l1(self, model: DynamicsEnsemble) -> dict[str, float]:
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
        return {f"val/rel_l1_h{h}": float(ratio[h - 1]) for h in self.horizons}


def forecast_logits(model: DynamicsEnsemble, states: Tensor, actions: Tensor, forecast: int) -> dict[str, Tensor]:
    """Predict contact and termination of a window's last rows from recorded states, mean over members.

    Args:
        model: The ensemble.
        states: Recorded windows, normalised, ``(E, M + N, S)``.
        actions: Actions of the same rows, ``(E, M + N, A)``.
        forecast: Forecast horizon N, rows.

    Returns:
        Logits of ``contact`` ``(E, N, C)`` and ``termination`` ``(E, N, 1)``.
    """
    pairs = torch.cat((states[:, :-1], actions[:, 1:]), dim=-1)
    features, _ = model.auxiliary_base.encode(pairs, last=forecast)
    contact, termination, _ = model.auxiliary_head(features.flatten(-3, -2))
    shape = (len(states), forecast, -1)
    return {"contact": contact.mean(0).view(shape), "termination": termination.mean(0).view(shape)}


def roll_mean(model: DynamicsEnsemble, states: Tensor, actions: Tensor) -> Tensor:
    """Predict autoregressively with the ensemble mean and the recorded actions.

    Args:
        model: The ensemble.
        states: Recorded windows, normalised, ``(E, M + K, S)``; rows after the history are ignored.
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
