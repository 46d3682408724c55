"""Isaac Lab's stock recorder: initial state, then actions and next states; its conventions, found and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.formats.mapping import drive_torque
from rwmdata.formats.orientation import rotation
from rwmdata.motion import Agreement, agreement
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema

if TYPE_CHECKING:
    import h5py

QUATERNIONS = {"wxyz": (0, 1, 2, 3), "xyzw": (3, 0, 1, 2)}
"""Orders of a quaternion's numbers: where w, x, y and z are."""
XYZW_SINCE = 1
"""``format_version`` of files whose quaternions are x y z w; older ones have no version."""
STATES = ("root_pose", "root_velocity", "joint_position", "joint_velocity")
SAMPLE_ROWS = 20_000
"""Rows of a file that its conventions are found from."""
TURNED_RAD = 0.3
"""Orientation says nothing about the order of its numbers until the base has turned by this much in all."""
TURNS_LIKE = 0.7
"""Least cosine between recorded turning and angular velocity with quaternions in the right order."""


@dataclass(frozen=True)
class Origin:
    """What a file says about itself; None where it does not."""

    task: str | None = None
    hz: float | None = None
    quaternions: str | None = None


def origin_of(content: h5py.File) -> Origin:
    """Return what an open file says about task, rate (physics dt x decimation) and quaternions."""
    data = content.get("data")
    attributes = dict(content.attrs) | (dict(data.attrs) if data is not None else {})
    told = _parsed(attributes.pop("env_args", None))
    every = list(_items(told)) + list(attributes.items())
    numbers: dict[str, float] = {}
    for key, value in every:
        if isinstance(value, int | float | np.number) and not isinstance(value, bool) and value > 0:
            numbers.setdefault(key, float(value))
    hz = next((numbers[k] for k in ("control_freq", "control_hz", "rate_hz", "fps") if k in numbers), None)
    if "dt" in numbers and "decimation" in numbers:
        hz = 1 / (numbers["dt"] * numbers["decimation"])
    hz = hz or (1 / numbers["step_dt"] if "step_dt" in numbers else None)
    task = next((str(v) for k, v in every if k == "env_name" and v), None)
    version = attributes.get("format_version")
    known = isinstance(version, int | np.integer) and version >= XYZW_SINCE
    return Origin(task, hz, "xyzw" if known else None)


def _parsed(text: object) -> Mapping[str, object]:
    try:
        value = json.loads(text) if isinstance(text, str | bytes) else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _items(told: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Give the entries of nested dicts, outer ones first."""
    yield from told.items()
    for value in told.values():
        if isinstance(value, dict):
            yield from _items(value)


class Recorder:
    """Reads demos of one recording.

    Args:
        robot: The robot.
        schema: Columns of its rows.
        quaternions: ``wxyz`` or ``xyzw``.
        joints: Order of the joints in the recording.
    """

    def __init__(self, robot: RobotSpec, schema: Schema, quaternions: str, joints: Sequence[str]) -> None:
        self.robot, self.schema = robot, schema
        self._quaternion = list(QUATERNIONS[quaternions])
        self._joints = [list(joints).index(name) for name in robot.joints]

    def rows(self, demo: RecordedDemo) -> np.ndarray:
        """Return a demo's rows ``(T, width)``; contacts and termination are zero, torques those of the drive."""
        axes = rotation(demo.states["root_pose"][:, 3:][:, self._quaternion])
        position = demo.states["joint_position"][:, self._joints] - np.array(self.robot.default_joint_pos)
        velocity, action = demo.states["joint_velocity"][:, self._joints], demo.actions[:, self._joints]
        twist = np.split(demo.states["root_velocity"], 2, axis=1)
        linear, angular = (np.einsum("nij,ni->nj", axes, part) for part in twist)
        torque = drive_torque(self.robot, action, position, velocity)
        groups = {"base_lin_vel": linear, "base_ang_vel": angular, "projected_gravity": -axes[:, 2], "action": action}
        groups |= {"joint_pos": position, "joint_vel": velocity, "joint_torque": torque}
        rows = np.zeros((len(action), self.schema.width), np.float32)
        for group, values in groups.items():
            rows[:, self.schema.group(group)] = values
        return rows


@dataclass(frozen=True)
class RecordedDemo:
    """One demo as it was recorded, every row a state and the action that led to it (zeros for an initial state)."""

    actions: np.ndarray
    """``(T, J)``"""
    states: Mapping[str, np.ndarray]
    """By the names in ``STATES``: world position (m) and quaternion ``(T, 7)``, linear (m/s) and angular (rad/s)
    velocity in the world frame ``(T, 6)``, absolute joint positions (rad) and velocities (rad/s) ``(T, J)``."""


def quaternion_order(demos: Sequence[RecordedDemo], told: str | None, where: str) -> tuple[str, str | None]:
    """Return the order of the quaternions' numbers, and a note where the file does not say it.

    In the right order the base turns as its angular velocity says, and stands on its feet more often than on its back.
    Which of the orders do that is looked up in the recording; where both do, what the file says decides.

    Args:
        demos: The recording, or a part of it.
        told: What the file says; without it, version 2's ``wxyz`` is presumed.
        where: Names the file in errors.

    Raises:
        RwmError: The recording fits neither order, or not the one that the file says.
    """
    fits = {order: _fit(demos, columns) for order, columns in QUATERNIONS.items()}
    possible = [order for order, (turning, upright, moved) in fits.items() if upright and (turning or not moved)]
    presumed = told or "wxyz"
    if presumed in possible:
        return presumed, None
    if not possible or told:
        texts = [f"as {order} {_said(*fit)}" for order, fit in fits.items()]
        fault = f"{where}: the base's orientation is not plausible: {', '.join(texts)}"
        raise RwmError(f"{fault}{', and the file says ' + told if told else ''}.", "--quaternions wxyz or xyzw")
    return possible[0], f"quaternions are read as {possible[0]}: the file does not say so, its motion does"


def _said(turning: bool, upright: bool, moved: bool) -> str:
    faults = ["it turns unlike its angular velocity"] if moved and not turning else []
    return " and ".join(faults + ([] if upright else ["gravity points up"])) or "it fits"


def _fit(demos: Sequence[RecordedDemo], columns: Sequence[int]) -> tuple[bool, bool, bool]:
    """Return whether orientations turn as the angular velocity says, are upright, and turn at all."""
    turned, rates, down = [], [], []
    for demo in demos:
        axes = rotation(demo.states["root_pose"][:, 3:][:, list(columns)])
        step = axes[1:] @ axes[:-1].transpose(0, 2, 1)
        turned.append(0.5 * np.stack([step[:, i, j] - step[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1))
        angular = demo.states["root_velocity"][:, 3:]
        rates.append(0.5 * (angular[1:] + angular[:-1]))
        down.append(axes[:, 2, 2])
    change = np.concatenate(turned)
    found: Agreement = agreement(change, np.concatenate(rates), 1.0)
    moved = bool(np.abs(change).sum() > TURNED_RAD)
    return found.cosine > TURNS_LIKE, bool(np.concatenate(down).mean() > 0), moved
