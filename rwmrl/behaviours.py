"""Behaviours that collect data: what acts while rollouts are recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import Observations

COMMAND = slice(9, 12)
"""Where the command stands in the policy observation."""


class Behaviour(Protocol):
    """Acts for E environments and says, per environment, what its current episode should be called."""

    labels: list[str]
    """Name of each environment's behaviour in its current episode."""

    def reset(self, env_ids: Tensor) -> None:
        """Start new episodes in ``env_ids``."""

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""


class ScriptedTrot:
    """An open-loop trot whose strides follow the command.

    Diagonal legs swing together. A leg's stride is the hip's velocity under the command (v + yaw rate x position)
    held for one stance; a swinging leg is lifted by bending knee and hip towards the side they are bent to by default.

    Args:
        robot: Joints grouped by kind (abduction, flexion, knee), each in leg order.
        num_envs: E.
        frequency_hz: Strides per second.
        lift_rad: Extra hip flexion at the top of a swing; the knee gets twice as much.
    """

    def __init__(self, robot: RobotSpec, num_envs: int, frequency_hz: float = 2.0, lift_rad: float = 0.3) -> None:
        self.robot, self.frequency_hz, self.lift_rad = robot, frequency_hz, lift_rad
        self.phase = torch.zeros(num_envs)
        legs = len(robot.legs)
        # Legs 0 and 3 are one diagonal, 1 and 2 the other, in both usual leg orders.
        self.offset = torch.tensor([0.0, math.pi, math.pi, 0.0])[:legs]
        self.position = torch.tensor(robot.leg_positions_m)
        self.bend = torch.sign(torch.tensor(robot.default_joint_pos)).view(3, legs)

    def act(self, command: Tensor) -> Tensor:
        """Advance one control step and return actions ``(E, 3 L)`` for ``command (E, 3)``."""
        self.phase = (self.phase + 2 * math.pi * self.frequency_hz * self.robot.control_dt_s) % (2 * math.pi)
        phase = self.phase[:, None] + self.offset
        lift, swing = torch.sin(phase).clamp(min=0), torch.cos(phase)
        half_stride = 1.0 / (4 * self.frequency_hz * self.robot.base_height_m)
        forward = (command[:, :1] - command[:, 2:] * self.position[:, 1]) * half_stride
        sideways = (command[:, 1:2] + command[:, 2:] * self.position[:, 0]) * half_stride
        abduction = -sideways * swing
        flexion = forward * swing + self.lift_rad * lift * self.bend[1]
        knee = 2 * self.lift_rad * lift * self.bend[2]
        return torch.cat((abduction, flexion, knee), dim=-1) / self.robot.action_scale


class SmoothedRandom:
    """Actions that wander: an Ornstein-Uhlenbeck process of unit variance per joint."""

    def __init__(self, num_envs: int, num_actions: int, correlation: float, generator: torch.Generator) -> None:
        self.generator, self.correlation = generator, correlation
        self.value = torch.zeros(num_envs, num_actions)

    def act(self) -> Tensor:
        """Advance one control step and return ``(E, A)``."""
        fresh = torch.randn(self.value.shape, generator=self.generator)
        self.value = self.correlation * self.value + math.sqrt(1 - self.correlation**2) * fresh
        return self.value


class ScriptedMixture:
    """Per episode a trot, a disturbed trot or smoothed random actions, so that data steps, stumbles and falls.

    Args:
        robot: The robot.
        num_envs: E.
        seed: Seed of the draws.
    """

    KINDS = ("trot", "disturbed_trot", "random")
    SHARES = (0.4, 0.35, 0.25)
    NOISE = ((0.0, 0.1), (0.2, 0.6), (0.4, 1.2))
    """Range of the noise's standard deviation in actions, per kind."""

    def __init__(self, robot: RobotSpec, num_envs: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.trot = ScriptedTrot(robot, num_envs)
        self.noise = SmoothedRandom(num_envs, len(robot.joints), correlation=0.9, generator=self.generator)
        self.trot_gain = torch.zeros(num_envs, 1)
        self.noise_std = torch.zeros(num_envs, 1)
        self.labels = [""] * num_envs
        self.reset(torch.arange(num_envs))

    def reset(self, env_ids: Tensor) -> None:
        """Draw kind, noise and phase of new episodes in ``env_ids``."""
        count = len(env_ids)
        kind = torch.multinomial(torch.tensor(self.SHARES), max(count, 1), True, generator=self.generator)[:count]
        low, high = torch.tensor(self.NOISE)[kind].unbind(-1)
        unit = torch.rand(3, count, generator=self.generator)
        self.noise_std[env_ids, 0] = low + unit[0] * (high - low)
        self.trot_gain[env_ids, 0] = torch.where(kind == 2, 0.0, 0.8 + 0.4 * unit[1])
        self.trot.phase[env_ids] = unit[2] * 2 * math.pi
        self.noise.value[env_ids] = 0.0
        for env, k in zip(env_ids.tolist(), kind.tolist(), strict=True):
            self.labels[env] = self.KINDS[k]

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        command = observations["policy"][:, COMMAND]
        return self.trot_gain * self.trot.act(command) + self.noise_std * self.noise.act()


BEHAVIOURS: dict[str, Callable[[RobotSpec, int, int], Behaviour]] = {"scripted": ScriptedMixture}
"""Behaviours by name: built from (robot, number of environments, seed)."""


def make_behaviour(name: str, robot: RobotSpec, num_envs: int, seed: int) -> Behaviour:
    """Build a behaviour by name.

    Raises:
        RwmError: There is no behaviour of that name.
    """
    if name not in BEHAVIOURS:
        raise RwmError(f"Unknown policy '{name}'; policies: {', '.join(BEHAVIOURS)}.", "--policy scripted")
    return BEHAVIOURS[name](robot, num_envs, seed)
