"""What the rows of a mapped recording say against its mapping: another rate, other units, another robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rwmdata.consistency import MOVES_LIKE
from rwmdata.errors import RwmError
from rwmdata.formats.spellings import options
from rwmdata.joint_order import robots_like, suspected_robot
from rwmdata.motion import agreement, gravity_changes, joint_changes, steps_of
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema
from rwmdata.text import quoted

SAMPLE_ROWS = 20_000
FEWEST_STEPS = 40
MOST = {"joint_pos": (10.0, "rad", "0.0174533 for degrees"), "base_lin_vel": (20.0, "m/s", "0.001 for mm/s")}
"""What no robot's values are beyond for most of a recording."""
USUAL_SHARE = 0.5
TAKEN_AS_IT_IS = "check: false takes it as it is"


@dataclass
class Sample:
    """The first rows of a recording.

    Args:
        schema: Their columns.
        hz: Their rate.
        missing: Groups that were not recorded.
    """

    schema: Schema
    hz: float
    missing: Sequence[str]
    episodes: list[np.ndarray] = field(default_factory=list)
    """``(n, width)`` each."""
    rows: int = 0

    def add(self, rows: np.ndarray) -> None:
        """Add an episode ``(n, width)``, while the sample is small."""
        if self.rows < SAMPLE_ROWS:
            self.episodes.append(rows)
            self.rows += len(rows)

    def has(self, *groups: str) -> bool:
        """Return whether there are rows, and all of the groups were recorded."""
        return self.rows > 0 and not any(group in self.missing for group in groups)

    def check_units(self) -> None:
        """Refuse values in other units, and rows at another rate.

        Raises:
            RwmError: Joint positions or base velocities are too large for radians and m/s, or joints or gravity change
                by their rates as at another rate.
        """
        rows = np.concatenate(self.episodes) if self.episodes else np.zeros((0, self.schema.width))
        for group, (most, unit, factor) in MOST.items():
            usual = float(np.quantile(np.abs(rows[:, self.schema.group(group)]), USUAL_SHARE)) if self.has(group) else 0
            if usual > most:
                fault = f"'{group}' is beyond {usual:.3g} for half of the recording, which is not in {unit}."
                raise RwmError(fault, f"scale of {group} in the mapping file ({factor}); {TAKEN_AS_IT_IS}")
        length = np.array([len(part) for part in self.episodes], int)
        steps = steps_of(np.cumsum(length) - length, length)
        if len(steps) < FEWEST_STEPS:
            return
        if self.has("joint_pos", "joint_vel"):
            what = "joints move by their velocities", "joint_pos or joint_vel"
            self._check_rate(*joint_changes(rows, self.schema, steps), *what)
        if self.has("projected_gravity", "base_ang_vel"):
            what = "gravity turns by the angular velocity", "base_ang_vel"
            self._check_rate(*gravity_changes(rows, self.schema, steps), *what)

    def _check_rate(self, changes: np.ndarray, rates: np.ndarray, what: str, groups: str) -> None:
        found = agreement(changes, rates, 1 / self.hz)
        if found.cosine > MOVES_LIKE and found.other_unit:
            fault = f"The rows are taken to be at {self.hz:g} Hz, but {what} as at {self.hz * found.factor:.3g} Hz:"
            fault += " the time is in another unit, or one of these quantities is not in radians."
            raise RwmError(fault, f"time_unit, rate_hz, or scale of {groups}, in the mapping file; {TAKEN_AS_IT_IS}")

    def check_robot(self, presumed: RobotSpec) -> None:
        """Refuse a robot that nobody named where the recorded pose is another's.

        Raises:
            RwmError: Its median is far closer to another robot's default pose.
        """
        if not self.has("joint_pos"):
            return
        position = np.concatenate(self.episodes)[:, self.schema.group("joint_pos")]
        pose = np.median(position.astype(np.float64), axis=0) + presumed.default_joint_pos
        if suspected_robot(pose, presumed):
            like = robots_like(pose)
            titles = " or ".join(robot.title for robot in like)
            fault = f"No robot was named, and the joints do not stand as those of {presumed.title} but of {titles}."
            raise RwmError(fault, f"{options(like)}, or --robot {quoted(presumed.name)} to take them as they are")
