"""Logs of any robot, read: CSV or Parquet with named columns, through a mapping file, at any rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from rwmdata.episodes import Episode, is_truncated
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.clock import check_rate, is_counter, rates_hz, read_clock, usual_steps
from rwmdata.formats.mapping import Mapping, Source, suffixes
from rwmdata.formats.missing_columns import missing_columns
from rwmdata.formats.names import TIME, ends_words, told_by_names, words
from rwmdata.formats.resample import to_control_rate, up_to_falls
from rwmdata.formats.stamps import Repairs
from rwmdata.formats.tables import find_tables, read_table
from rwmdata.manifest import Provenance
from rwmdata.robots import RobotSpec

FEW_EPISODES = 5
SHORT_S = 1.0
"""A log that falls into at least so many episodes, most of them shorter than this, is refused."""

WITHOUT = {
    "base_lin_vel": "without base_lin_vel a model does not learn how fast the robot moves, so no policy learns in it "
    "to follow velocity commands",
    "projected_gravity": "without projected_gravity a model does not learn when the robot tilts",
    "joint_torque": "without joint_torque rewards on torque are zero in imagination; {kind: drive} computes it",
    "termination": "without termination a model learns of no falls",
}
"""What a model cannot do without a group."""


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
        if request.mapping is None:
            raise RwmError("A log with named columns needs a mapping.", "--mapping FILE.yaml")
        columns = columns_of(request.mapping, request.robot)
        mapping, told = told_by_names(request.mapping, columns)
        super().__init__(replace(request, mapping=mapping))
        assert self.assembler is not None
        self._columns = columns
        self.notes += told + self._order_presumed() + [text for group, text in WITHOUT.items() if group in self.missing]
        self.files = self._find(request.sources)
        self.mapping, self._build_rows = self.assembler.mapping, self.assembler.rows
        self.about = {"mapping": self.mapping.model_dump(mode="json")}

    def _order_presumed(self) -> list[str]:
        """Return a note if nothing says which joint is which: neither the mapping nor the columns' names."""
        names = self._columns.get("joint_pos", [])
        told = all(ends_words(joint) <= words(name) for joint, name in zip(self.robot.joints, names, strict=False))
        if told or (self.assembler and self.assembler.mapping.joints):
            return []
        return [f"the mapping names no joints; {names[0]} and so on were taken as {', '.join(self.robot.joints)}"]

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
        repairs = Repairs(file.name, self.robot.control_dt_s, mapping.pause_s)
        copies = lying = episode = 0
        lengths_s: list[float] = []
        for frame in self._pieces(file, names):
            if mapping.time:
                frame, count = without_copies(frame, [*names, *time_columns(mapping)], time_columns(mapping))
                copies += count
            stamps, starts = self._stamps(frame, file.name), episode_starts(frame, mapping.episode)
            parts = repairs.stretches(stamps, starts)
            lengths_s += [part.stamps_s[-1] - part.stamps_s[0] + self.robot.control_dt_s for part in parts]
            self._check_lengths(lengths_s, repairs.notes(), file)
            for part in parts:
                where = f"{file}, episode {episode}"
                episode += 1
                rows = self._build_rows(partial(self._fetch, rows_of(frame, part.rows)), where, part.stamps_s)
                rows = to_control_rate(
                    rows, part.stamps_s, self.schema, self.robot.control_dt_s, where, mapping.action_index
                )
                episodes = up_to_falls(rows)
                lying += len(rows) - sum(map(len, episodes))
                yield from (Episode(each, is_truncated(each)) for each in episodes)
        if copies:
            self.notes.append(f"{file.name}: {copies} rows are the row before once more and were left out")
        self.notes += repairs.notes()
        if lying:
            self.notes.append(f"{file.name}: {lying} rows in which the robot had fallen already were left out")
        found = self.assembler.notes if self.assembler else []
        self.notes += [note for note in found if note not in self.notes]

    def _find(self, sources: Sequence[Path]) -> list[Path]:
        return find_tables(sources)

    def _pieces(self, file: Path, names: list[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows of a log, at once or a piece after the other; each piece is an episode or more."""
        frame, notes = read_log(file, names, self.mapping)
        self.notes += notes
        unread = [c for c in frame.columns if c not in {*names, *time_columns(self.mapping), self.mapping.episode}]
        self.notes += [f"{file.name}: not read: {', '.join(unread)}"] if unread else []
        yield frame

    def provenance(self) -> Provenance:
        """Return what the manifest records; what holds of several files is said once."""
        files: dict[str, list[str]] = {}
        for note in self.notes:
            name, colon, text = note.partition(": ")
            of_file = colon and any(file.name == name for file in self.files)
            files.setdefault(text if of_file else note, []).extend([name] if of_file else [])
        more = {text: f" and {len(names) - 1} more" if len(names) > 1 else "" for text, names in files.items()}
        notes = [f"{names[0]}{more[text]}: {text}" if names else text for text, names in files.items()]
        about = super().provenance()
        return about | {"notes": [note for note in about["notes"] if note not in self.notes] + notes}

    def _stamps(self, frame: pl.DataFrame, where: str) -> np.ndarray:
        """Return the rows' times from the time column, or from the rate, s."""
        mapping = self.mapping
        if mapping.rate_hz and mapping.check:
            self._check_rate(frame, mapping.rate_hz, where)
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

    def _check_rate(self, frame: pl.DataFrame, given_hz: float, where: str) -> None:
        """Refuse a rate that the stamps contradict: those of the mapping, or of columns that are named like a time.

        Raises:
            RwmError: All stamps say another rate.
        """
        mapping = self.mapping
        mapped = {name for columns in self._columns.values() for name in columns} | {mapping.episode}
        others = [name for name in frame.columns if words(name) & TIME and name not in mapped]
        seen: dict[str, list[float]] = {}
        for time in [mapping.time] if mapping.time else others:
            name = time if isinstance(time, str) else time[0]
            try:
                rates = rates_hz(read_clock(frame, time, mapping.time_unit, where)[0])
            except RwmError:
                continue
            if mapping.time or not is_counter(frame[name]):
                seen[name] = rates
        text = f"the stamps in {' and '.join(repr(name) for name in seen)} come at"
        check_rate(given_hz, [hz for rates in seen.values() for hz in rates], where, text)

    def _check_lengths(self, lengths_s: list[float], repairs: list[str], file: Path) -> None:
        """Refuse a log that falls into many short episodes, which is more often a fault of the mapping than true."""
        short = sum(length < SHORT_S for length in lengths_s)
        if self.mapping.short_episodes or len(lengths_s) < FEW_EPISODES or short <= len(lengths_s) / 2:
            return
        why = [note.removeprefix(f"{file.name}: ") for note in repairs if "begin" in note]
        why += [f"'{self.mapping.episode}' changes"] if self.mapping.episode else []
        fault = f"{file} falls into {len(lengths_s)} episodes, {short} of them shorter than {SHORT_S:g} s"
        hint = "pause_s, time or episode in the mapping file; short_episodes: true accepts them"
        raise RwmError(f"{fault} ({'; '.join(why)}).", hint)

    def _fetch(self, frame: pl.DataFrame, group: str, _: Source) -> np.ndarray:
        return frame.select(self._columns[group]).to_numpy().astype(np.float64)


def columns_of(mapping: Mapping, robot: RobotSpec) -> dict[str, list[str]]:
    """Return the names of the columns of each group that is recorded, and of the orientation.

    Raises:
        RwmError: The mapping names none for a group.
    """
    sources = {group: source for group, source in mapping.groups.items() if source.kind != "drive"}
    sources |= {"orientation": mapping.orientation} if mapping.orientation else {}
    return {group: source_columns(group, source, robot, mapping.extension) for group, source in sources.items()}


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
        raise missing_columns(file, missing, mapping, frame.columns)
    as_numbers = frame.with_columns(pl.col(names).cast(pl.Float64, strict=False))
    for n in names:
        values = as_numbers[n]
        bad = (values.is_null() | values.is_nan() | values.is_infinite()).arg_true()
        if len(bad):
            cell = frame[n][bad[0]]
            what = "is empty, expected a number" if cell in (None, "") else f"'{cell}' is not a finite number"
            more = f" ({len(bad)} such cells in the column)" if len(bad) > 1 else ""
            raise RwmError(f"{file}, row {bad[0] + 1}, column '{n}': {what}{more}.", "correct or leave out those rows")
    return as_numbers, notes


def time_columns(mapping: Mapping) -> list[str]:
    """Return the columns that hold the time."""
    return [mapping.time] if isinstance(mapping.time, str) else list(mapping.time or ())


def without_copies(frame: pl.DataFrame, columns: list[str], times: list[str]) -> tuple[pl.DataFrame, int]:
    """Leave out rows that are the row before once more, stamp included, if that explains all repeated stamps.

    Args:
        frame: The rows.
        columns: Columns that are compared.
        times: Those of them that hold the stamp.

    Returns:
        The other rows, and how many were left out.
    """
    equal = frame.select(pl.col(name).eq_missing(pl.col(name).shift()) for name in columns)
    copies = equal.select(pl.all_horizontal(pl.all())).to_series()
    repeats = equal.select(pl.all_horizontal(times)).to_series()
    if not copies.any() or (repeats & ~copies).any():
        return frame, 0
    return frame.filter(~copies), int(copies.sum())


def rows_of(frame: pl.DataFrame, rows: np.ndarray) -> pl.DataFrame:
    """Return some rows, by their numbers ``(n,)``; those that follow each other are not copied."""
    return frame.slice(rows[0], len(rows)) if (np.diff(rows) == 1).all() else frame[rows]


def episode_starts(frame: pl.DataFrame, episode: str | None) -> np.ndarray:
    """Return the rows where the episode column changes, ``(n,)`` bool."""
    if episode is None:
        return np.zeros(frame.height, bool)
    return (frame[episode] != frame[episode].shift()).fill_null(False).to_numpy()
