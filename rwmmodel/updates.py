"""Updates of an ensemble's weights, whatever its windows come from: a dataset or a replay that is being filled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rwmmodel.data import Windows
from rwmmodel.distributed import Ranks
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.fit_config import UpdateConfig
from rwmmodel.loss import LossTerms, draw_bootstrap, draw_noise, ensemble_loss

AVERAGED = "averaged."
"""Prefix of the averaged weights' keys in a saved state."""


class WindowStore(Protocol):
    """Rows that windows are gathered from."""

    @property
    def device(self) -> torch.device:
        """Where windows are."""

    def windows(self, starts: np.ndarray, length: int) -> Windows:
        """Gather the normalised windows of ``length`` rows at ``starts (Bt,)``."""


class NotFiniteError(ArithmeticError):
    """The loss or the gradient of an update is not finite; the weights are those of the update before."""

    def __init__(self, loss: float, norm: float) -> None:
        super().__init__(f"the loss is {loss}, the gradient norm {norm}")
        self.loss = loss


class Updates:
    """A model, its optimiser and, where configured, the moving average of its weights.

    Every draw of an update is a function of (seed, number of the update), so no random state is kept.

    Args:
        model: The ensemble, on the device of the windows.
        config: How it is updated.
        seed: Seed of the draws.
        ranks: Processes that update it together, each on its own parts of a batch.

    Attributes:
        count: Updates made.
        whole: False while an update is changing the weights: such a state must not be saved.
    """

    def __init__(self, model: DynamicsEnsemble, config: UpdateConfig, seed: int, ranks: Ranks = Ranks()) -> None:
        self.model, self.config, self.seed, self.ranks = model, config, seed, ranks
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        averaging = get_ema_multi_avg_fn(config.ema)
        self.averaged = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True) if config.ema else None
        self.count, self.whole = 0, True

    @property
    def kept(self) -> DynamicsEnsemble:
        """The model that is validated and saved: that of averaged weights where there is one."""
        return cast(DynamicsEnsemble, self.averaged.module) if self.averaged else self.model

    def make(self, store: WindowStore, starts: np.ndarray, forecast: int, lr: float) -> LossTerms:
        """Make one update on the windows at ``starts (Bt,)``; return the terms of its loss, detached.

        Raises:
            NotFiniteError: Loss or gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        terms = self._backward(store, starts, forecast)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        if not bool(torch.isfinite(terms.total + norm)):
            raise NotFiniteError(terms.total.item(), norm.item())
        self.whole = False
        self.optimizer.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        self.count += 1
        self.whole = True
        return terms

    def _backward(self, store: WindowStore, starts: np.ndarray, forecast: int) -> LossTerms:
        """Compute the gradient of the windows' loss.

        All processes draw the same noise and weights; each processes its own parts of the batch.
        """
        model, batch, device = self.model, len(starts), store.device
        members, history = model.config.members, model.config.history
        generator = torch.Generator(device).manual_seed(seed_of(self.seed, self.count))
        noise = draw_noise(generator, forecast, members, batch, model.config.state_dim)
        weights = draw_bootstrap(generator, members, batch)
        self.optimizer.zero_grad()
        parts = np.array_split(np.arange(batch), self.config.accumulate * self.ranks.world)
        own_terms = []
        for part in parts[self.ranks.rank :: self.ranks.world]:
            windows, where = store.windows(starts[part], history + forecast), slice(part[0], part[-1] + 1)
            with _drawing_from(seed_of(self.seed, self.count, int(part[0])), device):
                part_terms = ensemble_loss(model, windows, self.config.loss, noise[:, :, :, where], weights[:, where])
            (part_terms.total * (len(part) / batch)).backward()
            own_terms.append(part_terms.stacked() * (len(part) / batch))
        own = sum(own_terms[1:], own_terms[0])
        return LossTerms(*self.ranks.sum_gradients(model.parameters(), own).unbind())

    def weights(self) -> dict[str, Tensor]:
        """Return the weights, and after them the averaged ones, whose keys begin with ``AVERAGED``."""
        averaged = self.averaged.state_dict() if self.averaged else {}
        return self.model.state_dict() | {AVERAGED + key: value for key, value in averaged.items()}

    def restore(self, count: int, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Take back ``count`` and what :meth:`weights` and the optimiser's ``state_dict`` gave."""
        self.count = count
        averaged = {k.removeprefix(AVERAGED): v for k, v in weights.items() if k.startswith(AVERAGED)}
        self.model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(AVERAGED)})
        if self.averaged:
            self.averaged.load_state_dict(averaged)
        self.optimizer.load_state_dict(optimizer)


@contextmanager
def _drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Make a base's own draws (latents of rssm) a function of the seed, without touching torch's global stream."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def seed_of(*numbers: int) -> int:
    """Return the generator seed of an update, or of one part of its batch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
