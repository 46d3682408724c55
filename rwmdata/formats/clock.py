"""The time column of a log, read: which unit, seconds since an epoch or a start, texts of date and time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from rwmdata.errors import RwmError
from rwmdata.formats.names import fraction_of

UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
FASTEST_HZ, SLOWEST_HZ = 2000.0, 10.0
"""Rates of robots' logs. The units lie further apart than these two, so a rate tells the unit."""
EPOCH_S = (9e8, 4e9)
"""Seconds since 1970 from 1998 to 2096."""
WINDOW = 50
"""Rows over which the usual step is taken: more than come in one burst."""
CONTRADICTS = 0.05
"""A given rate and one that is seen contradict each other if they differ by more, relatively."""
COUNTS = 0.5
"""A column counts rows where more steps than this share are one."""
HOUR_S, DAY_S = 3600.0, 86400.0
MINUTES = re.compile(r"(\d+):([0-5]\d)(?:[.,](\d+))?")
"""Minutes and seconds. Without any fraction of a second it may as well be hours and minutes."""
CLOCK = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})(?:[.,:](\d+))?\s*([AaPp][Mm])?")


def read_clock(
    frame: pl.DataFrame, time: str | tuple[str, str], unit: str | None, where: str
) -> tuple[np.ndarray, str]:
    """Return the stamps of a log's rows.

    Args:
        frame: The log.
        time: Its time column, or its columns of seconds and of their fraction: nanoseconds, or
            microseconds where the name says so (``usec``).
        unit: Unit of the column, a key of :data:`UNITS_S`; None to tell it from the rate and the magnitude.
        where: Names the log in errors.

    Returns:
        Stamps in s since the first row, ``(n,)``, and the unit if it was not seconds or was a text.

    Raises:
        RwmError: A cell is no time, or the unit cannot be told.
    """
    if isinstance(time, tuple):
        seconds, part = (_numbers(frame[name], where) for name in time)
        second = fraction_of(time[1]) or 1e-9
        if (off := (part < 0) | (part * second >= 1)).any():
            row = int(off.argmax())
            fault = f"{where}, row {row + 1}, column '{time[1]}': {part[row]:g} is no part of a second"
            raise RwmError(f"{fault} in steps of {second:g} s.", "time: [SECONDS, NANOSECONDS], or one column")
        return (seconds - seconds[0]) + second * (part - part[0]), ""
    column = frame[time]
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("ns") if column.dtype == pl.Date else column.dtype)
        scale = {"ms": 1e-3, "us": 1e-6}.get(getattr(column.dtype, "time_unit", None) or "ns", 1e-9)
        return _since_first(column.to_physical()) * scale, str(column.dtype)
    if column.dtype == pl.String and ":" in str(column[0]):
        return _of_texts(column, where), "date or time of day"
    values = _since_first(_exact(column, where))
    unit = unit or _unit(values, float(_numbers(column[:1], where)[0]), f"{where}, column '{time}'")
    return values * UNITS_S[unit], NAMES[unit] if unit != "s" else ""


def _since_first(column: pl.Series) -> np.ndarray:
    """Return the values less the first; in integers where they are, as nanoseconds since 1970 fill a double."""
    values = column.to_numpy()
    return (values - values[0]).astype(np.float64) if len(values) else np.zeros(0)


def _exact(column: pl.Series, where: str) -> pl.Series:
    whole = column.cast(pl.Int64, strict=False) if column.dtype in (pl.String, pl.Int64) else None
    if whole is not None and not whole.null_count():
        return whole
    return pl.Series(_numbers(column, where))


def _numbers(column: pl.Series, where: str) -> np.ndarray:
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    values = column.cast(pl.Float64, strict=False)
    bad = (values.is_null() | ~values.is_finite()).arg_true()
    if len(bad):
        text = f"{where}, row {bad[0] + 1}, column '{column.name}': '{column[bad[0]]}' is not a time."
        raise RwmError(text, "time: another column of the file, or rate_hz: ROWS_PER_SECOND")
    return values.to_numpy()


def _unit(values: np.ndarray, first: float, where: str) -> str:
    """Return the unit in which the rows' rate is a robot's log's, or the magnitude is that of unix time."""
    for step in usual_steps(values):
        fits = [u for u, s in UNITS_S.items() if 1 / FASTEST_HZ <= step * s <= 1 / SLOWEST_HZ]
        if fits:
            return fits[0]
    epoch = [u for u, s in UNITS_S.items() if EPOCH_S[0] <= first * s <= EPOCH_S[1]]
    if epoch or len(values) < 2:
        return epoch[0] if epoch else "s"
    step = next(iter(usual_steps(values)), 0.0)
    if len(values) > 1 and (np.diff(values) < 0).all():
        raise RwmError(f"{where}: the time runs backwards from {first:g}.", "the rows in the order of time")
    if step == 0:
        raise RwmError(f"{where}: the time stands still at {first:g}.", "rate_hz: ROWS_PER_SECOND in place of time")
    rates = ", ".join(f"{1 / (step * s):.3g} Hz in {NAMES[u]}" for u, s in UNITS_S.items())
    fault = f"{where}: the unit of time is not clear; a row every {step:.6g} is {rates}."
    raise RwmError(fault, "time_unit: s, ms, us or ns in the mapping file")


def usual_steps(stamps: np.ndarray) -> list[float]:
    """Return the usual step between rows: over many rows, as stamps may come in bursts, then from one to the next."""
    window = min(WINDOW, len(stamps) - 1)
    if window < 1:
        return []
    spans, steps = (stamps[window:] - stamps[:-window]) / window, np.diff(stamps)
    return [float(np.median(part[part > 0])) for part in (spans, steps) if (part > 0).any()]


def rates_hz(stamps: np.ndarray) -> list[float]:
    """Return the rates that stamps may mean: by their usual steps, and over the whole recording."""
    whole = stamps[-1] - stamps[0] if len(stamps) > 1 else 0.0
    return [1 / step for step in usual_steps(stamps)] + ([(len(stamps) - 1) / whole] if whole > 0 else [])


def is_counter(column: pl.Series) -> bool:
    """Return whether a column counts rows, which says nothing of their rate."""
    steps = column.cast(pl.Float64, strict=False).diff().drop_nulls()
    return len(steps) > 0 and float((steps == 1).to_numpy().mean()) > COUNTS


def check_rate(given_hz: float, seen_hz: Sequence[float], where: str, by_what: str) -> None:
    """Compare a rate that was given with those that a recording shows.

    Raises:
        RwmError: It is none of them.
    """
    if seen_hz and all(abs(given_hz / hz - 1) > CONTRADICTS for hz in seen_hz):
        fault = f"{where}: rate_hz is {given_hz:g}, but {by_what} {seen_hz[0]:.4g} Hz."
        raise RwmError(fault, "the right rate, or none; check: false in the mapping file accepts it")


def _of_texts(column: pl.Series, where: str) -> np.ndarray:
    """Return seconds since the first of ISO dates, times of day or minutes and seconds.

    A time of day that goes back begins a day, minutes that go back begin an hour.
    """
    texts = [str(text).strip() for text in column.to_list()]
    try:
        moments = [datetime.fromisoformat(text.replace(",", ".")) for text in texts]
        return np.array([(moment - moments[0]).total_seconds() for moment in moments])
    except (ValueError, TypeError):
        minutes = [MINUTES.fullmatch(text) for text in texts]
        if all(minutes) and any(match[3] for match in minutes if match):
            seconds = np.array([60.0 * int(m[1]) + float(f"{m[2]}.{m[3] or 0}") for m in minutes if m])
            return _going_on(seconds, HOUR_S)
        seconds = np.array([_time_of_day(text, where, column.name, k) for k, text in enumerate(texts)])
    return _going_on(seconds, DAY_S)


def _going_on(seconds: np.ndarray, whole_s: float) -> np.ndarray:
    """Return seconds since the first of those of a clock that begins anew after ``whole_s``."""
    return seconds - seconds[0] + whole_s * np.concatenate(([0], np.cumsum(np.diff(seconds) < -whole_s / 2)))


def _time_of_day(text: str, where: str, name: str, row: int) -> float:
    match = CLOCK.search(text)
    if match is None:
        hint = "time: another column of the file, or rate_hz: ROWS_PER_SECOND"
        raise RwmError(
            f"{where}, row {row + 1}, column '{name}': '{text}' is no time such as 12:00:00.00 or 59:59.99.", hint
        )
    hours, minutes, seconds, fraction, half = match.groups()
    hour = int(hours) % 12 + 12 * (half.lower() == "pm") if half else int(hours)
    return hour * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")
