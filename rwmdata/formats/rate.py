"""Rows at another rate than the robot's control rate."""

from __future__ import annotations

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.schema import Schema

SAME_RATE = 0.01
"""Rates that differ by less, relatively, are one."""


def at_rate(rows: np.ndarray, schema: Schema, recorded_hz: float, hz: float, where: str) -> np.ndarray:
    """Return an episode's rows ``(n, width)`` brought from the rate they were recorded at to a lower one.

    Where the rates divide, every k-th row is taken; a fall stays the last row. Otherwise the state is interpolated;
    actions and contacts keep their last value.

    Args:
        rows: The rows.
        schema: Their columns.
        recorded_hz: Their rate.
        hz: The wanted rate.
        where: Names the episode in errors.

    Raises:
        RwmError: The recording is slower than wanted: rows between its rows are not known.
    """
    ratio = recorded_hz / hz
    if abs(ratio - 1) < SAME_RATE:
        return rows
    if ratio < 1:
        fault = f"{where} was recorded at {recorded_hz:.4g} Hz, slower than the robot's control rate of {hz:.4g} Hz; "
        raise RwmError(f"{fault}the rows in between are not known.", "a recording at the control rate or above")
    fell = rows[-1, -1] > 0.5
    every = round(ratio)
    if abs(every / ratio - 1) < SAME_RATE:
        return rows[(len(rows) - 1) % every if fell else 0 :: every]
    span = (len(rows) - 1) / ratio
    wanted = np.arange(int(span + 1e-9) + 1) * ratio + ((span % 1) * ratio if fell else 0.0)
    before = np.minimum((wanted + 1e-6).astype(int), len(rows) - 1)
    brought = rows[before].copy()
    for j in range(schema.state.stop):
        brought[:, j] = np.interp(wanted, np.arange(len(rows)), rows[:, j])
    gravity = schema.group("projected_gravity")
    brought[:, gravity] /= np.linalg.norm(brought[:, gravity], axis=1, keepdims=True).clip(min=1e-9)
    return brought
