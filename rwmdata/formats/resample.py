"""Rows at any rate to rows at a robot's control rate."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.formats.mapping import Assembler
from rwmdata.schema import Schema

HELD_GROUPS = ("action", "thigh_contact", "foot_contact")
"""Columns that keep a recorded value between samples; the others are interpolated."""
SAME_TIME_S = 1e-9
COARSEST_STEPS = 4.0
"""A recording slower than a row in this many control steps is refused."""
SAME_RATE = 0.01
"""Rates that differ by less, relatively, are one: every k-th row then comes at the control rate..."""
JITTER = 0.25
"""...if none of those rows is off by more than this share of a control step."""


def rows_at_control_rate(
    assembler: Assembler, values: dict[str, np.ndarray], recorded_hz: float, where: str
) -> np.ndarray:
    """Return the rows of an episode ``(T, width)`` from arrays without stamps, one a group.

    Args:
        assembler: Builds them.
        values: Recorded values of each group that is not computed, ``(n, k)``.
        recorded_hz: Their rate.
        where: Names the episode in errors.

    Raises:
        RwmError: The recording is too slow, or does not fit the mapping.
    """
    count = max((len(part) for part in values.values()), default=0)
    stamps = np.arange(count) / recorded_hz
    rows = assembler.rows(lambda group, _: values[group], where, stamps)
    dt_s, action_index = assembler.robot.control_dt_s, assembler.mapping.action_index
    return to_control_rate(rows, stamps, assembler.schema, dt_s, where, action_index)


def to_control_rate(
    rows: np.ndarray,
    stamps_s: np.ndarray,
    schema: Schema,
    dt_s: float,
    where: str,
    action_index: Literal["next", "previous"] = "previous",
) -> np.ndarray:
    """Return a recording's rows, one every control step from the first.

    A fall between two of them is marked in the later one, or the last; of a recording that ends with its fall, that row
    is the last, and the others are whole steps before it.

    Args:
        rows: A stretch without pauses, ``(n, width)``, the schema's columns in order; actions led to their rows.
        stamps_s: Their times, increasing, ``(n,)``.
        schema: The columns.
        dt_s: Control step.
        where: Names the stretch in errors.
        action_index: Which of several actions within a control step is that of the later row: ``next``, the one that
            was applied from the earlier row on, as a recording of states and the actions taken in them has it;
            ``previous``, the one that led up to the later row.

    Returns:
        ``(m, width)`` float32: every k-th row where the rates allow it, otherwise interpolated ones.

    Raises:
        RwmError: The recording is too coarse.
    """
    step = float(np.median(np.diff(stamps_s))) if len(rows) > 1 else dt_s
    if step > COARSEST_STEPS * dt_s:
        raise RwmError(f"{where}: a row every {step:.3g} s is too coarse for a control step of {dt_s:g} s.")
    falls = np.cumsum(rows[:, -1] > 0.5)
    from_end = falls[-1] == 1 and rows[-1, -1] > 0.5
    every = every_kth(stamps_s, dt_s)
    if every:
        before = after = np.arange((len(rows) - 1) % every if from_end else 0, len(rows), every)
        sampled = rows[before]
    else:
        steps = np.arange(int((stamps_s[-1] - stamps_s[0] + SAME_TIME_S) / dt_s) + 1) * dt_s
        wanted = stamps_s[-1] - steps[::-1] if from_end else stamps_s[0] + steps
        before = np.searchsorted(stamps_s, wanted + SAME_TIME_S, side="right") - 1
        after = np.searchsorted(stamps_s, wanted - SAME_TIME_S)
        sampled = _interpolated(rows, stamps_s, wanted, before, schema)
    sampled[:, schema.action] = rows[after, schema.action]
    if action_index == "next":
        sampled[1:, schema.action] = rows[(before[:-1] + 1).clip(max=len(rows) - 1), schema.action]
    reached = falls[before]
    reached[-1] = falls[-1]
    since_last = np.diff(reached, prepend=0) > 0
    sampled[:, -1] = np.maximum(sampled[:, -1], since_last)
    return sampled


def up_to_falls(rows: np.ndarray) -> list[np.ndarray]:
    """Return rows ``(n, width)`` as episodes that end with the first row of a fall, without those in which it lasts."""
    fallen = rows[:, -1] > 0.5
    before = np.concatenate((fallen[:1], fallen[:-1]))
    kept = ~fallen | ~before
    ends = np.flatnonzero(fallen & ~before) + 1
    parts = [part[keep] for part, keep in zip(np.split(rows, ends), np.split(kept, ends), strict=True)]
    return [part for part in parts if len(part)]


def every_kth(stamps_s: np.ndarray, dt_s: float) -> int:
    """Return k if every k-th row comes at the control rate, else 0."""
    if len(stamps_s) < 2:
        return 1
    step = float(stamps_s[-1] - stamps_s[0]) / (len(stamps_s) - 1)
    every = round(dt_s / step)
    if every < 1 or abs(every * step - dt_s) > SAME_RATE * dt_s:
        return 0
    taken = stamps_s[::every]
    ideal = stamps_s[0] + every * step * np.arange(len(taken))
    return every if np.abs(taken - ideal).max() <= JITTER * dt_s else 0


def _interpolated(
    rows: np.ndarray, stamps_s: np.ndarray, wanted: np.ndarray, before: np.ndarray, schema: Schema
) -> np.ndarray:
    sampled = rows[before]
    held = {j for group in HELD_GROUPS for j in range(*schema.group(group).indices(schema.width))}
    for j in sorted(set(range(schema.width - 1)) - held):
        sampled[:, j] = np.interp(wanted, stamps_s, rows[:, j])
    gravity = sampled[:, schema.group("projected_gravity")]
    gravity /= np.linalg.norm(gravity, axis=1, keepdims=True).clip(min=1e-9)
    return sampled
