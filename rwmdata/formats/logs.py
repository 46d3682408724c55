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
from rwmdata.formats.clock import read_clock, usual_steps
from rwmdata.formats.mapping import Mapping, Source, suffixes
from rwmdata.formats.resample import to_control_rate
from rwmdata.formats.stamps import Stretch, stretches
from rwmdata.formats.tables import find_tables, read_table
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema

FEW_EPISODES = 5
SHORT_S = 1.0
"""A log that falls into at least so many episodes, most of them shorter than this, is refused."""
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
    (contacts and actions keep their last value).

    Raises:
        RwmError: There is no mapping, it does not fit the robot, or it names no columns for a group.
    """

    label = "log"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        if self.assembler is None:
            raise RwmError("A log with named columns needs a mapping.", "--mapping FILE.yaml")
        self.files = find_tables(request.sources)
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
        frame, notes = read_log(file, names, mapping)
        self.notes += notes
        unread = [c for c in frame.columns if c not in {*names, *time_columns(mapping), mapping.episode}]
        self.notes += [f"{file.name}: not read: {', '.join(unread)}"] if unread else []
        stamps, starts = self._stamps(frame, file.name), episode_starts(frame, mapping.episode)
        parts, notes = stretches(stamps, starts, self.robot.control_dt_s, mapping.pause_s, file.name)
        self.notes += notes
        self._check_lengths(parts, file)
        for k, part in enumerate(parts):
            where = f"{file}, episode {k}"
            rows = self._build_rows(partial(self._fetch, frame[part.rows]), where)
            rows = to_control_rate(rows, part.stamps_s, self.schema, self.robot.control_dt_s, where)
            yield Episode(rows, is_truncated(rows))

    def _stamps(self, frame: pl.DataFrame, where: str) -> np.ndarray:
        """Return the rows' times from the time column, or from the rate, s."""
        mapping = self.mapping
        if mapping.time is None:
            if mapping.rate_hz is None:
                hz = f"{1 / self.robot.control_dt_s:g} Hz"
                self.notes.append(
                    f"{where}: the mapping gives no time and no rate_hz; its rows are taken to be at {hz}"
                )
            return np.arange(frame.height) / (mapping.rate_hz or 1 / self.robot.control_dt_s)
        stamps, unit = read_clock(frame, mapping.time, mapping.time_unit, where)
        if unit and mapping.time_unit is None:
            rate = 1 / next(iter(usual_steps(stamps)), np.inf)
            self.notes.append(f"{where}: the time '{mapping.time}' was read as {unit}; that makes {rate:.4g} Hz")
        return stamps

    def _check_lengths(self, parts: list[Stretch], file: Path) -> None:
        """Refuse a log that falls into many short episodes, which is more often a fault of the mapping than true."""
        lengths = [part.stamps_s[-1] - part.stamps_s[0] + self.robot.control_dt_s for part in parts]
        short = sum(length < SHORT_S for length in lengths)
        if self.mapping.short_episodes or len(parts) < FEW_EPISODES or short <= len(parts) / 2:
            return
        why = [note.removeprefix(f"{file.name}: ") for note in self.notes if "begin" in note]
        why += [f"'{self.mapping.episode}' changes"] if self.mapping.episode else []
        fault = f"{file} falls into {len(parts)} episodes, {short} of them shorter than {SHORT_S:g} s"
        hint = "pause_s, time or episode in the mapping file; short_episodes: true accepts them"
        raise RwmError(f"{fault} ({'; '.join(why)}).", hint)

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


def read_log(file: Path, names: list[str], mapping: Mapping) -> tuple[pl.DataFrame, list[str]]:
    """Read a log, the columns ``names`` as float64, and what was left out of it.

    Raises:
        RwmError: See :meth:`LogFormat.read`.
    """
    frame, notes = read_table(file)
    needed = [*names, *time_columns(mapping), *filter(None, [mapping.episode])]
    missing = [n for n in needed if n not in frame.columns]
    if missing:
        fault = f"{file} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}."
        raise RwmError(fault, "rwm data convert FILE --infer proposes a mapping")
    as_numbers = frame.with_columns(pl.col(names).cast(pl.Float64, strict=False))
    for n in names:
        values = as_numbers[n]
        bad = (values.is_null() | values.is_nan() | values.is_infinite()).arg_true()
        if len(bad):
            raise RwmError(f"{file}, row {bad[0] + 1}, column '{n}': '{frame[n][bad[0]]}' is not a finite number.")
    return as_numbers, notes


def time_columns(mapping: Mapping) -> list[str]:
    """Return the columns that hold the time."""
    return [mapping.time] if isinstance(mapping.time, str) else list(mapping.time or ())


def episode_starts(frame: pl.DataFrame, episode: str | None) -> np.ndarray:
    """Return the rows where the episode column changes, ``(n,)`` bool."""
    if episode is None:
        return np.zeros(frame.height, bool)
    return (frame[episode] != frame[episode].shift()).fill_null(False).to_numpy()


def resample(frame: pl.DataFrame, mapping: Mapping, dt: float, held: set[str], where: str) -> pl.DataFrame:
    """Resample an episode to one row every ``dt`` seconds.

    Args:
        frame: The episode.
        mapping: Gives the rate.
        dt: New interval, s.
        held: Columns that hold their last value between samples; the others are interpolated.
        where: Names the episode in errors.

    Raises:
        RwmError: The log is slower than a quarter of the wanted rate.
    """
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
    frame, _ = read_table(file)
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
