"""What a bag holds for a mapping: its topics by type, and their numbers over the first minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rwmdata.errors import RwmError
from rwmdata.formats.names import DESIRED, ends_words, words
from rwmdata.formats.rosbag_align import align
from rwmdata.formats.rosbag_pieces import stamps_of
from rwmdata.formats.rosbag_reader import bags_in, opened, read_streams
from rwmdata.formats.rosbag_stream import NS, Stream, names_in
from rwmdata.robots import RobotSpec

PREVIEW_S = 60.0
"""A mapping is proposed from the beginning of a bag."""
LARGEST_ARRAY = 64
"""Larger arrays are images, clouds and maps."""
SKIPPED_FIELDS = ("header", "orientation_covariance", "covariance", "layout")
COMMANDS = DESIRED | {"commands", "cmds", "action", "actions"}
JOINT_STATE, IMU, ODOMETRY = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Imu", "nav_msgs/msg/Odometry"


@dataclass
class Preview:
    """The beginning of a bag."""

    bag: Path
    frame: pl.DataFrame
    """All numbers at the moments of one topic."""
    first: dict[str, tuple[str, Any]]
    """Type and first message, by topic."""
    rows_of: str
    stamps: dict[str, np.ndarray]
    """ns, by topic."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """Columns of a group, told by the type of a topic."""

    columns: list[str]
    options: dict[str, object] = field(default_factory=dict)
    said: str = ""


def preview(source: Path) -> Preview:
    """Read the beginning of the first bag.

    Raises:
        RwmError: It is damaged, or holds no numbers.
    """
    bag = bags_in(source)[0] if source.is_dir() else source
    first = _first_messages(bag)
    columns = {topic: list(leaves(topic, message)) for topic, (_, message) in first.items()}
    columns = {topic: names for topic, names in columns.items() if names}
    if not columns:
        raise RwmError(f"{bag} holds no messages of numbers that are defined in it.", "another bag")
    named = [name for names in columns.values() for name in names]
    streams = {t: s for t, s in read_streams(bag, named, None, PREVIEW_S, strict=False).items() if s.count}
    stamps, notes = _stamps(streams, bag)
    joints = [topic for topic in streams if streams[topic].kind == JOINT_STATE and not words(topic) & COMMANDS]
    rows_of = max(joints or streams, key=lambda topic: (len(streams[topic].columns), streams[topic].count))
    frame: dict[str, np.ndarray] = {}
    for topic, stream in streams.items():
        held = np.zeros(len(stream.columns), bool)
        values = align(stamps[rows_of], stamps[topic], stream.values, held, 0.0, np.inf).values
        frame |= dict(zip(stream.columns, values.T, strict=True))
    return Preview(bag, pl.DataFrame(frame), first, rows_of, stamps, notes)


def _stamps(streams: dict[str, Stream], bag: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    try:
        return stamps_of(streams, "header", bag)[0], []
    except RwmError as exc:
        return stamps_of(streams, "received", bag)[0], [f"# {exc}", "stamps: received"]


def _first_messages(bag: Path) -> dict[str, tuple[str, Any]]:
    first: dict[str, tuple[str, Any]] = {}
    with opened(bag, None) as reader:
        stop = reader.start_time + int(PREVIEW_S * NS)
        known = [c for c in reader.connections if c.msgtype in reader.typestore.fielddefs]
        for connection in known:
            if connection.topic not in first:
                _, _, data = next(reader.messages(connections=[connection], stop=stop), (None, 0, None))
                if data is not None:
                    first[connection.topic] = connection.msgtype, reader.deserialize(data, connection.msgtype)
    return first


def leaves(path: str, message: Any) -> Sequence[str]:
    """Return the columns of all numbers in a message, without headers, covariances and large arrays."""
    found: list[str] = []
    names = names_in(message)
    for name in (n for n in message.__dataclass_fields__ if n not in SKIPPED_FIELDS and not n.startswith("__")):
        value = getattr(message, name)
        if hasattr(value, "__dataclass_fields__"):
            found += leaves(f"{path}.{name}", value)
        elif isinstance(value, bool | int | float):
            found.append(f"{path}.{name}")
        elif isinstance(value, np.ndarray | list) and 0 < len(value) <= LARGEST_ARRAY:
            ends = names if len(names) == len(value) else [str(k) for k in range(len(value))]
            if hasattr(value[0], "__dataclass_fields__"):
                found += [c for k, part in enumerate(value) for c in leaves(f"{path}.{name}[{k}]", part)]
            elif not isinstance(value[0], str):
                found += [f"{path}.{name}[{end}]" for end in ends]
    return found


def by_types(seen: Preview, robot: RobotSpec) -> dict[str, Found]:
    """Return the groups that the usual types of messages hold."""
    found: dict[str, Found] = {}
    free = set(seen.frame.columns)
    joints = {t: named for t in _of(seen, JOINT_STATE) if (named := joint_names(names_in(seen.first[t][1]), robot))}
    states = [topic for topic in joints if not words(topic) & COMMANDS]
    fields = {"joint_pos": "position", "joint_vel": "velocity", "joint_torque": "effort"}
    for group, name in fields.items() if states else ():
        columns = [f"{states[0]}.{name}[{joint}]" for joint in joints[states[0]]]
        if {*columns} <= free:
            found[group] = Found(columns, {}, _others(JOINT_STATE, states))
    commands = [topic for topic in joints if words(topic) & COMMANDS]
    if commands:
        columns = [f"{commands[0]}.position[{joint}]" for joint in joints[commands[0]]]
        said = _others(JOINT_STATE, commands)
        found |= {"action": Found(columns, {"kind": "target_position"}, said)} if {*columns} <= free else {}
    imus, odometry = _of(seen, IMU), _of(seen, ODOMETRY)
    if imus:
        said = f"in the frame '{seen.first[imus[0]][1].header.frame_id}' of the IMU; its axes must be the base's"
        said += f"; {_others(IMU, imus)}" if len(imus) > 1 else ""
        found["base_ang_vel"] = Found([f"{imus[0]}.angular_velocity.{axis}" for axis in "xyz"], {}, said)
        if _has_orientation(seen.first[imus[0]][1]):
            found["projected_gravity"] = _quaternion(f"{imus[0]}.orientation")
    if odometry:
        twist, pose = f"{odometry[0]}.twist.twist", f"{odometry[0]}.pose.pose.orientation"
        child = seen.first[odometry[0]][1].child_frame_id
        said = f"by convention in the child frame '{child}'; if your odometry gives it otherwise, frame: world"
        said += f"; {_others(ODOMETRY, odometry)}" if len(odometry) > 1 else ""
        base: dict[str, object] = {"frame": "base"}
        found["base_lin_vel"] = Found([f"{twist}.linear.{axis}" for axis in "xyz"], base, said)
        found.setdefault("base_ang_vel", Found([f"{twist}.angular.{axis}" for axis in "xyz"], base, said))
        found.setdefault("projected_gravity", _quaternion(pose))
    return {group: part for group, part in found.items() if {*part.columns} <= free}


def joint_names(names: Sequence[str], robot: RobotSpec) -> list[str]:
    """Return the names of the robot's joints in a message, in the robot's order; none if one is missing or unclear."""
    matches = [[name for name in names if ends_words(joint) <= words(name)] for joint in robot.joints]
    exact = [
        joint if joint in names else next(iter(some), "") for joint, some in zip(robot.joints, matches, strict=True)
    ]
    return exact if all(exact) and len({*exact}) == len(exact) else []


def clock_lines(seen: Preview, action: str | None) -> list[str]:
    """Return the lines on rows and stamps, and which row an action belongs to.

    Args:
        seen: The bag.
        action: Topic of the actions, if any.
    """
    rows = seen.stamps[seen.rows_of]
    step_s = float(np.median(np.diff(rows))) / NS if len(rows) > 1 else 0.0
    rate = f", {1 / step_s:.4g} Hz" if step_s else ""
    lines = [
        f"# its messages make the rows{rate}; of other topics each row has the latest value",
        f"rows: {seen.rows_of}",
    ]
    lines += seen.notes or ["stamps: header       # or received, the recorder's clock"]
    lines.append("align: held          # or linear: measurements are interpolated, also from the message after a row")
    index, why = "next", "the action of a row is taken in its state; previous: it led to it"
    if action and action != seen.rows_of and action in seen.stamps:
        index, why = _action_index(rows, seen.stamps[action])
    return [*lines, f"action_index: {index}   # {why}"]


def _action_index(rows: np.ndarray, actions: np.ndarray) -> tuple[str, str]:
    """Tell by the age of the latest action at a row whether it led to the row or is taken in it."""
    aligned = align(rows, actions, np.zeros((len(actions), 1)), np.zeros(1, bool), 0.0, np.inf)
    age = float(np.median(aligned.age_ns[aligned.usable])) / 1e6 if aligned.usable.any() else 0.0
    period = float(np.median(np.diff(actions))) / 1e6 if len(actions) > 1 else 0.0
    index = "previous" if age > period / 2 else "next"
    means = "it led to the row" if index == "previous" else "it is taken in the row's state"
    return index, f"the latest action is {age:.3g} ms old at a row, of {period:.3g} ms between two: {means}"


def _of(seen: Preview, kind: str) -> list[str]:
    return sorted(topic for topic, (its, _) in seen.first.items() if its == kind and topic in seen.stamps)


def _others(kind: str, topics: Sequence[str]) -> str:
    return f"also of {kind}: {', '.join(topics[1:])}" if len(topics) > 1 else ""


def _has_orientation(imu: Any) -> bool:
    """Return whether an IMU gives an orientation: a first covariance of -1 says it does not."""
    q = imu.orientation
    return bool(imu.orientation_covariance[0] != -1 and abs(np.linalg.norm([q.x, q.y, q.z, q.w]) - 1) < 0.1)


def _quaternion(path: str) -> Found:
    columns = [f"{path}.{axis}" for axis in "xyzw"]
    return Found(columns, {"kind": "quaternion", "order": "xyzw"}, "x, y, z, w by the definition of the message")
