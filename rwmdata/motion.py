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
    if not len(change):
        return Agreement(0.0, 1.0, 0.0)
    inside = np.ones(change.shape, bool)
    for values in (np.abs(change), np.abs(rate)):
        inside &= values <= np.quantile(values, TRIMMED, axis=0)
    change, rate = np.where(inside, change, 0.0), np.where(inside, rate * dt, 0.0)
    both, own, other = float((change * rate).sum()), float((change**2).sum()), float((rate**2).sum())
    moves = own > 0 and other > 0
    change_rms = float(np.sqrt(own / max(inside.sum(), 1)))
    return Agreement(both / np.sqrt(own * other) if moves else 0.0, both / own if moves else 1.0, change_rms)


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
