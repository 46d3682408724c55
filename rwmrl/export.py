"""Rollouts of a behaviour in a simulator, written as a dataset."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import torch
from pydantic import Field

from rwmdata.catalog import Dataset
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import Frozen, load_robot
from rwmdata.runs import git_state, versions
from rwmdata.writer import DatasetWriter
from rwmrl.backends import make_env, resolve_backend
from rwmrl.behaviours import Behaviour, make_behaviour
from rwmrl.envs.base import VecEnv
from rwmrl.tasks import get_task

MAX_ENVS = 1024


class ExportConfig(Frozen):
    """Options of :func:`export_dataset`."""

    task: str = "Pretrain-v0"
    robot: str = "anymal_d"
    backend: str = "auto"
    policy: str = "scripted"
    transitions: int = Field(200_000, ge=1)
    """Rows to write, exactly; an episode's first row, the state after the reset, is one of them."""
    num_envs: int | None = Field(None, ge=1)
    """Robots side by side; when absent as many as fill the rows with whole episodes, up to 1024."""
    seed: int = 0
    name: str | None = None
    """Dataset name; made from robot, task and time when absent."""


def export_dataset(home: Home, config: ExportConfig, progress: Progress | None = None) -> Dataset:
    """Roll a behaviour out and write exactly ``config.transitions`` rows as a dataset.

    An episode begins with the row of the reset (action zero) and has one row per control step after it. Episodes
    still running at the end are cut and marked as truncated.

    Raises:
        RwmError: Unknown task, robot, backend, policy or a taken name; nothing is written then.
    """
    task, robot = get_task(config.task), load_robot(config.robot)
    backend = resolve_backend(config.backend)
    rows_per_episode = round(robot.episode_length_s / robot.control_dt_s) + 1
    num_envs = config.num_envs or min(MAX_ENVS, -(-config.transitions // rows_per_episode))
    behaviour = make_behaviour(config.policy, robot, num_envs, config.seed)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = config.name or f"{robot.name}-{task.name.lower()}-{stamp}"
    provenance = {
        "source": "rwm data export", **config.model_dump(), "backend": backend, "num_envs": num_envs,
        "versions": versions(), "git": git_state(),
    }  # fmt: skip
    env = make_env(backend, task, robot, num_envs, config.seed)
    writer = DatasetWriter(home.data_dir, name, robot.name, env.schema, 1 / env.control_dt_s, provenance, config.seed)
    with writer:
        Recorder(env, behaviour, writer, config.transitions).run(progress)
        return writer.commit()


class Recorder:
    """Steps environments and hands whole episodes to a writer until it has enough rows."""

    def __init__(self, env: VecEnv, behaviour: Behaviour, writer: DatasetWriter, transitions: int) -> None:
        self.env, self.behaviour, self.writer, self.transitions = env, behaviour, writer, transitions
        shape = (env.num_envs, env.max_episode_length + 1)
        self.rows = np.empty((*shape, env.schema.width), np.float32)
        self.command = np.empty((*shape, 3), np.float32)
        self.reward = np.empty(shape, np.float32)
        self.length = np.zeros(env.num_envs, np.int64)
        self.unstable = 0

    def run(self, progress: Progress | None) -> None:
        """Record until ``transitions`` rows are written, the last episodes cut to fit."""
        env = self.env
        observations = env.get_observations()
        self._begin(np.arange(env.num_envs))
        while self.writer.rows + self.length.sum() < self.transitions:
            command = env.command.cpu().numpy().copy()
            with torch.no_grad():
                step = env.step(self.behaviour.act(observations).to(env.device))
            observations = step.observations
            at = np.arange(env.num_envs), self.length
            self.rows[at] = step.transition.cpu().numpy()
            self.command[at], self.reward[at] = command, step.reward.cpu().numpy()
            self.length += 1
            self._end(step.done.cpu().numpy().nonzero()[0])
            if progress:
                done = min(self.writer.rows + int(self.length.sum()), self.transitions)
                progress(done, self.transitions, {"falls": float(sum(self.writer.terminated))})
        for e in range(env.num_envs):
            self._write(e, min(int(self.length[e]), self.transitions - self.writer.rows))
        if self.unstable:
            self.writer.provenance["notes"] = [f"{self.unstable} episodes ended in unstable physics; cut before it"]

    def _begin(self, ids: np.ndarray) -> None:
        """Record the row of the reset in ``ids``."""
        self.rows[ids, 0] = self.env.current_rows()[ids].cpu().numpy()
        self.command[ids, 0] = self.env.command[ids].cpu().numpy()
        self.reward[ids, 0] = np.nan
        self.length[ids] = 1

    def _end(self, ids: np.ndarray) -> None:
        if len(ids) == 0:
            return
        unstable = getattr(self.env, "unstable", None)
        for e in ids:
            broken = unstable is not None and bool(unstable[e])
            self.unstable += broken
            self._write(e, int(self.length[e]) - broken)
        self.behaviour.reset(torch.from_numpy(ids))
        self._begin(ids)

    def _write(self, env: int, count: int) -> None:
        count = min(count, self.transitions - self.writer.rows)
        if count <= 0:
            return
        rows = self.rows[env, :count].copy()
        self.writer.append_episode(
            rows, truncated=bool(rows[-1, -1] < 0.5), command=self.command[env, :count].copy(),
            reward=self.reward[env, :count].copy(), behaviour=self.behaviour.labels[env],
        )  # fmt: skip
