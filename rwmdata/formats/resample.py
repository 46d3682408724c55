"""Rows at any rate to rows at a robot's control rate."""

from __future__ import annotations

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.schema import Schema

HELD_GROUPS = ("action", "thigh_contact", "foot_contact")
"""Columns that keep their last value between samples; the others are interpolated."""
COARSEST_STEPS = 4.0
"""A recording slower than a row in this many control steps is refused."""
RATE_TOLERANCE = 0.01
"""A recording whose every k-th row comes at the control rate within this share is not interpolated..."""
JITTER = 0.25
"""...where none of those rows is off by more than this share of a control step."""


def to_control_rate(rows: np.ndarray, stamps_s: np.ndarray, schema: Schema, dt_s: float, where: str) -> np.ndarray:
    """Return a recording's rows, one every control step from the first.

    A fall between two of them is marked in the later one, or the last.

    Args:
        rows: A stretch without pauses, ``(n, width)``, the schema's columns in order.
        stamps_s: Their times, increasing, ``(n,)``.
        schema: The columns.
        dt_s: Control step.
        where: Names the stretch in errors.

    Returns:
        ``(m, width)`` float32: every k-th row where the rates allow it, otherwise interpolated ones.

    Raises:
        RwmError: The recording is too coarse.
    """
    step = float(np.median(np.diff(stamps_s))) if len(rows) > 1 else dt_s
    if step > COARSEST_STEPS * dt_s:
        raise RwmError(f"{where}: a row every {step:.3g} s is too coarse for a control step of {dt_s:g} s.")
    every = every_kth(stamps_s, dt_s)
    if every:
        before = np.arange(0, len(rows), every)
        sampled = rows[before]
    else:
        wanted = np.arange(stamps_s[0], stamps_s[-1] + 1e-9, dt_s)
        before = np.searchsorted(stamps_s, wanted + 1e-9, side="right") - 1
        sampled = _interpolated(rows, stamps_s, wanted, before, schema)
    falls = np.cumsum(rows[:, -1] > 0.5)
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
    if every < 1 or abs(every * step - dt_s) > RATE_TOLERANCE * dt_s:
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
