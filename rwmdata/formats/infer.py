"""A mapping for a log, proposed from the names of its columns and what they hold; what cannot be known is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.base import DEFAULT_ROBOT
from rwmdata.formats.clock import read_clock, usual_steps
from rwmdata.formats.infer_actions import action_index_lines
from rwmdata.formats.infer_orders import joint_lines, leg_lines
from rwmdata.formats.mapping import ASK, PER_JOINT, PER_LEG, suffixes
from rwmdata.formats.names import (
    ACCELEROMETER,
    DESIRED,
    QUANTITIES,
    TIME,
    Family,
    clock_pairs,
    families,
    frame_told,
    quaternion_order,
    words,
)
from rwmdata.formats.rosbag_infer import by_types, clock_lines, preview
from rwmdata.formats.rosbag_reader import is_bag, split_column
from rwmdata.formats.spellings import joint_spellings, leg_spellings, options, robots_by_names
from rwmdata.formats.tables import find_tables, read_table
from rwmdata.joint_order import robots_like, suspected_robot
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema

DEGREES = 10.0
"""Joint positions beyond this are degrees, not radians."""
RADIANS_PER_DEGREE = 0.0174533
LINE = 110
YAML_END = "..."
"""Ends a document of a single value."""


@dataclass
class Proposal:
    """A mapping in the making."""

    robot: RobotSpec
    frame: pl.DataFrame
    families: list[Family]
    groups: dict[str, list[str] | dict[str, object]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """What was seen of a group, for a comment above it."""
    about: list[str] = field(default_factory=list)
    """Comments on the whole."""
    taken: set[str] = field(default_factory=set)
    numbered: set[str] = field(default_factory=set)
    """Groups whose columns have numbers in place of names of joints or legs."""

    def free(self) -> list[str]:
        """Return the columns that are not taken."""
        return [column for column in self.frame.columns if column not in self.taken]

    def values(self, columns: Sequence[str]) -> np.ndarray:
        """Return columns as numbers ``(T, n)``; what is no number is not finite."""
        return self.frame.select(pl.col(columns).cast(pl.Float64, strict=False)).to_numpy().astype(np.float64)

    def columns(self, group: str) -> list[str]:
        """Return the columns proposed for a group."""
        entry = self.groups.get(group, [])
        named = entry.get("columns") if isinstance(entry, dict) else entry
        return [str(name) for name in named] if isinstance(named, list) else []

    def take(self, group: str, columns: list[str], options: dict[str, object] | None = None, said: str = "") -> None:
        """Propose columns for a group."""
        self.groups[group] = {"columns": columns} | options if options else columns
        self.taken |= set(columns)
        if said:
            self.said[group] = said


def infer_mapping(file: Path, robot: str | None = None) -> str:
    """Return a proposed mapping file for a log of a robot, as YAML with comments on what to check.

    Args:
        file: The log, or a bag.
        robot: The robot; when None, one whose joints the columns name or that stands like it, else anymal_d.

    Raises:
        RwmError: The file cannot be read, or the robot is unknown.
    """
    if is_bag(file):
        return _infer_bag(file, load_robot(robot or DEFAULT_ROBOT))
    (file, *_) = find_tables([file])
    frame, _ = read_table(file)
    spec, about = (load_robot(robot), []) if robot else _unnamed_robot(frame, file)
    proposal = Proposal(spec, frame, families(frame.columns), about=about)
    time, time_said, rate_hz = _time(proposal)
    _propose_rest(proposal)
    clock = (
        [f"# {time_said}", f"time: {yaml.safe_dump(time, default_flow_style=True).split(YAML_END)[0].rstrip()}"]
        if time
        else ["# time: NAME        # or rate_hz: 200"]
    )
    position, velocity, action = (
        proposal.values(proposal.columns(group)) for group in ("joint_pos", "joint_vel", "action")
    )
    dt_s = spec.control_dt_s
    clock += action_index_lines(position, velocity, action, rate_hz or 1 / dt_s, dt_s)
    return "\n".join(_lines(proposal, file, clock)) + "\n"


def _infer_bag(source: Path, robot: RobotSpec) -> str:
    """Return a proposed mapping for a ROS bag: by the types of its topics, then by their names."""
    seen = preview(source)
    proposal = Proposal(robot, seen.frame, families(seen.frame.columns))
    for group, found in by_types(seen, robot).items():
        options, said = _options(proposal, group, found.columns)
        proposal.take(group, found.columns, options | found.options, "; ".join(filter(None, [said, found.said])))
    _propose_rest(proposal)
    actions = proposal.columns("action")
    if "action" in proposal.numbered and "joint_pos" not in proposal.numbered:
        proposal.numbered.discard("action")
        said = f"which joint is which? List {actions[0]} to {actions[-1]} in the order {', '.join(robot.joints)}"
        proposal.said["action"] = "; ".join(filter(None, [proposal.said.get("action"), said]))
        options = dict(entry) if isinstance(entry := proposal.groups["action"], dict) else {}
        proposal.groups["action"] = options | {"columns": ASK}
    for group, entry in proposal.groups.items():
        short = _short(proposal.columns(group), suffixes(group, robot, []))
        if short:
            proposal.groups[group] = (entry if isinstance(entry, dict) else {}) | {"columns": short}
    clock = clock_lines(seen, split_column(actions[0])[0] if actions else None)
    return "\n".join(_lines(proposal, seen.bag, clock)) + "\n"


def _short(columns: list[str], ends: list[str]) -> str:
    """Return columns in one: with ``{}`` for joint, leg or axis, or the name of a vector; "" where they are not so."""
    if not columns:
        return ""
    template = "{}".join(columns[0].rsplit(ends[0], 1)) if ends[0] else columns[0]
    vector = columns[0].removesuffix(".x")
    if columns in ([f"{vector}.{axis}" for axis in axes] for axes in ("xyz", "xyzw")):
        return vector
    return template if "{}" in template and [template.replace("{}", end) for end in ends] == columns else ""


def _propose_rest(proposal: Proposal) -> None:
    """Propose columns for the groups that have none yet."""
    for group in Schema.from_robot(proposal.robot).groups:
        if group not in proposal.groups:
            _propose(proposal, group)


def _propose(proposal: Proposal, group: str) -> None:
    """Propose columns for a group: named after its axes, joints or legs, else numbered ones."""
    ends, said = suffixes(group, proposal.robot, []), ""
    quantity = QUANTITIES[group]
    columns = quantity.named(proposal.free(), ends)
    if not columns and group in (*PER_JOINT, *PER_LEG):
        spellings = joint_spellings if group in PER_JOINT else leg_spellings
        columns = next(filter(None, (quantity.named(proposal.free(), e) for e in spellings(proposal.robot))), [])
        first = proposal.robot.legs[0] if group in PER_JOINT else ""
        pairs = zip(columns, ends, strict=False)
        said = ", ".join(f"{column} taken as {end}" for column, end in pairs if end.startswith(first))
    if not columns and group != "termination":
        free = set(proposal.free())
        fits = [
            f for f in proposal.families if quantity.fits(f.words, len(f.columns), len(ends)) and {*f.columns} <= free
        ]
        best = min(fits, key=lambda f: (len(f.columns) != len(ends), len(f.words)), default=None)
        columns = best.columns[: len(ends)] if best else []
        if columns and group in (*PER_JOINT, *PER_LEG):
            proposal.numbered.add(group)
    if columns:
        options, seen = _options(proposal, group, columns)
        proposal.take(group, columns, options, "; ".join(filter(None, [seen, said])))
    elif group == "projected_gravity":
        _orientation(proposal)


def _options(proposal: Proposal, group: str, columns: list[str]) -> tuple[dict[str, object], str]:
    """Return unit and convention of a group as its values tell them, and what was seen."""
    values, default = proposal.values(columns), np.array(proposal.robot.default_joint_pos)
    if not np.isfinite(values).all():
        return {}, "holds cells that are no numbers"
    if group == "joint_pos":
        degrees = np.abs(values).max() > DEGREES
        pose = np.median(values, axis=0) * (RADIANS_PER_DEGREE if degrees else 1.0)
        absolute = np.abs(np.sort(pose) - np.sort(default)).mean() < np.abs(pose).mean()
        options: dict[str, object] = {"scale": RADIANS_PER_DEGREE} if degrees else {}
        if absolute:
            options["subtract_default"] = True
        where = "near the robot's default pose, so absolute" if absolute else "around zero, so relative to the default"
        return options, f"{where}{'; beyond 10, so degrees' if degrees else ''}"
    frame, _ = frame_told(columns) if group in ("base_lin_vel", "base_ang_vel") else (None, "")
    if frame == "unclear":
        said = (
            "of the odometry; walking forward after a turn to the left, in the base frame (frame: base) x is positive,"
        )
        return {"frame": ASK}, f"{said} in its own (frame: world) y is"
    if frame == "base":
        return {"frame": "base"}, "a twist of odometry, by convention in the base frame; if it is not, frame: world"
    if group == "action" and DESIRED & {w for c in columns for w in words(c)}:
        return _target(proposal, columns, values)
    if group == "foot_contact" and not np.isin(values, (0.0, 1.0)).all():
        text = (
            f"forces of {np.median(values):.3g} in the median, {values.max():.3g} at most; contact is above threshold"
        )
        return {"kind": "threshold", "threshold": 1.0}, text
    if group == "projected_gravity" and ACCELEROMETER & {w for c in columns for w in words(c)}:
        return {"kind": "accelerometer"}, "an estimate; it is exact where the robot does not accelerate"
    return {}, ""


def _target(proposal: Proposal, columns: list[str], values: np.ndarray) -> tuple[dict[str, object], str]:
    """Tell absolute joint targets from actions by which of the two the joints follow."""
    source = proposal.groups.get("joint_pos")
    if source is None:
        return {"kind": "target_position"}, "taken as absolute joint targets"
    names = source["columns"] if isinstance(source, dict) else source
    scale = float(str(source.get("scale", 1.0))) if isinstance(source, dict) else 1.0
    assert isinstance(names, list)
    position = np.median(proposal.values(names), axis=0) * scale
    if isinstance(source, dict) and source.get("subtract_default"):
        position = np.sort(position)
    else:
        position = np.sort(position + np.array(proposal.robot.default_joint_pos))
    target = np.median(values, axis=0) * scale
    action = np.array(proposal.robot.default_joint_pos) + proposal.robot.action_scale * target
    if np.abs(np.sort(target) - position).mean() < np.abs(np.sort(action) - position).mean():
        options: dict[str, object] = {"kind": "target_position"} | ({"scale": scale} if scale != 1.0 else {})
        return options, "joints follow them, so absolute joint targets"
    return {}, "around zero, so actions as the policy gives them"


def _orientation(proposal: Proposal) -> None:
    """Propose what stands for gravity: a quaternion, roll and pitch, or an accelerometer."""
    free = proposal.free()
    for ends in (["w", "x", "y", "z"], ["x", "y", "z", "w"]):
        columns = QUANTITIES["quaternion"].named(free, ends)
        if columns:
            in_order = [column for column in proposal.frame.columns if column in columns]
            options: dict[str, object] = {"kind": "quaternion"}
            order = quaternion_order(in_order) if quaternion_order(in_order) in ("wxyz", "xyzw") else "wxyz"
            columns = in_order if quaternion_order(in_order) in ("wxyz", "xyzw") else columns
            proposal.take("projected_gravity", columns, options | {"order": order}, "base to world; compared when read")
            return
    angles = QUANTITIES["roll_pitch_yaw"]
    named = angles.named(free, ["roll", "pitch", "yaw"]) or angles.named(free, ["roll", "pitch"])
    choices = [(named, {"kind": "roll_pitch_yaw"}, "")] if named else []
    for kind, count in (("quaternion", 4), ("roll_pitch_yaw", 3), ("accelerometer", 3)):
        fits = [f.columns for f in proposal.families if QUANTITIES[kind].fits(f.words, len(f.columns), count)]
        fits = [columns for columns in fits if len(columns) == count and {*columns} <= {*free}]
        if kind == "accelerometer" and not fits:
            fits = [columns for columns in [QUANTITIES[kind].named(free, ["x", "y", "z"])] if columns]
        choices += [(columns, {"kind": kind}, "") for columns in fits]
    if not choices:
        return
    columns, kind_only, said = choices[0]
    options = dict(kind_only)
    if options["kind"] == "quaternion":
        options["order"] = ASK
        said = "order: wxyz or xyzw? w is the one near 1 (or -1) where the robot has just started and stands level;"
        said += " a wrong one is found by comparison with the gyroscope"
    if options["kind"] == "roll_pitch_yaw" and np.abs(proposal.values(columns[:2])).max() > 2 * np.pi:
        options["scale"] = RADIANS_PER_DEGREE
        said = "roll and pitch beyond 2 pi, so degrees"
    if options["kind"] == "accelerometer":
        said = "an estimate; it is exact where the robot does not accelerate"
    proposal.take("projected_gravity", columns, options, said)


def _time(proposal: Proposal) -> tuple[str | list[str] | None, str, float | None]:
    """Return the column of time (or those of seconds and nanoseconds) whose stamps repeat least, its unit, its rate."""
    columns = proposal.frame.columns
    found: list[tuple[float, int, float, tuple[str, ...], str]] = []
    for names in [*clock_pairs(columns), *((c,) for c in columns if words(c) & TIME)]:
        if any({*names} <= {*pair} for *_, pair, _ in found):
            continue
        try:
            stamps, unit = read_clock(proposal.frame, (names[0], names[1]) if len(names) == 2 else names[0], None, "")
        except RwmError:
            continue
        if steps := usual_steps(stamps):
            said = f"{unit or 'seconds'}, {1 / steps[0]:.4g} Hz"
            found.append((float((np.diff(stamps) <= 0).mean()), len(found), 1 / steps[0], names, said))
    proposal.taken |= {name for *_, names, _ in found for name in names}
    if not found:
        return None, "", None
    *_, rate_hz, best, said = min(found)
    others = ", ".join(" and ".join(names) for *_, names, _ in found if names != best)
    said += f"; or {others}, whose stamps repeat more or come later" if others else ""
    return best[0] if len(best) == 1 else list(best), said, rate_hz


def _unnamed_robot(frame: pl.DataFrame, file: Path) -> tuple[RobotSpec, list[str]]:
    """Return the robot to propose for where nobody named it, and what tells it, for comments.

    It is one whose joints the columns name, or whose pose the joints stand in; of several, the one that the file is
    named after.
    """
    like, told = robots_by_names(frame.columns), "the columns name the joints of"
    if not like:
        trial = Proposal(load_robot(DEFAULT_ROBOT), frame, families(frame.columns))
        _propose(trial, "joint_pos")
        pose, told = _pose(trial), "the joints stand as those of"
        like = robots_like(pose) if pose is not None and suspected_robot(pose, trial.robot) else []
    if not like:
        return load_robot(DEFAULT_ROBOT), [f"# No robot was named: is it {DEFAULT_ROBOT}? If not, give --robot NAME."]
    like.sort(key=lambda robot: robot.name not in file.stem.lower())
    titles = " and ".join(robot.title for robot in like)
    about = [f"# No robot was named; {told} {titles}: give {options(like)} here and to the conversion."]
    if len(like) > 1:
        about.append("# They are not told apart by that; gains and default pose are the robot's that you name.")
    return like[0], about


def _pose(proposal: Proposal, absolute: bool = False) -> np.ndarray | None:
    """Return the median of the joint positions as recorded, rad; None without any, or unless they are absolute."""
    columns, source = proposal.columns("joint_pos"), proposal.groups.get("joint_pos")
    values = proposal.values(columns)
    how: dict[str, object] = source if isinstance(source, dict) else {}
    if not columns or not np.isfinite(values).all() or (absolute and not how.get("subtract_default")):
        return None
    return np.median(values, axis=0) * float(str(how.get("scale", 1.0)))


def _lines(proposal: Proposal, file: Path, clock: list[str]) -> list[str]:
    """Return the lines of the proposed mapping file."""
    groups = Schema.from_robot(proposal.robot).groups
    lines = [
        f"# Proposed for {proposal.robot.title} from the columns of {file.name}. Look at every line: units, signs and",
        f"# conventions are what the values look like. {ASK} stands for what only you can know. Then:",
        f"#   rwm data convert {shlex.quote(str(file))} --robot {proposal.robot.name} --mapping THIS_FILE --name NAME",
        *proposal.about,
        "groups:",
    ]
    for group in (g for g in groups if g in proposal.groups):
        if group in proposal.said:
            lines.append(f"  # {proposal.said[group]}")
        entry = yaml.safe_dump({group: proposal.groups[group]}, sort_keys=False, default_flow_style=None, width=LINE)
        lines += [f"  {line}" for line in entry.rstrip().split("\n")]
    missing = [group for group in groups if group not in proposal.groups]
    if missing:
        lines.append(" ".join(["# Not found, written as zeros.", *_without(missing)]))
        lines.append(yaml.safe_dump({"missing": missing}, default_flow_style=None, width=LINE).rstrip())
    if proposal.numbered & set(PER_JOINT):
        lines += joint_lines(proposal.robot, _pose(proposal, absolute=True))
    if proposal.numbered & set(PER_LEG):
        lines += leg_lines(proposal.robot, _pose(proposal, absolute=True))
    lines += clock
    return [*lines, *([f"# not used: {', '.join(proposal.free())}"] if proposal.free() else [])]


def _without(missing: list[str]) -> list[str]:
    texts = []
    if "base_lin_vel" in missing:
        texts.append("Without base_lin_vel no policy learns to follow velocity commands.")
    if "action" in missing:
        texts.append("Without action there is nothing to learn; which columns are the joint targets?")
    if "joint_torque" in missing:
        texts.append("A torque can be computed: joint_torque: {kind: drive}")
    return texts
