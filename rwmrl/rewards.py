"""Reward terms of the velocity task, shared by the simulator and imagination.

Reward = dt * sum of weight * term (arXiv:2504.16680, reward table; Isaac Lab's flat velocity task).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema
from rwmrl.snapshots import Snapshot, copies, like, put_back

TRACKING_VARIANCE = 0.25
"""Denominator of both tracking exponentials, (m/s)^2 and (rad/s)^2."""
AIR_TIME_THRESHOLD_S = 0.5
"""Steps longer than this are rewarded, shorter ones punished; a robot may have another for a task."""
MOVING_COMMAND = 0.1
"""Air time pays only where |commanded xy velocity| exceeds this, m/s."""
STANDING_COMMAND = 0.05
"""Below this |command| the robot is asked to stand still."""
SOFT_LIMIT_FACTOR = 0.9
"""Share of a joint's range that is free of the limit penalty."""

TERMS = (
    "track_lin_vel_xy_exp", "track_ang_vel_z_exp", "lin_vel_z_l2", "ang_vel_xy_l2", "dof_torques_l2", "dof_acc_l2",
    "action_rate_l2", "feet_air_time", "undesired_contacts", "flat_orientation_l2", "stand_still", "dof_pos_limits",
    "gait",
)  # fmt: skip
"""The terms of the reward table, and ``gait``, which only shapes training in a simulator: 1 while diagonal feet share
their contact and neighbours do not (a trot), -1 the other way round (a bound), 0 when all feet agree. Of two feet each
is its own diagonal: 1 while one carries and the other swings."""


class FeetAirTime:
    """How long each foot has been off the ground."""

    def __init__(self, num_envs: int, legs: int, control_dt_s: float, device: torch.device) -> None:
        self.dt = control_dt_s
        self.air_time = torch.zeros(num_envs, legs, device=device)

    def update(self, contact: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one step's foot contacts ``(E, L)`` bool.

        Returns:
            First contact ``(E, L)`` bool: the foot was in the air and has just landed; and the air time that ended
            with it, s, ``(E, L)``.
        """
        self.air_time += self.dt
        first_contact = contact & (self.air_time > self.dt)
        last_air_time = self.air_time.clone()
        self.air_time.masked_fill_(contact, 0.0)
        return first_contact, last_air_time

    def reset(self, env_ids: Tensor, contacts: Tensor | None = None) -> None:
        """Set the air time of ``env_ids (n,)`` to that after recorded contacts ``(n, M, L)`` bool; without, to zero."""
        if contacts is None:
            self.air_time[env_ids] = 0.0
        else:
            since = contacts.flip(1).cumsum(dim=1) == 0  # The steps after the last contact.
            self.air_time[env_ids] = since.sum(dim=1) * self.dt


class RewardModel:
    """Computes the reward of E environments; remembers previous joint velocity, action and air time.

    ``weights`` override the robot's by term name; a step as long as ``air_time_threshold_s`` earns nothing.

    Attributes:
        episode_sums: Each weighted term times dt, summed over the running episode, ``(E,)``.

    Raises:
        RwmError: A weight's name is not a reward term.
    """

    def __init__(
        self,
        robot: RobotSpec,
        schema: Schema,
        num_envs: int,
        device: torch.device,
        weights: Mapping[str, float] | None = None,
        air_time_threshold_s: float = AIR_TIME_THRESHOLD_S,
    ) -> None:
        self.air_time_threshold_s = air_time_threshold_s
        self.weights = dict(robot.reward_weights) | dict(weights or {})
        unknown = sorted(set(self.weights) - set(TERMS))
        if unknown:
            raise RwmError(
                f"Unknown reward term {', '.join(unknown)}; terms: {', '.join(TERMS)}.", "--reward TERM=WEIGHT"
            )
        self.schema, self.dt = schema, robot.control_dt_s
        self.episode_sums = {k: torch.zeros(num_envs, device=device) for k, w in self.weights.items() if w != 0.0}
        self.air_time = FeetAirTime(num_envs, len(robot.legs), self.dt, device)
        self.joint_vel = torch.zeros(num_envs, len(robot.joints), device=device)
        self.action = torch.zeros(num_envs, len(robot.joints), device=device)
        limits = torch.tensor(robot.joint_pos_limits, device=device)
        default = torch.tensor(robot.default_joint_pos, device=device)
        middle, half = limits.mean(dim=1) - default, (limits[:, 1] - limits[:, 0]) * 0.5 * SOFT_LIMIT_FACTOR
        self.lower, self.upper = middle - half, middle + half
        feet = torch.tensor(robot.foot_positions_m, device=device)
        feet = feet - feet.mean(dim=0)
        self.across = torch.cdist(feet * feet.new_tensor([1.0, -1.0]), feet).argmin(dim=1)
        diagonal = torch.cdist(-feet, feet).argmin(dim=1)
        self.diagonal = torch.where(diagonal == self.across, torch.arange(len(feet), device=device), diagonal)

    def reset(
        self, env_ids: Tensor, state: Tensor, action: Tensor | None = None, contacts: Tensor | None = None
    ) -> None:
        """Start new episodes in ``env_ids (n,)``, whose first states are ``state (n, S)``.

        ``action (n, A)`` is the action before them, zero when None; ``contacts (n, M, C)`` are those of the recorded
        steps up to them, from which follows how long each foot has been in the air already.
        """
        self.joint_vel[env_ids] = state[:, self.schema.group("joint_vel")]
        self.action[env_ids] = 0.0 if action is None else action
        self.air_time.reset(env_ids, None if contacts is None else _feet(contacts))
        for total in self.episode_sums.values():
            total[env_ids] = 0.0

    def state(self) -> Snapshot:
        """Return what is remembered of the step before and summed over the running episodes."""
        sums = {name: total.clone() for name, total in self.episode_sums.items()}
        return {**copies(self, ("joint_vel", "action")), **copies(self.air_time, ("air_time",)), "episode_sums": sums}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state` of a model with the same terms."""
        put_back(self, ("joint_vel", "action"), state)
        put_back(self.air_time, ("air_time",), state)
        self.episode_sums = {name: like(own, state["episode_sums"][name]) for name, own in self.episode_sums.items()}

    def compute(
        self, state: Tensor, contact: Tensor, action: Tensor, command: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reward of one step, and remember what the next one needs.

        Args:
            state: State after the action, ``(E, S)``, physical units.
            contact: Thigh, then foot contacts, ``(E, 2 L)``, 0 or 1.
            action: Raw policy output, ``(E, A)``.
            command: ``(E, 3)``.

        Returns:
            The reward ``(E,)`` and each weighted term times dt, ``(E,)``; terms of weight 0 are left out.
        """
        values = self._terms(state, contact, action, command)
        terms = {k: values[k] * (self.weights[k] * self.dt) for k in self.episode_sums}
        reward = state.new_zeros(len(state))
        for name, term in terms.items():
            self.episode_sums[name] += term
            reward += term
        self.joint_vel = state[:, self.schema.group("joint_vel")].clone()
        self.action = action.clone()
        return reward, terms

    def _terms(self, state: Tensor, contact: Tensor, action: Tensor, command: Tensor) -> dict[str, Tensor]:
        part = {g: state[:, self.schema.group(g)] for g in self.schema.groups[:6]}
        velocity, rate, gravity = part["base_lin_vel"], part["base_ang_vel"], part["projected_gravity"]
        legs = contact.shape[1] // 2
        feet = _feet(contact)
        first_contact, air_time = self.air_time.update(feet)
        landing = ((air_time - self.air_time_threshold_s) * first_contact).sum(dim=-1)
        position = part["joint_pos"]
        moving = command[:, :2].norm(dim=-1) > MOVING_COMMAND
        beyond = (self.lower - position).clamp(min=0) + (position - self.upper).clamp(min=0)
        return {
            "track_lin_vel_xy_exp": torch.exp(-_sum_sq(command[:, :2] - velocity[:, :2]) / TRACKING_VARIANCE),
            "track_ang_vel_z_exp": torch.exp(-(command[:, 2] - rate[:, 2]).square() / TRACKING_VARIANCE),
            "lin_vel_z_l2": velocity[:, 2].square(),
            "ang_vel_xy_l2": _sum_sq(rate[:, :2]),
            "dof_torques_l2": _sum_sq(part["joint_torque"]),
            "dof_acc_l2": _sum_sq((part["joint_vel"] - self.joint_vel) / self.dt),
            "action_rate_l2": _sum_sq(action - self.action),
            "feet_air_time": landing * moving,
            "undesired_contacts": (contact[:, :legs] > 0.5).float().sum(dim=-1),
            "flat_orientation_l2": _sum_sq(gravity[:, :2]),
            "stand_still": position.abs().sum(dim=-1) * (command.norm(dim=-1) < STANDING_COMMAND),
            "dof_pos_limits": beyond.sum(dim=-1),
            "gait": (feet.eq(feet[:, self.diagonal]).float() - feet.eq(feet[:, self.across]).float()).mean(-1) * moving,
        }


def _feet(contact: Tensor) -> Tensor:
    """Return which feet touch the ground, ``(..., L)`` bool, from contacts ``(..., 2 L)``: thighs first."""
    return contact[..., contact.shape[-1] // 2 :] > 0.5


def _sum_sq(x: Tensor) -> Tensor:
    return x.square().sum(dim=-1)
