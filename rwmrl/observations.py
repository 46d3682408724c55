"""The policy's observation: the same 48 numbers in the simulator, in imagination and on the robot."""

from __future__ import annotations

import torch
from torch import Tensor

from rwmdata.schema import COMMAND_COLUMNS, Schema

NOISE = {"base_lin_vel": 0.1, "base_ang_vel": 0.2, "projected_gravity": 0.05, "joint_pos": 0.01, "joint_vel": 1.5}
"""Half width of the uniform observation noise per group, in the group's unit."""


def policy_observation(state: Tensor, command: Tensor, last_action: Tensor, schema: Schema) -> Tensor:
    """Assemble the observation of the policy.

    Order: base linear velocity, base angular velocity, projected gravity, command, joint position, joint velocity,
    last action.

    Takes ``state (E, S)`` in physical units, ``command (E, 3)`` and ``last_action (E, A)``; returns ``(E, 12 + 3 J)``,
    48 columns for 12 joints.
    """
    base = state[:, : schema.group("projected_gravity").stop]
    joints = state[:, schema.group("joint_pos").start : schema.group("joint_vel").stop]
    return torch.cat((base, command, joints, last_action), dim=-1)


def observation_names(schema: Schema) -> tuple[str, ...]:
    """Return what each entry of :func:`policy_observation` is, ``12 + 3 J`` names in its order."""
    names = schema.names
    base = names[: schema.group("projected_gravity").stop]
    joints = names[schema.group("joint_pos").start : schema.group("joint_vel").stop]
    return (*base, *COMMAND_COLUMNS, *joints, *(f"last_{name}" for name in names[schema.action]))


def noise_scale(schema: Schema, device: torch.device) -> Tensor:
    """Return the half width of the noise on each entry of the observation, ``(12 + 3 J,)``; 0 where there is none."""
    scale = torch.zeros(schema.dims["state"], device=device)
    for group, half_width in NOISE.items():
        scale[schema.group(group)] = half_width
    clean = torch.zeros(schema.dims["action"], device=device)
    return policy_observation(scale[None], torch.zeros(1, 3, device=device), clean[None], schema)[0]


def add_noise(observation: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Return the observation plus uniform noise in +-``scale``."""
    unit = torch.rand(observation.shape, generator=generator, device=observation.device)
    return observation + (2 * unit - 1) * scale


def observation_groups(
    rows: Tensor, command: Tensor, schema: Schema, noise: Tensor | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the five observation groups of ``rows (E, width)`` and ``command (E, 3)``.

    ``noise`` is the half width of the noise on the ``policy`` group, see :func:`noise_scale`; none when None.
    """
    policy = policy_observation(rows[:, schema.state], command, rows[:, schema.action], schema)
    return {
        "policy": policy if noise is None else add_noise(policy, noise, generator),
        "system_state": rows[:, schema.state],
        "system_action": rows[:, schema.action],
        "system_contact": rows[:, schema.contact],
        "system_termination": rows[:, schema.termination],
    }
