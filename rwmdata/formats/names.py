"""What the names of a log's columns say: quantity, axis, joint or leg, number, frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass

from rwmdata.errors import RwmError
from rwmdata.formats.mapping import Mapping, Source

WORLD = {"world", "odom", "map", "global", "mocap", "vicon", "optitrack", "inertial"}
ACCELEROMETER = {"acc", "accel", "acceleration", "accelerometer", "accelerations"}

TIME = {"time", "t", "stamp", "stamps", "timestamp", "timestamps", "secs", "clock", "millis", "elapsed"}
DESIRED = {"des", "desired", "target", "targets", "cmd", "command", "ref", "reference", "setpoint", "goal"}
OTHERS = {"kp", "kd", "temp", "temperature", "ff", "feedforward", "ddq", "qdd", "error", "err", "cov", "covariance"}
POSITION = {"q", "qpos", "jpos", "pos", "position", "positions", "angle", "angles", "qj"}
VELOCITY = {"dq", "qd", "qvel", "jvel", "vel", "velocity", "velocities", "speed", "dqj", "qdot"}
TORQUE = {"tau", "torque", "torques", "effort", "efforts", "trq", "tauest", "jtau"}


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
        ("action", "actions", "act", "a", "target", "targets", "command", "cmd", "des", "desired", "ref", "setpoint"),
        VELOCITY, TORQUE, OTHERS),
    "thigh_contact": _quantity(("thigh contact", "thigh")),
    "foot_contact": _quantity(("foot contact", "foot force", "foot", "feet", "contact", "grf"), POSITION, VELOCITY),
    "termination": _quantity(("termination", "terminated", "done", "fall", "fell")),
}  # fmt: skip
"""By group, and by what can stand for gravity."""


@dataclass(frozen=True)
class Family:
    """Columns whose names differ in one number only, from 0 or 1 on."""

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
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1):
            found.append(Family(frozenset(words(f"{before} {after}")), [by_number[n] for n in numbers]))
    return sorted(found, key=lambda family: -len(family.columns))


def tokens(text: str) -> list[str]:
    """Return the words and numbers of a name in order: ``motorState[3].q`` is motor, state, 3, q."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
    return re.findall(r"[a-z]+|\d+", apart.lower())


def words(column: str) -> set[str]:
    """Return a column name's words, those joined by digits too; ``vx`` is also ``v`` and ``x``."""
    found = {w for w in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()) if w}
    found |= set(tokens(column))
    short = [re.fullmatch(r"(v|w|g|q|vel|omega|gyro|acc|grav|gravity|quat)([wxyz])", w) for w in found]
    return found | {part for m in short if m for part in m.groups()}


def quaternion_order(columns: list[str]) -> str | None:
    """Return the order of four columns that end in w, x, y, z; None where they do not."""
    order = "".join(tokens(column)[-1][-1] if tokens(column) else "" for column in columns)
    return order if sorted(order) == sorted("wxyz") else None


def told_by_names(mapping: Mapping, columns: dict[str, list[str]]) -> tuple[Mapping, list[str]]:
    """Return a mapping with the orders and frames that its columns' names tell, and what they told, for the notes.

    Args:
        mapping: The mapping.
        columns: Names of the columns by group, and of the orientation.

    Raises:
        RwmError: A quaternion's order is not told, or contradicts the mapping.
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
        if source and source.frame is None and (said := WORLD & {w for c in columns[group] for w in words(c)}):
            groups[group] = source.model_copy(update={"frame": "world"})
            notes.append(
                f"{group} is in the world frame by its name ('{min(said)}'); it was rotated into the base frame"
            )
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
