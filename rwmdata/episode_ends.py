"""Finding episode ends that a recording does not mark.

Time-outs leave no trace in the termination column, but the next episode's first row cannot follow physically from the
row before it: joints moved further than their velocities allow, gravity turned faster than the base, or the action is
exactly zero between actions that are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwmdata.schema import Schema

JOINT_JUMP_RAD = 0.25
"""Largest joint step the velocities at both ends do not explain, and ..."""
JOINT_JUMP_SUM_RAD = 0.8
"""... the least sum of such steps over the joints: a reset moves the whole pose, an impact few joints."""
STRUCK_RAD_S = 20.0
"""A joint whose velocity changes by more within a control step was struck, and explains nothing: legs of a robot that
falls do this, resets do not."""
GRAVITY_JUMP = 0.25
"""Least change of projected gravity beyond what the angular velocity explains."""
GRAVITY_TURNED = "projected gravity jumps beyond angular velocity * dt"
RESET_JUMP = 0.05
"""With an all-zero action a much smaller unexplained step is enough (rad summed over joints, or gravity)."""


@dataclass(frozen=True)
class EpisodeStart:
    """A row that begins a new episode, 0-based, and why."""

    row: int
    reason: str
    marked: bool
    """The row before carries the termination mark."""


def find_episode_starts(rows: np.ndarray, schema: Schema, control_dt_s: float) -> list[EpisodeStart]:
    """Return every row but the first that begins a new episode.

    Args:
        rows: ``(R, width)`` of one recording, in order.
        schema: Its column layout.
        control_dt_s: Time between rows, s.
    """
    if len(rows) < 2:
        return []
    marked = rows[:-1, -1] > 0.5
    joints = _joint_jump(rows, schema, control_dt_s)
    gravity = _gravity_jump(rows, schema, control_dt_s)
    pose = (joints.max(axis=1) > JOINT_JUMP_RAD) & (joints.sum(axis=1) > JOINT_JUMP_SUM_RAD)
    turned = gravity > GRAVITY_JUMP
    moved = (joints.sum(axis=1) > RESET_JUMP) | (gravity > RESET_JUMP)
    zero = (rows[:, schema.action] == 0).all(axis=1)
    zeroed = zero[1:] & ~zero[:-1] & moved
    reasons = (
        (marked, "termination in the row before"),
        (zeroed, "an all-zero action and a jump in pose"),
        (pose, "joint positions jump beyond velocity * dt"),
        (turned, GRAVITY_TURNED),
    )
    before = np.logical_or.reduce([flag for flag, _ in reasons]).nonzero()[0]
    texts = [" and ".join(text for flag, text in reasons if flag[i]) for i in before]
    return [EpisodeStart(int(i) + 1, text, bool(marked[i])) for i, text in zip(before, texts, strict=True)]


def _joint_jump(rows: np.ndarray, schema: Schema, dt: float) -> np.ndarray:
    """Return |joint step - trapezoid of the joint velocities|, ``(R - 1, J)``, rad; 0 where a joint was struck."""
    position = rows[:, schema.group("joint_pos")]
    velocity = rows[:, schema.group("joint_vel")]
    jump = np.abs(np.diff(position, axis=0) - 0.5 * dt * (velocity[1:] + velocity[:-1]))
    return np.where(np.abs(np.diff(velocity, axis=0)) > STRUCK_RAD_S, 0.0, jump)


def _gravity_jump(rows: np.ndarray, schema: Schema, dt: float) -> np.ndarray:
    """Return |change of gravity + w x g dt| with trapezoid means, ``(R - 1,)``: dg/dt = -w x g in the base frame."""
    gravity = rows[:, schema.group("projected_gravity")]
    rate = rows[:, schema.group("base_ang_vel")]
    turn = np.cross(0.5 * (rate[1:] + rate[:-1]), 0.5 * (gravity[1:] + gravity[:-1]))
    return np.linalg.norm(np.diff(gravity, axis=0) + dt * turn, axis=1)
