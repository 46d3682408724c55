"""What rates must agree with: joint positions are the integral of joint velocities, and gravity turns with the base.

Agreements are cosines between a change from row to row and the mean of the rates at both rows, over the middle 98 % of
both, so that neither a spike nor an impact decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwmdata.schema import Schema

FACTOR = 1.3
"""Rates that are off by more have another unit or another dt. In the embedded simulator factors are 0.83 to 1.03."""
TRIMMED = 0.99
"""Steps beyond this quantile of either magnitude, column by column, are left out of an agreement."""


@dataclass(frozen=True)
class Agreement:
    """How well rates explain changes."""

    cosine: float
    """1 where rates and changes are proportional, 0 where they have nothing in common."""
    factor: float
    """rate * dt over change: 1 where both have the same unit and dt is right; 4 where rows of 200 Hz are read at 50."""
    change: float
    """Root mean square of the changes, in their own unit."""

    @property
    def other_unit(self) -> bool:
        """The factor is not 1, whichever of the two is the noisy one.

        Noise in the changes lowers the factor, and noise in the rates raises the ratio of their sizes.
        """
        ratio = self.factor / self.cosine if self.cosine > 0 else 1.0
        return self.factor > FACTOR or ratio < 1 / FACTOR


def agreement(change: np.ndarray, rate: np.ndarray, dt: float) -> Agreement:
    """Compare changes from row to row ``(n, k)`` with the mean rates over the same steps ``(n, k)``.

    The factor is taken along the changes: rates are the noisier of the two in recordings, and their noise averages out.
    """
    (found,) = _compared(change, rate, dt, axis=None)
    return found


def agreements(change: np.ndarray, rate: np.ndarray, dt: float) -> list[Agreement]:
    """Return the :func:`agreement` of every column of changes ``(n, k)`` and rates ``(n, k)`` by itself."""
    return _compared(change, rate, dt, axis=0)


def _compared(change: np.ndarray, rate: np.ndarray, dt: float, axis: int | None) -> list[Agreement]:
    """Return the agreement of every column where the axis is 0, of all together where it is None."""
    if not len(change):
        return [Agreement(0.0, 1.0, 0.0)] * (1 if axis is None else change.shape[1])
    inside = _inside(change) & _inside(rate)
    change, rate = np.where(inside, change, 0.0), np.where(inside, rate * dt, 0.0)
    sums = [np.atleast_1d(v.sum(axis=axis)) for v in (change * rate, change**2, rate**2, inside)]
    found = []
    for both, own, other, count in zip(*(values.tolist() for values in sums), strict=True):
        moves = own > 0 and other > 0
        change_rms = float(np.sqrt(own / max(count, 1)))
        cosine, factor = (both / np.sqrt(own * other), both / own) if moves else (0.0, 1.0)
        found.append(Agreement(float(cosine), factor, change_rms))
    return found


def _inside(values: np.ndarray) -> np.ndarray:
    """Return which of ``(n, k)`` values are within the quantile of their column."""
    size = np.abs(values)
    inside: np.ndarray = size <= np.quantile(size, TRIMMED, axis=0)
    return inside


def steps_of(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the rows ``(n,)`` that have a next row in the same episode."""
    inside = np.ones(int(length.sum()), bool)
    inside[start + length - 1] = False
    return np.flatnonzero(inside)


def joint_changes(rows: np.ndarray, schema: Schema, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the changes of joint position from ``steps (n,)`` to the next rows and mean velocities, ``(n, J)``."""
    position, velocity = (rows[:, schema.group(g)].astype(np.float64) for g in ("joint_pos", "joint_vel"))
    return position[steps + 1] - position[steps], 0.5 * (velocity[steps + 1] + velocity[steps])


def gravity_changes(rows: np.ndarray, schema: Schema, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the changes of projected gravity from ``steps (n,)``, and what turning implies, ``(n, 3)``.

    In the base frame dg/dt = -w x g.
    """
    gravity, turning = (rows[:, schema.group(g)].astype(np.float64) for g in ("projected_gravity", "base_ang_vel"))
    rate = -np.cross(0.5 * (turning[steps + 1] + turning[steps]), 0.5 * (gravity[steps + 1] + gravity[steps]))
    return gravity[steps + 1] - gravity[steps], rate
