"""Held-out metrics of a model during a fit: the loss, and the autoregressive error at several horizons."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.windows import WindowSampler, ending_in_fall, split_starts
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.fit_config import FitConfig, UpdateConfig
from rwmmodel.loss import draw_noise, ensemble_loss
from rwmmodel.updates import WindowStore

HORIZONS = (1, 8, 32, 100, 368)


class Validator:
    """A fixed sample of held-out windows, scored with fixed noise: equal weights give equal numbers.

    Args:
        store: The normalised rows.
        config: Gives the loss, batch and number of windows.
        held_out: Gives the first rows of all held-out windows of a number of rows, ``(n,)``.
        horizons: Horizons of the autoregressive error, control steps.
        falls: First rows of the windows of M + N rows that end with a recorded fall, ``(n,)``.
        seed: Seed of the sample and of the noise.
    """

    def __init__(
        self,
        store: WindowStore,
        config: UpdateConfig,
        held_out: Callable[[int], np.ndarray],
        horizons: tuple[int, ...],
        falls: np.ndarray,
        seed: int,
    ) -> None:
        self.config, self.store, self.horizons, self.falls, self.seed = config, store, horizons, falls, seed
        self.loss = config.loss.model_copy(update={"followers": None, "auxiliary_share": 1.0})
        self.window = config.history + config.last_forecast
        self.starts = self._sample(held_out(self.window))
        self.rollout_window = config.history + max(self.horizons)
        self.rollout_starts = self._sample(held_out(self.rollout_window))

    @classmethod
    def of_dataset(cls, dataset: Dataset, store: WindowStore, config: FitConfig) -> Validator:
        """Return that of a dataset's val split, with every horizon that its episodes allow.

        Raises:
            RwmError: The val split has no window.
        """
        window = config.history + config.last_forecast
        starts = split_starts(dataset, "val", window)
        falls = starts[ending_in_fall(dataset, starts, window)]
        longest = int(dataset.split_bounds("val")[1].max())
        horizons = tuple(h for h in HORIZONS if config.history + h <= longest)
        return cls(store, config, lambda length: split_starts(dataset, "val", length), horizons, falls, config.seed)

    def _sample(self, starts: np.ndarray) -> np.ndarray:
        return WindowSampler(starts, self.seed).draw(0, min(self.config.val_windows, len(starts)))

    @torch.no_grad()
    def __call__(self, model: DynamicsEnsemble) -> dict[str, float]:
        """Score a model.

        Returns:
            ``val/<term>`` of the loss, ``val/rel_l1_h<h>`` for every horizon that the episodes allow,
            ``val/contact_f1``, and of falls predicted one step ahead: ``val/false_falls``, the false positive rate,
            and, where the split has falls, ``val/termination_recall``.
        """
        model.eval()
        metrics = self._loss(model) | self.rel_l1(partial(roll_mean, model), "val/rel_l1") | self._auxiliary(model)
        model.train()
        return metrics

    def _loss(self, model: DynamicsEnsemble) -> dict[str, float]:
        config = self.config
        generator = torch.Generator(self.store.device).manual_seed(self.seed)
        sums: dict[str, float] = {}
        for starts in _chunks(self.starts, config.batch):
            noise = draw_noise(generator, config.last_forecast, config.members, len(starts), model.config.state_dim)
            weights = torch.ones(config.members, len(starts), device=noise.device)
            terms = ensemble_loss(model, self.store.windows(starts, self.window), self.loss, noise, weights)
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

    @torch.no_grad()
    def rel_l1(self, predict: Callable[[Tensor, Tensor], Tensor], name: str) -> dict[str, float]:
        """Return sum |predicted - recorded| / sum |recorded| over windows, dims and steps 1..h, normalised space.

        Args:
            predict: Takes windows ``(E, M + K, S)`` and their actions, gives the states of the last K rows.
            name: Of the numbers: ``<name>_h<h>``.
        """
        steps = max(self.horizons)
        error, size = torch.zeros(steps), torch.zeros(steps)
        for starts in _chunks(self.rollout_starts, self.config.batch):
            windows = self.store.windows(starts, self.rollout_window)
            predicted = predict(windows.states, windows.actions)
            recorded = windows.states[:, -steps:]
            error += (predicted - recorded).abs().sum(dim=(0, 2)).cpu()
            size += recorded.abs().sum(dim=(0, 2)).cpu()
        ratio = error.cumsum(0) / size.cumsum(0)
        return {f"{name}_h{h}": float(ratio[h - 1]) for h in self.horizons}


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


def _chunks(starts: np.ndarray, size: int) -> list[np.ndarray]:
    return [starts[i : i + size] for i in range(0, len(starts), size)]
