"""Logs of any robot, read: CSV or Parquet with named columns, through a mapping file, at any rate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from rwmdata.episodes import Episode, is_truncated
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.mapping import PER_LEG, Mapping, Source, suffixes
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema

GAP = 1.5
"""A pause longer than this many sample intervals starts a new episode."""
SYNONYMS = {
    "base_lin_vel": ("lin_vel", "linvel", "linear_velocity", "velocity", "vel", "v"),
    "base_ang_vel": ("ang_vel", "angvel", "angular_velocity", "gyro", "omega", "w"),
    "projected_gravity": ("gravity", "grav", "g"),
    "joint_pos": ("joint_pos", "position", "pos", "qpos", "q"),
    "joint_vel": ("joint_vel", "velocity", "vel", "qvel", "dq", "qd"),
    "joint_torque": ("torque", "effort", "tau"),
    "action": ("action", "target", "command", "cmd", "act", "a"),
    "thigh_contact": ("thigh_contact", "thigh"),
    "foot_contact": ("foot_contact", "foot_force", "foot", "contact"),
    "termination": ("termination", "terminated", "done", "fall", "fell"),
}
"""Words in the names of a group's columns, the most specific first."""


class LogFormat(Format):
    """Logs with named columns, read through a mapping.

    Every file, and within it every change of the episode column and every pause, starts an episode. A log at another
    rate than the robot's control rate is resampled: every k-th row where that fits, otherwise linear interpolation
    (contacts, termination and actions keep their last value).

    Raises:
        RwmError: There is no mapping, it does not fit the robot, or it names no columns for a group.
    """

    label = "log"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        if self.assembler is None:
            raise RwmError("A log with named columns needs a mapping.", "--mapping FILE.yaml")
        self.mapping, self._build_rows = self.assembler.mapping, self.assembler.rows
        self.about = {"mapping": self.mapping.model_dump(mode="json")}
        recorded = {group: source for group, source in self.mapping.groups.items() if source.kind != "drive"}
        self._columns = {g: source_columns(g, s, self.robot, self.mapping.extension) for g, s in recorded.items()}

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether there is a mapping: without one nothing can be told from a log."""
        return mapped

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the episodes of a log.

        Raises:
            RwmError: It is missing or unreadable, lacks a column, or holds an empty or non-numeric cell. File, row and
                column are named.
        """
        mapping, names = self.mapping, list(dict.fromkeys(c for columns in self._columns.values() for c in columns))
        frame = read_log(file, names, mapping)
        unread = [c for c in frame.columns if c not in {*names, mapping.time, mapping.episode}]
        self.notes += [f"{file.name}: not read: {', '.join(unread)}"] if unread else []
        held = {c for g in (*PER_LEG, "termination", "action") for c in self._columns.get(g, [])}
        for k, part in enumerate(episodes_of(frame, mapping)):
            where = f"{file}, episode {k}"
            at_rate = resample(part, mapping, self.robot.control_dt_s, held, where)
            rows = self._build_rows(partial(self._fetch, at_rate), where)
            yield Episode(rows, is_truncated(rows))

    def _fetch(self, frame: pl.DataFrame, group: str, _: Source) -> np.ndarray:
        return frame.select(self._columns[group]).to_numpy().astype(np.float64)


def source_columns(group: str, source: Source, robot: RobotSpec, extension: list[str]) -> list[str]:
    """Return a source's columns by name.

    Raises:
        RwmError: The mapping names none.
    """
    if isinstance(source.columns, str):
        ends = suffixes(group, robot, extension) if "{}" in source.columns else [""]
        return [source.columns.replace("{}", end) for end in ends]
    if isinstance(source.columns, list):
        return source.columns
    raise RwmError(f"The mapping names no columns for '{group}'.", f"{group}: [column, ...], or a name with {{}} in it")


def read_log(file: Path, names: list[str], mapping: Mapping) -> pl.DataFrame:
    """Read a log; the columns ``names`` as float64.

    Raises:
        RwmError: See :meth:`LogFormat.read`.
    """
    if not file.is_file():
        raise RwmError(f"There is no file {file}.", "rwm data convert FILE... --name NAME --mapping FILE.yaml")
    try:
        frame = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise RwmError(f"{file} cannot be read: {exc}.") from exc
    needed = [*names, *filter(None, (mapping.time, mapping.episode))]
    missing = [n for n in needed if n not in frame.columns]
    if missing:
        fault = f"{file} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}."
        raise RwmError(fault, "rwm data convert FILE --infer proposes a mapping")
    numbers = [n for n in needed if n != mapping.episode]
    as_numbers = frame.with_columns(pl.col(numbers).cast(pl.Float64, strict=False))
    for n in numbers:
        values = as_numbers[n]
        bad = (values.is_null() | values.is_nan() | values.is_infinite()).arg_true()
        if len(bad):
            raise RwmError(f"{file}, row {bad[0] + 1}, column '{n}': '{frame[n][bad[0]]}' is not a finite number.")
    return as_numbers


def episodes_of(frame: pl.DataFrame, mapping: Mapping) -> list[pl.DataFrame]:
    """Split a log where its episode column changes and where its time jumps."""
    starts = np.zeros(frame.height, bool)
    if mapping.episode:
        column = frame[mapping.episode]
        starts |= (column != column.shift()).fill_null(False).to_numpy()
    if mapping.time:
        step = np.diff(frame[mapping.time].to_numpy())
        usual = np.median(step) if len(step) else 0.0
        starts[1:] |= (step > GAP * usual) | (step <= 0)
    bounds = [0, *np.flatnonzero(starts[1:]) + 1, frame.height]
    return [frame[int(a) : int(b)] for a, b in zip(bounds, bounds[1:], strict=False)]


def resample(frame: pl.DataFrame, mapping: Mapping, dt: float, held: set[str], where: str) -> pl.DataFrame:
    """Resample an episode to one row every ``dt`` seconds.

    Args:
        frame: The episode.
        mapping: Gives the rate or the time column.
        dt: New interval, s.
        held: Columns that hold their last value between samples; the others are interpolated.
        where: Names the episode in errors.

    Raises:
        RwmError: The log is slower than a quarter of the wanted rate.
    """
    if mapping.time:
        time: np.ndarray = frame[mapping.time].to_numpy().astype(np.float64)
        step = float(np.median(np.diff(time))) if len(time) > 1 else dt
    else:
        step = 1.0 / mapping.rate_hz if mapping.rate_hz else dt
        time = np.arange(frame.height, dtype=np.float64) * step
    if step > 4 * dt:
        raise RwmError(f"{where}: a row every {step:.3g} s is too coarse for a control step of {dt:g} s.")
    every = round(dt / step)
    if every >= 1 and abs(every * step - dt) < 0.01 * dt:
        return frame[::every]
    wanted = np.arange(time[0], time[-1] + 1e-9, dt)
    before = np.searchsorted(time, wanted + 1e-9, side="right") - 1
    columns = {}
    for name in frame.columns:
        values = frame[name].to_numpy()
        smooth = name not in held and values.dtype == np.float64
        columns[name] = np.interp(wanted, time, values) if smooth else values[before]
    return pl.DataFrame(columns)


def infer_mapping(file: Path, robot: str = "anymal_d") -> str:
    """Return a proposed mapping file for a log of a robot, as YAML with comments on what to check.

    Raises:
        RwmError: The file cannot be read, or the robot is unknown.
    """
    spec = load_robot(robot)
    frame = read_log(file, [], Mapping(groups={}))
    groups: dict[str, list[str]] = {}
    taken: set[str] = set()
    for group in Schema.from_robot(spec).groups:
        if columns := _guess(group, [c for c in frame.columns if c not in taken], spec):
            groups[group] = columns
            taken |= set(columns)
    missing = [group for group in Schema.from_robot(spec).groups if group not in groups]
    times = [c for c in frame.columns if _words(c) & {"time", "t", "stamp", "timestamp"} and c not in taken]
    lines = [
        f"# Proposed from the column names of {file.name}. Look at every line: units, signs, whether joint positions",
        "# are absolute (subtract_default: true), whether actions are joint targets (kind: target_position).",
        yaml.safe_dump({"groups": groups}, sort_keys=False, default_flow_style=None, width=110).rstrip(),
        "# Written as zeros. A torque can be computed instead: joint_torque: {kind: drive}",
        yaml.safe_dump({"missing": missing}, default_flow_style=None).rstrip(),
        f"time: {times[0]}" if times else "# time: NAME        # or rate_hz: 200",
        "action_index: next   # the action of a row is taken in its state; previous: it led to it",
    ]
    left = ", ".join(c for c in frame.columns if c not in taken and c not in times)
    return "\n".join([*lines, *([f"# not used: {left}"] if left else [])]) + "\n"


def _guess(group: str, columns: list[str], robot: RobotSpec) -> list[str]:
    """Return the columns of a group, or none: each name must hold the quantity and its axis, joint or leg."""
    ends = suffixes(group, robot, [])
    for word in SYNONYMS[group]:
        fits = [[c for c in columns if _tokens(word) | _tokens(end) <= _words(c)] for end in ends]
        matches = [min(names, key=len) for names in fits if names]
        if len(matches) == len(ends) == len(set(matches)):
            return matches
    return []


def _tokens(text: str) -> set[str]:
    return {w for w in re.split(r"[^a-z0-9]+", text.lower()) if w}


def _words(column: str) -> set[str]:
    """Return a column name's words; ``vx`` is also ``v`` and ``x``."""
    words = _tokens(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column))
    short = [re.fullmatch(r"(v|w|g|vel|omega|gyro|grav|gravity)([xyz])", w) for w in words]
    return words | {part for m in short if m for part in m.groups()}
