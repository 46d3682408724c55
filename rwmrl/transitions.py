"""Recorded rows as transitions for model-free offline methods: observation, action, reward, next observation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.robots import RobotSpec, load_robot
from rwmrl.cloning import Demonstrations
from rwmrl.rewards import RewardModel


@dataclass(frozen=True)
class TransitionBatch:
    """Transitions, n of them."""

    observation: Tensor
    """``(n, O)``, without noise."""
    action: Tensor
    """``(n, A)``"""
    reward: Tensor
    """``(n,)``: the robot's reward terms of the step that followed."""
    next_observation: Tensor
    """``(n, O)``; after an episode's last step with the command of that step, because none follows."""
    next_action: Tensor
    """``(n, A)``; after an episode's last step the same action again."""
    terminal: Tensor
    """``(n,)`` bool: the robot fell; the end of a recording is not terminal."""


class Transitions(Demonstrations):
    """A dataset's transitions; one is the index of its first row, and both its rows are of one episode.

    Attributes:
        reward: Reward of the step that led to each row, ``(R,)``; 0 for rows that no step led to.

    Raises:
        RwmError: Recorded commands are asked for, and a row has none.
    """

    def __init__(self, dataset: Dataset, command: str, device: torch.device) -> None:
        super().__init__(dataset, command, device)
        self.reward = recorded_rewards(dataset, load_robot(dataset.robot), self.rows, self.command)

    def batch(self, first: np.ndarray) -> TransitionBatch:
        """Return the transitions whose first rows are ``first (n,)``."""
        after = torch.from_numpy(first).to(self.rows.device) + 1
        return TransitionBatch(
            observation=self.observations(first),
            action=self.actions(first),
            reward=self.reward[after],
            next_observation=self.observations(first + 1),
            next_action=self.rows[self.following[after]][:, self.schema.action],
            terminal=self.rows[after, -1] > 0.5,
        )


@torch.no_grad()
def recorded_rewards(dataset: Dataset, robot: RobotSpec, rows: Tensor, command: Tensor) -> Tensor:
    """Return the reward of every recorded step by the robot's own reward terms and weights.

    All episodes are replayed side by side through the reward terms of simulator and imagination, which remember the
    last action, the last joint velocities and each foot's time in the air.

    Args:
        dataset: Gives the episodes.
        robot: Gives the weights.
        rows: ``(R, width)``, physical units.
        command: The command each row was made under, ``(R, 3)``.

    Returns:
        ``(R,)``; 0 in the first row of an episode.
    """
    schema, device = dataset.schema, rows.device
    start, length = (torch.from_numpy(x).to(device) for x in (dataset.episodes.start, dataset.episodes.length))
    everyone = torch.arange(len(start), device=device)
    rewards = RewardModel(robot, schema, len(start), device)
    rewards.reset(everyone, rows[start][:, schema.state], rows[start][:, schema.action])
    recorded = torch.zeros(len(rows), device=device)
    for k in range(1, int(length.max())):
        at = start + length.sub(1).clamp(max=k)
        now = rows[at]
        earned, _ = rewards.compute(now[:, schema.state], now[:, schema.contact], now[:, schema.action], command[at])
        running = length > k
        recorded[at[running]] = earned[running]
    return recorded
