"""Behaviours that need no training: a trot out of sines, wandering actions, and mixtures of these."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.behaviour_base import Behaviour, BehaviourContext, Mixture, Noisy
from rwmrl.envs.base import Observations

COMMAND = slice(9, 12)
"""Columns of the command in the ``policy`` observation."""


class SmoothedRandom(Behaviour):
    """Actions that wander: an Ornstein-Uhlenbeck process per joint.

    Strength and memory are drawn per episode; the stationary standard deviation is the strength.
    """

    def __init__(self, context: BehaviourContext, strength: tuple[float, float], name: str = "wander") -> None:
        self.name, self.strength, self._context = name, strength, context
        self.num_envs = context.num_envs
        self.action = torch.zeros(self.num_envs, len(context.robot.joints))
        self._keep = torch.zeros(self.num_envs, 1)
        self._std = torch.zeros(self.num_envs, 1)
        self.reset(torch.arange(self.num_envs))

    def reset(self, env_ids: Tensor) -> None:
        """Start from zero with a new strength and memory (time constant 0.04-0.4 s)."""
        count = len(env_ids)
        time_constant_s = self._context.uniform(count, 0.04, 0.4)
        self._keep[env_ids] = torch.exp(-self._context.robot.control_dt_s / time_constant_s)
        self._std[env_ids] = self._context.uniform(count, *self.strength)
        self.action[env_ids] = 0.0

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        noise = torch.randn(self.action.shape, generator=self._context.generator)
        self.action = self._keep * self.action + self._std * (1 - self._keep.square()).sqrt() * noise
        return self.action


class ScriptedTrot(Behaviour):
    """An open-loop trot: diagonal legs swing together, the stride follows the command.

    Works for any quadruped whose joints are listed hip roll, hip pitch, knee, leg by leg, with hip roll about +x and
    hip pitch about +y. Phase, frequency, lift and stride are drawn per episode, around values found by a search on
    ANYmal D and scaled by the robot's height.
    """

    name = "trot"
    lead_rad = 0.9
    """The stride runs ahead of the lift by this much of the cycle, for the lag of the drives."""
    stance_share = 0.2
    """A leg lifts while the sine of its phase exceeds this: longer stance than swing."""
    push = 0.1
    """Stretch of a stance leg, rad: two legs carry what four did, and the drives give way."""

    def __init__(self, context: BehaviourContext) -> None:
        robot = context.robot
        if not can_trot(robot):
            legs, joints = len(robot.legs), len(robot.joints)
            fault = f"The scripted trot needs four legs of three joints; {robot.name} has {legs} legs, {joints} joints"
            raise RwmError(f"{fault}.", "--policy wander")
        self._context, self.num_envs = context, context.num_envs
        self._foot_x, self._foot_y = torch.tensor(robot.foot_positions_m).unbind(dim=1)
        front, left = self._foot_x > 0, self._foot_y > 0
        self._offset = torch.where(front == left, 0.0, math.pi)
        self._bend = torch.sign(torch.tensor(robot.default_joint_pos).unflatten(0, (3, -1))[1:])
        self._phase, self._frequency, self._lift, self._stride = (torch.zeros(context.num_envs, 1) for _ in range(4))
        self.reset(torch.arange(context.num_envs))

    def reset(self, env_ids: Tensor) -> None:
        """Draw phase, frequency (about 2.5 Hz at 0.6 m), lift (rad) and stride (s of commanded velocity)."""
        draw, count, height = self._context.uniform, len(env_ids), self._context.robot.base_height_m
        self._phase[env_ids] = draw(count, 0.0, 2 * math.pi)
        self._frequency[env_ids] = draw(count, 0.57, 0.70) * math.sqrt(9.81 / height)
        self._lift[env_ids] = draw(count, 0.25, 0.4)
        self._stride[env_ids] = draw(count, 1.0, 1.8) / (4 * self._frequency[env_ids])

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        robot = self._context.robot
        turn = 2 * math.pi * self._frequency * robot.control_dt_s
        self._phase = torch.remainder(self._phase + turn, 2 * math.pi)
        phase = self._phase + self._offset
        command_x, command_y, yaw_rate = observations["policy"][:, COMMAND].unsqueeze(-1).unbind(dim=1)
        # Speed of the ground under each foot; a foot swings ahead to meet it.
        forward = command_x - yaw_rate * self._foot_y
        sideways = command_y + yaw_rate * self._foot_x
        swing = -torch.cos(phase + self.lead_rad) * self._stride / robot.base_height_m
        height = torch.sin(phase)
        lift = (height - self.stance_share).clamp(min=0) / (1 - self.stance_share) * self._lift
        lift = lift + (height + self.stance_share).clamp(max=0) * self.push
        roll, pitch, knee = swing * sideways, lift * self._bend[0] - swing * forward, 2 * lift * self._bend[1]
        return torch.cat((roll, pitch, knee), dim=1) / robot.action_scale


def can_trot(robot: RobotSpec) -> bool:
    """Return whether a robot has what :class:`ScriptedTrot` moves."""
    return len(robot.legs) == 4 and len(robot.joints) == 12


def scripted(context: BehaviourContext) -> Behaviour:
    """Return the mixture that steps, stumbles and falls: trots with little and with much noise, and noise alone.

    A robot that cannot trot sways about its default pose instead.
    """
    if not can_trot(context.robot):
        sway, wander = SmoothedRandom(context, (0.0, 0.3), "sway"), SmoothedRandom(context, (0.1, 1.0))
        return Mixture((sway, wander), (0.6, 0.4), context)
    parts = (
        Noisy(ScriptedTrot(context), SmoothedRandom(context, (0.0, 0.3)), "trot"),
        Noisy(ScriptedTrot(context), SmoothedRandom(context, (0.25, 0.75)), "stumble"),
        SmoothedRandom(context, (0.1, 1.0)),
    )
    return Mixture(parts, (0.6, 0.25, 0.15), context)
