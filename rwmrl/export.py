"""Roll a behaviour out in a simulator and write the rollouts as a dataset."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.environment import versions
from rwmdata.episodes import Episode, is_truncated
from rwmdata.home import Home
from rwmdata.machine import available_threads
from rwmdata.manifest import Provenance
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter
from rwmrl.backends import EMBEDDED, make_env, resolve_backend
from rwmrl.behaviour_base import Behaviour, BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.control_loop import play
from rwmrl.envs.base import EnvOptions, Step, VecEnv
from rwmrl.interleave import interleave
from rwmrl.snapshots import Snapshot
from rwmrl.tasks import get_task
from rwmrl.train_config import TrainConfig

ROWS_PER_ENV = 800
"""Rows per environment when the number of environments is not given."""
ENVS = (64, 1024)
"""Fewest and most environments in that case."""
LEAST_ROWS_PER_ENV = 100
"""Rows that each environment makes at least in that case: windows of a model's history and forecast fit into them."""
PROGRESS_INTERVAL_S = 0.1
GROUPS, MIN_GROUP = 2, 64
"""Number of groups that are simulated in parallel, and the least robots per group to do so."""
SHARED = {"task", "episode_length_s", "pushes", "noise", "randomize", "bounds_m", "device"}
"""Options that an export passes on to its environments."""
GROUP_SEED = 1_000_003
"""Difference between the seeds of two groups."""


class ExportConfig(Frozen):
    """Options of :func:`export_dataset`."""

    task: str = "Pretrain-v0"
    robot: str = "anymal_d"
    backend: str = "auto"
    policy: str = "scripted"
    """Behaviour, in the form that :func:`rwmrl.behaviours.make_behaviour` takes."""
    action_noise: Annotated[float, Field(ge=0)] | None = None
    """Standard deviation of normal noise on every action; the policy's own when None."""
    transitions: Annotated[int, Field(ge=1)] = 200_000
    """Rows in the dataset, exactly."""
    seed: int = 0
    num_envs: Annotated[int, Field(ge=1)] | None = None
    """Robots simulated in parallel; about one per 800 rows when None."""
    name: str | None = None
    """Dataset name; made from task, policy and time when None."""
    episode_length_s: Annotated[float, Field(gt=0)] | None = None
    """Time limit of an episode; the robot's own when None."""
    pushes: bool | None = None
    """Push the base; the task decides when None, as for the next two."""
    noise: bool | None = None
    """Noise on the policy's observations; the rows written have none."""
    randomize: bool | None = None
    """Domain randomisation; the manifest's episodes hold the values drawn."""
    parts: Annotated[int, Field(ge=1)] | None = None
    """Parts that :func:`rwmrl.export_parts.export_in_parts` exports by themselves; the rows depend on their number."""
    bounds_m: tuple[float, float] | None = None
    """Keep the robot in a rectangle of this length and width (arXiv:2504.16680, A.4)."""
    device: str = "auto"
    """Where Isaac Lab or mjlab simulates; the embedded simulator has the processor."""

    @field_validator("bounds_m", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Read ``4x3``."""
        if not isinstance(value, str):
            return value
        try:
            length, width = (float(side) for side in value.lower().split("x"))
        except ValueError:
            raise ValueError(f"'{value}' is not LENGTHxWIDTH in metres") from None
        return length, width

    def resolve_envs(self) -> int:
        """Return the number of environments."""
        wanted = self.num_envs or min(max(self.transitions // ROWS_PER_ENV, ENVS[0]), ENVS[1])
        most = self.transitions if self.num_envs else max(self.transitions // LEAST_ROWS_PER_ENV, 1)
        return min(wanted, most)


def export_dataset(home: Home, config: ExportConfig, progress: Progress = silent) -> Dataset:
    """Roll ``config.policy`` out and write exactly ``config.transitions`` rows.

    An episode is the row of its initial state (with a zero action) and one row per step after it. Episodes still
    running at the end are cut and marked as truncated. Episodes whose simulation became unstable are left out and
    counted in the provenance.

    Raises:
        RwmError: Robot, task, backend or policy is unknown or cannot run here, or the dataset's name is taken.
    """
    robot, backend = load_robot(config.robot), resolve_backend(config.backend)
    envs, schema, name = config.resolve_envs(), Schema.from_robot(robot), config.name or default_name(config)
    origin = provenance(config, robot, backend, envs, config.policy, config.randomize)
    hz = round(1.0 / robot.control_dt_s, 6)
    with (
        collectors_of(config, robot, backend, envs) as collectors,
        DatasetWriter(home.data_dir, name, robot.name, schema, hz, origin, config.seed) as writer,
    ):
        started, reported = time.perf_counter(), 0.0
        for episodes in interleave([c.run() for c in collectors]):
            for episode in episodes:
                writer.append(episode)
            now = time.perf_counter()
            if now - reported > PROGRESS_INTERVAL_S:
                reported, rows = now, sum(c.recorder.rows for c in collectors)
                progress(rows, config.transitions, {"rows/s": rows / (now - started)})
        writer.provenance["dropped_unstable_episodes"] = sum(c.recorder.dropped for c in collectors)
        dataset = writer.commit()
    progress(dataset.rows, config.transitions, {"rows/s": dataset.rows / (time.perf_counter() - started)})
    return dataset


@contextmanager
def collectors_of(config: ExportConfig, robot: RobotSpec, backend: str, envs: int) -> Iterator[list[Collector]]:
    """Give one collector of rows, or ``GROUPS`` of them to run in parallel.

    How the robots are divided into groups does not depend on the machine, so neither do the rows.
    """
    count = GROUPS if backend == EMBEDDED and envs >= GROUPS * MIN_GROUP else 1
    threads = max(1, available_threads() // count) if count > 1 else None
    with ExitStack() as stack:
        if count > 1:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        collectors = []
        for k in range(count):
            size = envs * (k + 1) // count - envs * k // count
            limit = config.transitions * (k + 1) // count - config.transitions * k // count
            seed = config.seed + GROUP_SEED * k
            context = BehaviourContext(robot, size, torch.Generator().manual_seed(seed))
            behaviour = make_behaviour(config.policy, context, config.action_noise)
            own = {"num_envs": size, "seed": seed, "threads": threads}
            env = make_env(backend, robot, EnvOptions(**config.model_dump(include=SHARED) | own))
            stack.callback(env.close)
            collectors.append(Collector(env, behaviour, Recorder(env, limit)))
        yield collectors


def default_name(config: ExportConfig) -> str:
    """Return a dataset name made of task, policy and time."""
    policy = re.sub(r"[^A-Za-z0-9]+", "-", Path(config.policy).stem).strip("-")
    return f"{config.task}-{policy}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}".lower()


class Collector:
    """Lets a behaviour act in an environment until the recorder is full."""

    def __init__(self, env: VecEnv, behaviour: Behaviour, recorder: Recorder) -> None:
        self.env, self.behaviour, self.recorder = env, behaviour, recorder

    def run(self) -> Iterator[list[Episode]]:
        """Yield the episodes that ended in each step, the cut ones last."""
        behaviour, recorder = self.behaviour, self.recorder
        steps = play(self.env, behaviour)
        recorder.start(behaviour.names())
        while not recorder.full:
            played = next(steps)
            recorder.add(played.command, played.step)
            done = played.step.done.nonzero().squeeze(-1).cpu()
            if len(done):
                behaviour.reset(done)
                recorder.turn_over(played.step, behaviour.names())
            yield recorder.take()
        recorder.finish()
        yield recorder.take()


class Recorder:
    """Buffers the rows of running episodes and collects complete ones.

    Args:
        env: The environment.
        limit: Rows to record.
        robots: Those that are recorded, ``(K,)``; all when None.

    Attributes:
        rows: Rows recorded so far, those of running episodes included.
        limit: Rows to record.
        dropped: Episodes left out because their simulation became unstable.
    """

    def __init__(self, env: VecEnv, limit: int, robots: np.ndarray | None = None) -> None:
        self.rows, self.limit, self.dropped = 0, limit, 0
        self._env = env
        self._robots = np.arange(env.num_envs) if robots is None else robots
        self._finished: list[Episode] = []
        count, longest = len(self._robots), min(env.max_episode_length + 1, limit)
        self._buffers = [np.empty((count, longest, n), np.float32) for n in (env.schema.width, 3, 1)]
        self._length = np.zeros(count, np.int64)
        self._names = [""] * count
        self._everyone = np.arange(count)
        self._parameters: list[dict[str, float]] = [{} for _ in range(count)]

    def take(self) -> list[Episode]:
        """Return the episodes collected since the last call."""
        taken, self._finished = self._finished, []
        return taken

    @property
    def full(self) -> bool:
        """Whether enough rows have been recorded."""
        return self.rows >= self.limit

    def start(self, names: list[str], which: np.ndarray | None = None) -> None:
        """Start episodes with the row of their initial state, as many as ``limit`` still allows.

        ``names`` are those of all robots' behaviours, ``which (n,)`` counts the recorded robots; all when None.
        """
        which = (self._everyone if which is None else which)[: self.limit - self.rows]
        robots = self._robots[which]
        self._length[which] = 0
        rows, command = _host(self._env.current_rows())[robots], _host(self._env.command)[robots]
        self._put(which, rows, command, np.zeros(len(which), np.float32))
        drawn = {key: values.tolist() for key, values in self._env.episode_parameters().items()}
        for i, robot in zip(which, robots, strict=True):
            self._names[i] = names[robot]
            self._parameters[i] = {key: values[robot] for key, values in drawn.items()}

    def go_on(self, rows: int, dropped: int, names: list[str]) -> None:
        """Begin new episodes where ``rows`` have been recorded before; ``names`` as for :meth:`start`."""
        self.rows, self.dropped = rows, dropped
        self._length[:] = 0
        if not self.full:
            self.start(names)

    def add(self, command: torch.Tensor, step: Step) -> None:
        """Record the rows of one step that was made under ``command (E, 3)``."""
        rows, commands, reward = (_host(x)[self._robots] for x in (step.transition, command, step.reward))
        self._put(self._everyone, rows, commands, reward)

    def turn_over(self, step: Step, names: list[str]) -> None:
        """Collect the episodes that ended with ``step`` and start the next ones.

        Once full, running episodes are left to :meth:`finish`.
        """
        unstable = step.log.get("unstable")
        if isinstance(unstable, torch.Tensor):
            which = np.flatnonzero(_host(unstable)[self._robots])
            self.dropped += len(which)
            self.rows -= int(self._length[which].sum())
            self._length[which] = 0
        if self.full:
            return
        done = np.flatnonzero(_host(step.done)[self._robots])
        for i in done.tolist():
            self._collect(i)
        if len(done):
            self.start(names, done)

    def finish(self) -> None:
        """Collect the running episodes, cut so that exactly ``limit`` rows have been recorded."""
        surplus = self.rows - self.limit
        cut = np.flatnonzero(self._length)[-surplus:] if surplus > 0 else np.empty(0, np.int64)
        self._length[cut] -= 1
        for i in range(len(self._length)):
            self._collect(i)
        self.rows = self.limit

    def _put(self, which: np.ndarray, rows: np.ndarray, command: np.ndarray, reward: np.ndarray) -> None:
        at = self._length[which]
        for buffer, values in zip(self._buffers, (rows, command, reward[:, None]), strict=True):
            buffer[which, at] = values
        self._length[which] += 1
        self.rows += len(which)

    def state(self) -> Snapshot:
        """Return the running episodes and the counts, for :meth:`restore`; collected episodes are to be taken first."""
        longest = int(self._length.max(initial=0))
        buffers = [torch.from_numpy(b[:, :longest].copy()) for b in self._buffers]
        counts = {"rows": self.rows, "dropped": self.dropped, "length": self._length.tolist()}
        return {**counts, "buffers": buffers, "names": [*self._names], "parameters": [*self._parameters]}

    def restore(self, state: Snapshot) -> None:
        """Take back what :meth:`state` returned."""
        self.rows, self.dropped, self._length[:] = state["rows"], state["dropped"], state["length"]
        for own, saved in zip(self._buffers, state["buffers"], strict=True):
            own[:, : saved.shape[1]] = saved.cpu().numpy()
        self._names, self._parameters = [*state["names"]], [*state["parameters"]]

    def _collect(self, i: int) -> None:
        length = self._length[i]
        if length == 0:
            return
        rows, command, reward = (buffer[i, :length].copy() for buffer in self._buffers)
        about = self._names[i], self._parameters[i]
        self._finished.append(Episode(rows, is_truncated(rows), command, reward[:, 0], *about))
        self._length[i] = 0


def provenance(
    config: ExportConfig | TrainConfig,
    robot: RobotSpec,
    backend: str,
    envs: int,
    policy: str,
    randomize: bool | None = None,
) -> Provenance:
    """Return where the rows come from, for the dataset's manifest; ``randomize`` None is as the task has it."""
    task = get_task(config.task, backend)
    randomized = task.randomize if randomize is None else randomize
    # Another simulator's task draws from ranges of its own.
    ranges = robot.randomization.model_dump(mode="json") if backend == EMBEDDED else "as the simulator's task has it"
    return {
        "source": "simulation", "backend": backend, "task": task.name, "policy": policy, "seed": config.seed,
        "num_envs": envs, "control_dt_s": robot.control_dt_s,
        "randomization": ranges if randomized else None,
        "config": config.model_dump(mode="json"), "task_config": task.model_dump(mode="json"), "versions": versions(),
    }  # fmt: skip


def _host(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()
