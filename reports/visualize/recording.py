"""What real robots did: rows of robots side by side, from a simulator or from a recorded episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reports.visualize.pose import Pose
from rwmdata.catalog import Dataset
from rwmdata.episodes import read_episodes
from rwmdata.errors import RwmError
from rwmdata.progress import Progress, silent
from rwmdata.schema import Schema
from rwmrl.behaviour_base import Behaviour
from rwmrl.control_loop import play
from rwmrl.envs.base import VecEnv


@dataclass(frozen=True)
class Recording:
    """Rows of N real robots over T control steps."""

    rows: np.ndarray
    """``(N, T, width)``, physical units."""
    command: np.ndarray | None
    """``(N, T, 3)``: what each row was made under; None where it was not recorded."""
    begins: np.ndarray
    """``(N, T)`` bool: the first row of an episode here; no row before it led to it."""
    schema: Schema
    dt_s: float
    """Time between rows, s."""
    simulated: Pose | None = None
    """The simulator's own poses ``(N, T, ...)``, not a number at an episode's last row; None where it does not tell."""

    def segments(self, robot: int) -> list[tuple[int, int]]:
        """Return the bounds ``[start, stop)`` of a robot's episodes."""
        starts = np.flatnonzero(self.begins[robot]).tolist()
        return list(zip(starts, [*starts[1:], self.rows.shape[1]], strict=True))


def record_robots(
    env: VecEnv, behaviour: Behaviour, steps: int, settle: int = 0, progress: Progress = silent
) -> Recording:
    """Let a behaviour act in an environment and return the rows of the last ``steps`` of ``settle + steps`` steps."""
    rows, commands, begins, positions, quaternions = [], [], [], [], []
    begun = torch.ones(env.num_envs, dtype=torch.bool)
    for k, played in enumerate(play(env, behaviour, settle + steps)):
        if k >= settle:
            rows.append(played.step.transition.cpu().clone())
            commands.append(played.command.cpu())
            begins.append(begun | (k == settle))
            if env.base_position is not None and env.base_quaternion is not None:
                positions.append(env.base_position.cpu())
                quaternions.append(env.base_quaternion.cpu())
        begun = played.step.done.cpu().clone()
        if positions:
            # The simulator has put it where its next episode begins.
            positions[-1][begun] = quaternions[-1][begun] = torch.nan
        if begun.any():
            behaviour.reset(begun.nonzero().squeeze(-1))
        progress(k + 1, settle + steps, {"ended": float(begun.sum())})
    real, command, begun_at = (torch.stack(part, dim=1).numpy() for part in (rows, commands, begins))
    simulated = None
    if positions:
        simulated = Pose(torch.stack(positions, dim=1).numpy(), torch.stack(quaternions, dim=1).numpy())
    return Recording(real, command, begun_at, env.schema, env.control_dt_s, simulated)


def recorded_episode(dataset: Dataset, episode: int, steps: int | None = None) -> Recording:
    """Return an episode of a dataset, its first ``steps`` rows or all.

    Raises:
        RwmError: There is no such episode, or a shard cannot be read.
    """
    count = len(dataset.episodes)
    if not 0 <= episode < count:
        raise RwmError(
            f"Dataset '{dataset.name}' has no episode {episode}; episodes: 0 to {count - 1}.", f"--episode {count - 1}"
        )
    read = next(iter(read_episodes(dataset, {episode})))
    rows, command = read.rows[None, :steps], None if read.command is None else read.command[None, :steps]
    begins = np.arange(rows.shape[1])[None] == 0
    return Recording(rows, command, begins, dataset.schema, 1 / dataset.control_hz)
