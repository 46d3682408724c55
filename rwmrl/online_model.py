"""The model's side of online training: an ensemble that is fitted on the replay while the policy trains."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema, is_fitted
from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.data import some_of, state_range
from rwmmodel.ensemble import Architecture, DynamicsEnsemble, ModelInfo
from rwmmodel.fastest import with_precision
from rwmmodel.normalizer import Normalizer
from rwmmodel.updates import NotFiniteError, Updates, seed_of
from rwmmodel.validation import HORIZONS, Validator, roll_mean
from rwmrl.online_config import ReplayFitConfig
from rwmrl.replay import Replay
from rwmrl.snapshots import Snapshot

NOISY_STEPS = 100
"""Longest horizon that is scored under noise: one rollout for every scale takes its time."""


class OnlineModel:
    """An ensemble, its updates on a replay, and its scores on the replay's held-out robots.

    Which windows an update sees is a function of (seed, number of the update, content of the replay).

    Args:
        replay: Where windows come from.
        config: Architecture and updates.
        robot: Gives the reference normaliser.
        iterations: Iterations of the whole training, over which the learning rate decays.
        seed: Seed of weights and draws.
        device: Where the model is.
        source: Model file to go on from; its architecture and normaliser stand over the configuration's.
    """

    def __init__(
        self,
        replay: Replay,
        config: ReplayFitConfig,
        robot: RobotSpec,
        iterations: int,
        seed: int,
        device: torch.device,
        source: Path | None = None,
    ) -> None:
        self.replay, self.robot, self.iterations, self.seed, self.device = replay, robot, iterations, seed, device
        self._loaded = load_model(source, device) if source else None
        if self._loaded is not None:
            _refuse_other(self._loaded, replay.schema, robot, source)
            sizes = {name: getattr(self._loaded.config, name) for name in Architecture.model_fields}
            config = config.model_copy(update=sizes)
        self.config = with_precision(config, device)
        self._updates: Updates | None = None
        if self._loaded is not None or not is_fitted(config.normalizer, robot):
            self._updates = self._begin()

    @property
    def model(self) -> DynamicsEnsemble:
        """The model that is scored and saved.

        Raises:
            RwmError: The replay has not yet held a window, so there is none.
        """
        if self._updates is None:
            raise RwmError("The replay has no window yet to fit a model on.", "a shorter history or forecast")
        return self._updates.kept

    def _begin(self) -> Updates:
        """Make the model; its normaliser, where it is to be fitted, is that of the replay's content now."""
        schema, config = self.replay.schema, self.config
        model = self._loaded
        if model is None:
            statistics = schema.choose_normalizer(config.normalizer, self.robot, self._statistics)
            normalizer = Normalizer(schema.dims["state"], schema.dims["action"], *statistics)
            hz = round(1 / self.robot.control_dt_s, 6)
            info = ModelInfo(self.robot.name, schema.csv_names, hz, "the replay of an online training")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model = DynamicsEnsemble(config.ensemble(schema), normalizer, info)
        model = model.to(self.device).train().requires_grad_(True)
        assert config.precision != "auto"
        model.precision = config.precision
        if config.mini_batches:
            model.calibration = None  # Its factors are those of the weights before.
        self.replay.normalizer = model.normalizer
        return Updates(model, config, self.seed)

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the replay's states, each ``(S,)``."""
        states = self._some_states()
        return states.mean(dim=0).cpu().numpy(), states.std(dim=0).cpu().numpy()

    def _some_states(self) -> Tensor:
        """Return states of many rows of the replay, ``(n, S)``, physical units."""
        return self.replay.gather(some_of(self.replay.starts(1)), 1)[:, 0, self.replay.schema.state]

    def learn(self, iteration: int) -> dict[str, float]:
        """Make an iteration's updates, and score the model where that is due; return what is to be logged.

        Nothing is done as long as the replay has fewer windows than a batch.

        Raises:
            RwmError: A loss is not finite.
        """
        config, began = self.config, time.perf_counter()
        length = config.history + config.forecast
        starts = self.replay.starts(length)
        if len(starts) < config.batch or config.mini_batches == 0:
            return {}
        if self._updates is None:
            self._updates = self._begin()
        updates = self._updates
        last = iteration + 1 == self.iterations
        due = (iteration + 1) % config.val_interval == 0 or last
        if config.bounded and (due or updates.count == 0):
            self._widen_bounds(updates)
        others, falls = self._kinds(starts, length)
        total = self.iterations * config.mini_batches
        sums: dict[str, float] = {}
        for _ in range(config.mini_batches):
            rng = np.random.default_rng(seed_of(self.seed, updates.count, 1))
            chosen = draw_starts(rng, config.batch, others, falls, config.fall_share)
            try:
                terms = updates.make(self.replay, chosen, config.forecast, config.lr_at(updates.count, total))
            except NotFiniteError as exc:
                raise RwmError(f"At update {updates.count + 1} of the model {exc}.", "--set fit.lr=1e-3") from exc
            for name, value in terms.numbers("model/").items():
                sums[name] = sums.get(name, 0.0) + value / config.mini_batches
        sums |= {"perf/model_s": time.perf_counter() - began, "replay/rows": float(self.replay.count)}
        return sums | (self.score() if due else {})

    def _kinds(self, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the starts of windows without a fall and of those that end with one, where these have a share."""
        if self.config.fall_share:
            falls = self.replay.ending_in_fall(starts, length)
            if 0 < falls.sum() < len(falls):
                return starts[~falls], starts[falls]
        return starts, starts[:0]

    def _widen_bounds(self, updates: Updates) -> None:
        """Let the bounds of the states include what the replay holds now, in the averaged model too."""
        model = updates.model
        low, high = state_range(model.normalizer.state(self._some_states().to(self.device)))
        for bounded in {model, updates.kept}:
            bounded.widen_bounds(low, high)

    def score(self) -> dict[str, float]:
        """Return the model's scores on the held-out robots' rows, empty while these have no window.

        ``val/...`` as in a fit, with the horizons that the replay has windows for; ``val/hold_last_h<h>`` repeats the
        last recorded state; ``val/rel_l1_noise<scale>_h<h>`` is under noise on what the model is fed.
        """
        config, model = self.config, self.model
        horizons = tuple(h for h in HORIZONS if len(self.replay.starts(config.history + h, held_out=True)))
        window = config.history + config.forecast
        starts = self.replay.starts(window, held_out=True)
        if not len(starts) or not horizons:
            return {}
        falls = starts[self.replay.ending_in_fall(starts, window)]
        held_out = partial(self.replay.starts, held_out=True)
        falls = falls[: config.val_windows]
        validator = Validator(self.replay, config, held_out, horizons, falls, self.seed)
        scores = validator(model)
        model.eval()
        scores |= validator.rel_l1(partial(hold_last, config.history), "val/hold_last")
        shorter = tuple(h for h in horizons if h <= NOISY_STEPS)
        noisy = Validator(self.replay, config, held_out, shorter, falls, self.seed)
        for scale in config.noise_scales:
            scores |= noisy.rel_l1(partial(_under_noise, model, scale, self.seed), f"val/rel_l1_noise{scale:g}")
        model.train()
        return scores

    def save(self, path: Path) -> None:
        """Write the model to a file, if there is one yet."""
        if self._updates is not None:
            save_model(self.model, path)

    def state(self) -> Snapshot:
        """Return weights, optimiser and count of updates; without a model yet, nothing."""
        if self._updates is None:
            return {}
        weights, optimizer = self._updates.weights(), self._updates.optimizer.state_dict()
        return {"model": weights, "model_optimizer": optimizer, "model_updates": self._updates.count}

    def restore(self, state: Snapshot) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            RuntimeError: The weights are of another architecture.
        """
        if "model" in state:
            self._updates = self._updates or self._begin()
            self._updates.restore(state["model_updates"], state["model"], state["model_optimizer"])
            self.replay.normalizer = self._updates.model.normalizer


def draw_starts(
    rng: np.random.Generator, count: int, others: np.ndarray, falls: np.ndarray, fall_share: float
) -> np.ndarray:
    """Draw ``count`` starts with replacement: with probability ``fall_share`` one of ``falls``, where there are any."""
    chosen = others[rng.integers(len(others), size=count)]
    if len(falls):
        of_fall = rng.random(count) < fall_share
        chosen[of_fall] = falls[rng.integers(len(falls), size=int(of_fall.sum()))]
    return chosen


def hold_last(history: int, states: Tensor, actions: Tensor) -> Tensor:
    """Predict that nothing changes after the history: states ``(E, K, S)`` for windows ``(E, M + K, S)``."""
    return states[:, history - 1 : history].expand(-1, states.shape[1] - history, -1)


def _under_noise(model: DynamicsEnsemble, scale: float, seed: int, states: Tensor, actions: Tensor) -> Tensor:
    """Predict with the ensemble mean under normal noise on the history's states and on all actions."""
    generator = torch.Generator(states.device).manual_seed(seed)
    noise = partial(torch.randn, generator=generator, device=states.device)
    return roll_mean(model, states + scale * noise(states.shape), actions + scale * noise(actions.shape))


def _refuse_other(model: DynamicsEnsemble, schema: Schema, robot: RobotSpec, file: Path | None) -> None:
    own = [getattr(model.config, f"{part}_dim") for part in ("state", "action", "extension", "contact")]
    wanted = [schema.dims[part] for part in ("state", "action", "extension", "contact")]
    if own != wanted or (model.info is not None and model.info.robot != robot.name):
        what = model.info.robot if model.info else f"{own[0]} state columns"
        raise RwmError(f"{file} is a model of {what}, not of '{robot.name}'.", "--model RUN of that robot")
