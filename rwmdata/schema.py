"""What a transition is: named float32 columns in CSV order, derived from a robot's joints and legs.

Row ``t`` holds the state at time ``t`` and *the action that produced it* (Isaac Lab's ``last_action``).
To predict row ``t + 1`` from row ``t`` a model is fed the state of row ``t`` and the action of row ``t + 1``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.robots import NormalizerSpec, RobotSpec

SCHEMA_VERSION = 1
AXES = ("x", "y", "z")
COMMAND_COLUMNS = ("command_lin_vel_x", "command_lin_vel_y", "command_ang_vel_z")
STATE_GROUPS = ("base_lin_vel", "base_ang_vel", "projected_gravity", "joint_pos", "joint_vel", "joint_torque")
CONTACT_GROUPS = ("thigh_contact", "foot_contact")
UNITS = {"base_lin_vel": "m/s", "base_ang_vel": "rad/s", "projected_gravity": "1", "joint_pos": "rad",
         "joint_vel": "rad/s", "joint_torque": "N m", "action": "1", "extension": "1", "thigh_contact": "{0,1}",
         "foot_contact": "{0,1}"}  # fmt: skip
MIN_STD = 1e-6
"""A column with a smaller standard deviation is constant and is divided by 1."""
NormalizerKind = Literal["auto", "reference", "fitted"]
"""The robot's own constants (``reference``), the data's statistics, or the constants where the robot has them."""


@dataclass(frozen=True)
class Column:
    """One float32 column of a transition."""

    name: str
    group: str
    unit: str


@dataclass(frozen=True)
class Schema:
    """Column layout of a robot's transitions: state | action | extension | contact | (terminated).

    ``terminated`` is the last CSV column; at rest it is a boolean column of its own. A *row matrix* is a float32
    array ``(R, width)`` with the columns in this order and ``terminated`` as its last column.
    """

    columns: tuple[Column, ...]
    joints: tuple[str, ...]
    legs: tuple[str, ...]

    @classmethod
    def build(cls, joints: Sequence[str], legs: Sequence[str], extension: Sequence[str] = ()) -> Schema:
        """Return the schema of a legged robot with these joints and legs, and named extension columns."""
        parts = [(STATE_GROUPS[:3], AXES), ((*STATE_GROUPS[3:], "action"), joints)]
        parts += [(("extension",), extension), (CONTACT_GROUPS, legs)]
        columns = [Column(f"{g}_{end}", g, UNITS[g]) for groups, ends in parts for g in groups for end in ends]
        return cls(tuple(columns), tuple(joints), tuple(legs))

    @classmethod
    def from_robot(cls, robot: RobotSpec, extension: Sequence[str] = ()) -> Schema:
        """Return the schema of ``robot``: 66 wide for a quadruped with 12 joints and no extension."""
        return cls.build(robot.joints, robot.legs, extension)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names in CSV order, without ``terminated``."""
        return tuple(c.name for c in self.columns)

    @cached_property
    def csv_names(self) -> tuple[str, ...]:
        """Column names in CSV order, with ``terminated`` last."""
        return (*self.names, "terminated")

    @property
    def width(self) -> int:
        """Width of a row matrix and of a CSV row, ``terminated`` included (66 for ANYmal D)."""
        return len(self.columns) + 1

    @cached_property
    def _slices(self) -> dict[str, slice]:
        bounds: dict[str, tuple[int, int]] = {}
        for i, column in enumerate(self.columns):
            first, _ = bounds.get(column.group, (i, i))
            bounds[column.group] = (first, i + 1)
        slices = {name: slice(*b) for name, b in bounds.items()}
        return slices | {"termination": slice(len(self.columns), len(self.columns) + 1)}

    def group(self, name: str) -> slice:
        """Return the columns of one group, as a slice of the row matrix.

        Raises:
            KeyError: The schema has no such group.
        """
        if name not in self._slices:
            raise KeyError(f"schema has no group '{name}'; groups: {', '.join(self.groups)}")
        return self._slices[name]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Group names in order, ``termination`` last."""
        return tuple(self._slices)

    @cached_property
    def state(self) -> slice:
        """The state columns (45 for a 12-joint robot)."""
        return slice(0, self.group("joint_torque").stop)

    @cached_property
    def action(self) -> slice:
        """The action columns."""
        return self.group("action")

    @cached_property
    def extension(self) -> slice:
        """The extension columns; empty when there are none."""
        return slice(self.action.stop, self.contact.start)

    @cached_property
    def contact(self) -> slice:
        """Thigh contacts, then foot contacts."""
        return slice(self.group("thigh_contact").start, self.group("foot_contact").stop)

    @cached_property
    def termination(self) -> slice:
        """The termination column, the last."""
        return self.group("termination")

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the five parts: state, action, extension, contact, termination."""
        parts = ("state", "action", "extension", "contact", "termination")
        return {p: getattr(self, p).stop - getattr(self, p).start for p in parts}

    def normalizer(self, spec: NormalizerSpec) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std, each ``(state + action,)`` float32, of a robot's reference normaliser."""
        stop = self.action.stop
        mean, std = np.zeros(stop, np.float32), np.ones(stop, np.float32)
        for target, values in ((mean, spec.mean), (std, spec.std)):
            for name, value in values.items():
                target[self.group(name)] = value
        return mean, std

    def choose_normalizer(
        self, kind: NormalizerKind, robot: RobotSpec | None, statistics: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std of state and action, each ``(state + action,)`` float32.

        Args:
            kind: See :data:`NormalizerKind`.
            robot: Whose constants are meant; None needs the kind ``fitted``.
            statistics: Gives mean and standard deviation of the state columns, each ``(state,)``, where they are
                needed. Actions stay at mean 0, std 1.

        Raises:
            RwmError: ``reference`` for a robot that has none.
        """
        if robot is not None and not is_fitted(kind, robot):
            if not robot.normalizer.std:
                raise RwmError(f"Robot '{robot.name}' has no reference normaliser.", "the fitted one")
            return self.normalizer(robot.normalizer)
        mean, std = np.zeros(self.action.stop, np.float32), np.ones(self.action.stop, np.float32)
        mean[self.state], spread = statistics()
        std[self.state] = np.where(spread > MIN_STD, spread, 1.0)
        return mean, std


def is_fitted(kind: NormalizerKind, robot: RobotSpec) -> bool:
    """Return whether a normaliser of that kind is made of the data's statistics."""
    return kind == "fitted" or (kind == "auto" and not robot.normalizer.std)
