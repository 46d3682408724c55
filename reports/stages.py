"""The stages of a training run, those of the run it was warm-started from included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rwmdata.config import flat, setting_text
from rwmdata.errors import RwmError
from rwmdata.runs import DIGEST, Run
from rwmdata.text import quoted
from rwmrl.online_config import recorded_configuration
from rwmrl.train_config import TrainConfig

SAID = {"task", "robot", "backend", "device", "iterations", "num_envs", "exploration_rad", "seed", "warm_start",
        "rewards", "ppo.entropy_coef", "ppo.symmetry", "ppo.init_std"}  # fmt: skip
"""Options of a training that its command has a word of its own for, or that follow from these."""


@dataclass(frozen=True)
class Stage:
    """A policy on the way; counts go over all runs that led to it."""

    file: Path
    run: Run
    own_iteration: int
    """Iterations of its own run."""
    iteration: int
    steps: int
    minutes: float
    """Training time, minutes."""

    @property
    def name(self) -> str:
        """``stage-000121``."""
        return f"stage-{self.iteration:06d}"

    def made(self) -> dict[str, object]:
        """Return how to make it: the command, that of the run before it, and the configuration."""
        config = training_of(self.run)
        made: dict[str, object] = {"how": f"{command_of(config)}, after {self.own_iteration} iterations"}
        before = parent(self.run)
        if before:
            first = training_of(before)
            made["warm_start"] = f"{command_of(first)}, after {_iteration(before.stage_files()[-1])} iterations"
        return {**made, "config": config.model_dump(mode="json")}


def stages_of(run: Run) -> list[Stage]:
    """Return the stages of a train run in order, its warm start's first.

    Raises:
        RwmError: The run is not a train run or has no stages.
    """
    own = own_stages(run)
    before = parent(run)
    earlier = stages_of(before) if before else []
    if not earlier:
        return own
    last = earlier[-1]
    return earlier + [
        replace(s, iteration=last.iteration + s.iteration, steps=last.steps + s.steps, minutes=last.minutes + s.minutes)
        for s in own
    ]


def own_stages(run: Run) -> list[Stage]:
    """Return the stages of a train run in order, counted from its own start.

    Steps are those of simulated robots; imagined ones do not count.

    Raises:
        RwmError: The run is not a train run or has no stages.
    """
    files = run.stage_files()
    if run.kind != "train" or not files:
        raise RwmError(f"Run {run.id} has no training stages.", "rwm train --task Init-v0")
    steps, minutes = steps_per_iteration(training_of(run)), minutes_of(run)
    return [Stage(file, run, k, k, k * steps, float(minutes[k - 1])) for file in files for k in [_iteration(file)]]


def training_of(run: Run) -> TrainConfig:
    """Return the configuration of a train run, of the class it was recorded with.

    Raises:
        RwmError: The record does not fit.
    """
    return run.configuration(recorded_configuration(run.meta.config))


def steps_per_iteration(config: TrainConfig) -> int:
    """Return the simulated control steps of an iteration, all robots together."""
    return config.num_envs * config.ppo.num_steps


def minutes_of(run: Run) -> np.ndarray:
    """Return the training time until the end of every iteration, minutes ``(iterations,)``."""
    metrics = run.series()
    collect, learn = (np.cumsum([s or 0.0 for s in metrics[f"perf/{part}_s"]]) for part in ("collect", "learn"))
    return (collect + learn) / 60


def parent(run: Run) -> Run | None:
    """Return the train run whose networks a run began with; None where they came from elsewhere, or it is gone."""
    name = run.meta.parents.get("policy")
    path = run.path.with_name(name) if name and DIGEST not in name else None
    before = Run.open(path) if path and path.is_dir() else None
    return None if before and "imported" in before.meta.config else before


def command_of(config: TrainConfig) -> str:
    """Return the command line of a training; a warm start's run is named by the words that led to it."""
    usual = TrainConfig()
    words = [f"rwm train --task {quoted(config.task)} --robot {quoted(config.robot)}"]
    options: dict[str, tuple[float, float]] = {
        "--num-envs": (config.num_envs, usual.num_envs),
        "--exploration": (config.exploration_rad, usual.exploration_rad),
        "--entropy": (config.ppo.entropy_coef, usual.ppo.entropy_coef),
        "--seed": (config.seed, usual.seed),
    }
    places = {"--backend": config.backend, "--device": config.device}
    words += [f"{name} {value}" for name, value in places.items() if value != "auto"]
    words += ["--symmetry"] if config.ppo.symmetry else []
    words += ["--warm-start RUN"] if config.warm_start else []
    words += [f"{name} {value:g}" for name, (value, default) in options.items() if value != default]
    words += [f"--reward {quoted(term)}={weight:g}" for term, weight in config.rewards.items()]
    plain = flat(usual.model_dump(mode="json"))
    for key, value in flat(config.model_dump(mode="json")).items():
        if key not in SAID and not key.startswith("rewards.") and value != plain.get(key):
            words.append(f"--set {quoted(f'{key}={setting_text(value)}')}")
    return " ".join([*words, f"--iterations {config.iterations}"])


def _iteration(file: Path) -> int:
    return int(file.stem.removeprefix("policy-"))
