"""What the names of a log's columns say: quantity, axis, joint or leg, number, frame."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from rwmdata.errors import RwmError
from rwmdata.formats.mapping import Mapping, Source

WORLD = {"world", "map", "global", "mocap", "vicon", "optitrack", "inertial"}
ODOMETRY, TWIST = {"odom", "odometry"}, "twist"
OF_IMU = {"gyro", "gyroscope", "imu"}
"""What an IMU measures is in its own frame, whatever else a name says."""
ACCELEROMETER = {"acc", "accel", "acceleration", "accelerometer", "accelerations"}

SECONDS = {"sec", "secs", "seconds", "s"}
FRACTIONS = {"nanosec": 1e-9, "nsec": 1e-9, "nsecs": 1e-9, "nanosecs": 1e-9, "nanoseconds": 1e-9, "ns": 1e-9,
             "usec": 1e-6, "usecs": 1e-6, "microsec": 1e-6, "microseconds": 1e-6, "us": 1e-6}  # fmt: skip
"""Words for the fraction of a second that stands in a column of its own, in s."""
TIME = {"time", "t", "stamp", "stamps", "timestamp", "timestamps", "secs", "clock", "millis", "elapsed"}
DESIRED = {"des", "desired", "target", "targets", "cmd", "command", "ref", "reference", "setpoint", "goal",
           "qref", "qdes", "qcmd", "qtarget"}  # fmt: skip
OTHERS = {"kp", "kd", "temp", "temperature", "ff", "feedforward", "ddq", "qdd", "error", "err", "cov", "covariance",
          "dqdes", "dqref", "dqcmd", "taudes", "tauref", "taucmd", "tauff"}  # fmt: skip
POSITION = {"q", "qpos", "jpos", "pos", "position", "positions", "angle", "angles", "qj", "theta"}
VELOCITY = {"dq", "qd", "qvel", "jvel", "vel", "velocity", "velocities", "speed", "dqj", "qdot", "dot",
            "dtheta", "thetadot"}  # fmt: skip
TORQUE = {"tau", "torque", "torques", "effort", "efforts", "trq", "tauest", "jtau", "load"}


LARGEST_BASE = 4
"""Numbers of a quaternion, or contacts of feet."""


@dataclass(frozen=True)
class Quantity:
    """How columns of a quantity are called."""

    names: tuple[str, ...]
    """All words of one of these names, the most specific first; "" where axes and joints say enough."""
    never: frozenset[str] = frozenset()
    """Words of other quantities."""

    def named(self, columns: Iterable[str], ends: list[str]) -> list[str]:
        """Return the columns with a word of this quantity and each of ``ends`` (axes, joints, legs), or none."""
        of = {column: words(column) for column in columns}
        possible = {column: found for column, found in of.items() if not found & self.never}
        for name in self.names:
            fits = [[c for c, found in possible.items() if {*name.split(), *ends_words(e)} <= found] for e in ends]
            matches = [min(some, key=len) for some in fits if some]
            if len(matches) == len(ends) == len(set(matches)):
                return matches
        return []

    def fits(self, found: Set[str], count: int, wanted: int) -> bool:
        """Return whether ``count`` numbered columns with these words hold it, of which ``wanted`` are needed.

        A driver's array may have room for more joints than the robot has; what is of the base has no more than needed.
        """
        enough = count == wanted or (count > wanted and wanted > LARGEST_BASE)
        return enough and not found & self.never and any(name and {*name.split()} <= found for name in self.names)


def ends_words(end: str) -> set[str]:
    """Return the words of the name of an axis, joint or leg."""
    return {w for w in re.split(r"[^a-z0-9]+", end.lower()) if w}


def _quantity(names: Iterable[str], *never: Iterable[str]) -> Quantity:
    return Quantity(tuple(names), frozenset(word for some in never for word in some))


BASE = {"joint", "joints", "motor", "foot", "feet"}
QUANTITIES = {
    "base_lin_vel": _quantity(
        ("lin vel", "linvel", "linear velocity", "base vel", "vel", "velocity", "v"),
        {"ang", "angular", "angvel"}, DESIRED, OTHERS, BASE),
    "base_ang_vel": _quantity(
        ("ang vel", "angvel", "angular velocity", "gyro", "gyroscope", "omega", "w"), DESIRED, OTHERS, BASE),
    "projected_gravity": _quantity(("projected gravity", "gravity", "grav", "g"), OTHERS, BASE),
    "quaternion": _quantity(("quat", "quaternion", "orientation", "rotation", "q"), DESIRED, OTHERS, BASE),
    "roll_pitch_yaw": _quantity(
        ("rpy", "euler", ""),
        {"rate", "vel", "velocity", "speed", "gyro", "acc"}, DESIRED, OTHERS, BASE),
    "accelerometer": _quantity(
        ("accelerometer", "acc", "accel", "linear acceleration", "acceleration"), DESIRED, OTHERS, BASE),
    "joint_pos": _quantity(
        ("joint pos", "position", "pos", "qpos", "q", *sorted(POSITION)), VELOCITY, TORQUE, DESIRED, OTHERS),
    "joint_vel": _quantity(
        ("joint vel", "velocity", "vel", "qvel", "dq", "qd", *sorted(VELOCITY)), TORQUE, DESIRED, OTHERS),
    "joint_torque": _quantity(("torque", "effort", "tau", *sorted(TORQUE)), DESIRED, OTHERS),
    "action": _quantity(
        ("action", "actions", "act", "a", "target", "targets", "command", "cmd", "des", "desired", "ref", "setpoint",
         "qdes", "qref", "qcmd", "qtarget"),
        VELOCITY, TORQUE, OTHERS),
    "thigh_contact": _quantity(("thigh contact", "thigh"), POSITION, VELOCITY, TORQUE, DESIRED, OTHERS),
    "foot_contact": _quantity(
        ("foot contact", "foot force", "foot", "feet", "contact", "grf"), POSITION, VELOCITY, DESIRED, OTHERS),
    "termination": _quantity(("termination", "terminated", "done", "fall", "fell")),
}  # fmt: skip
"""By group, and by what can stand for gravity."""


@dataclass(frozen=True)
class Family:
    """Columns whose names differ in one number only, or in two, from 0 or 1 on."""

    words: frozenset[str]
    columns: list[str]


def families(columns: Iterable[str]) -> list[Family]:
    """Return the families of numbered columns; of a name's numbers the one that counts is the one that varies most."""
    members: dict[tuple[str, str], dict[int, str]] = {}
    for column in columns:
        for match in re.finditer(r"\d+", column):
            key = (column[: match.start()], column[match.end() :])
            members.setdefault(key, {})[int(match[0])] = column
    found = []
    for (before, after), by_number in members.items():
        numbers = sorted(by_number)
        if len(numbers) > 2 and _counted(numbers):
            found.append(Family(frozenset(words(f"{before} {after}")), [by_number[n] for n in numbers]))
    return sorted(found + _grids(columns), key=lambda family: -len(family.columns))


def _counted(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)


def _grids(columns: Iterable[str]) -> list[Family]:
    """Return the families of two numbers, every one of the first with every one of the second: of leg and joint."""
    members: dict[tuple[str, str, str], dict[tuple[int, int], str]] = {}
    for column in columns:
        for one, two in itertools.combinations(re.finditer(r"\d+", column), 2):
            key = (column[: one.start()], column[one.end() : two.start()], column[two.end() :])
            members.setdefault(key, {})[int(one[0]), int(two[0])] = column
    found = []
    for key, by_numbers in members.items():
        first, second = (sorted({numbers[k] for numbers in by_numbers}) for k in (0, 1))
        whole = len(by_numbers) == len(first) * len(second) and len(first) > 1 and len(second) > 1
        if whole and _counted(first) and _counted(second):
            found.append(Family(frozenset(words(" ".join(key))), [by_numbers[n] for n in sorted(by_numbers)]))
    return found


def tokens(text: str) -> list[str]:
    """Return the words and numbers of a name in order: ``motorState[3].q`` is motor, state, 3, q."""
    return re.findall(r"[a-z]+|\d+", _apart(text).lower())


def _apart(text: str) -> str:
    """Return a name with its capitalised words apart: ``FLHipPos`` as ``FL_Hip_Pos``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)


def words(column: str) -> set[str]:
    """Return a column name's words, those joined by digits too; ``vx`` is also ``v`` and ``x``."""
    found = {w for w in re.split(r"[^a-z0-9]+", f"{_apart(column)} {column}".lower()) if w}
    found |= set(tokens(column))
    short = [re.fullmatch(r"(v|w|g|q|vel|omega|gyro|acc|grav|gravity|quat)([wxyz])", w) for w in found]
    return found | {part for m in short if m for part in m.groups()}


def clock_pairs(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of columns that differ in one word only, one for seconds, the other for their fraction."""
    by_rest: dict[tuple[str, ...], list[str]] = {}
    for column in columns:
        if SECONDS & {*tokens(column)}:
            by_rest.setdefault(tuple(t for t in tokens(column) if t not in SECONDS), []).append(column)
    fractions = [(c, tuple(t for t in tokens(c) if t not in FRACTIONS)) for c in columns if fraction_of(c)]
    return [(second, column) for column, rest in fractions for second in by_rest.get(rest, [])]


def fraction_of(column: str) -> float | None:
    """Return the unit of a column for the fraction of a second, s; None where its name says none."""
    return next((FRACTIONS[token] for token in reversed(tokens(column)) if token in FRACTIONS), None)


def quaternion_order(columns: list[str]) -> str | None:
    """Return the order of four columns that end in w, x, y, z; None where they do not."""
    order = "".join(tokens(column)[-1][-1] if tokens(column) else "" for column in columns)
    return order if sorted(order) == sorted("wxyz") else None


def frame_told(columns: Sequence[str]) -> tuple[Literal["world", "base", "unclear"] | None, str]:
    """Return the frame of a velocity by the names of its columns, and the word that tells it.

    The twist of a ROS odometry message is in its child frame, the base; other odometry may be in either.
    """
    found = {word for column in columns for word in words(column)}
    if found & OF_IMU:
        return None, ""
    if found & ODOMETRY:
        return ("base" if TWIST in found else "unclear"), min(found & ODOMETRY)
    return ("world", min(found & WORLD)) if found & WORLD else (None, "")


def told_by_names(mapping: Mapping, columns: dict[str, list[str]]) -> tuple[Mapping, list[str]]:
    """Return a mapping with the orders and frames that its columns' names tell, and what they told, for the notes.

    Args:
        mapping: The mapping.
        columns: Names of the columns by group, and of the orientation.

    Raises:
        RwmError: A quaternion's order is not told, or contradicts the mapping; the frame of a velocity is not clear.
    """
    groups: dict[str, Source] = dict(mapping.groups)
    notes: list[str] = []
    orientation = mapping.orientation
    if "projected_gravity" in groups:
        groups["projected_gravity"] = _orientation(groups["projected_gravity"], columns["projected_gravity"], notes)
    if orientation:
        orientation = _orientation(orientation, columns["orientation"], notes)
    for group in ("base_lin_vel", "base_ang_vel"):
        source = groups.get(group)
        if source is None or source.frame is not None:
            continue
        frame, word = frame_told(columns[group])
        if frame == "unclear":
            fault = f"'{group}' may be in the frame of the odometry or in the base's; {columns[group][0]} does not tell"
            raise RwmError(f"{fault}.", f"frame: base or frame: world under {group} (a ROS odometry's twist: base)")
        if frame == "world":
            groups[group] = source.model_copy(update={"frame": "world"})
            notes.append(f"{group} is in the world frame by its name ('{word}'); it was rotated into the base frame")
        elif frame == "base":
            notes.append(f"{group} is the twist of an odometry, taken to be in the base frame; frame: world, if not")
    return mapping.model_copy(update={"groups": groups, "orientation": orientation}), notes


def _orientation(source: Source, columns: list[str], notes: list[str]) -> Source:
    told = quaternion_order(columns) if len(columns) == 4 else None
    if source.kind == "values" and len(columns) == 4 and told:
        notes.append(f"projected_gravity is a quaternion by the names of its columns, {', '.join(columns)}")
        source = source.model_copy(update={"kind": "quaternion"})
    if source.kind == "values":
        if len(columns) == 4:
            fault = f"'projected_gravity' has four columns, {', '.join(columns)}; gravity has three."
            raise RwmError(fault, "kind: quaternion with order: wxyz or xyzw, if they are one")
        if ACCELEROMETER & {w for c in columns for w in words(c)}:
            notes.append("projected_gravity is the accelerometer at each moment; kind: accelerometer averages it")
    if source.kind != "quaternion":
        return source
    if told not in (None, "wxyz", "xyzw") or (source.order and told and told != source.order):
        fault = f"The columns {', '.join(columns)} are in the order {told}, the mapping says {source.order or 'none'}."
        raise RwmError(fault, "the columns in the order w, x, y, z")
    if source.order is None and told is None:
        fault = f"The names {', '.join(columns)} do not say in which order the quaternion is."
        raise RwmError(fault, "order: wxyz or order: xyzw")
    return source.model_copy(update={"order": source.order or told})
