"""Factors that calibrate an ensemble's standard deviations, one for every step of a forecast and group of columns.

Members that share a base are overconfident, the more so the longer the forecast: no single factor corrects that, one
per step does (on data like those it was fitted on). The factor of step k is the 68.3 % quantile of |error| / std, so
that ``factor * std`` covers as many errors as one standard deviation of a Gaussian would: of all columns, and once more
of each group of them, because members are more overconfident about a base's velocity than about torques.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rwmdata.config import Frozen
from rwmdata.errors import RwmError

NOMINAL = math.erf(1 / math.sqrt(2))
"""Probability mass of a Gaussian within one standard deviation, 0.683."""
Spread = Literal["epistemic", "total"]
SPREADS: tuple[Spread, ...] = ("epistemic", "total")
"""``epistemic``: disagreement of the members' means; ``total``: with the mean predicted variance added."""
TINY = 1e-12


class Factors(Frozen):
    """Factors of steps 1 to K after the recorded history; later steps use the last one."""

    epistemic: tuple[float, ...]
    total: tuple[float, ...]

    def of(self, spread: Spread) -> np.ndarray:
        """Return the factors of one spread, ``(K,)``."""
        return np.array(self.epistemic if spread == "epistemic" else self.total)


class Calibration(Factors):
    """Factors of all columns, which correct their sum, and of each group of columns."""

    dataset: str
    split: str
    windows: int
    """Number of trajectories it was fitted on."""
    seed: int
    groups: dict[str, Factors] = {}
    """By name of the group; none in models calibrated before there were any."""

    @property
    def steps(self) -> int:
        """K."""
        return len(self.epistemic)

    def of_columns(self, spread: Spread, steps: int, columns: Mapping[str, slice], width: int) -> np.ndarray:
        """Return the factor of every column at steps 1 to ``steps``, ``(steps, width)``.

        Args:
            spread: Which standard deviations.
            steps: How many; those after the last one that was fitted have its factor.
            columns: Columns of each group; those of no group have the factor of all.
            width: Number of columns.
        """
        last = np.minimum(np.arange(steps), self.steps - 1)
        factors = np.repeat(self.of(spread)[last, None], width, axis=1)
        for name, where in columns.items():
            if name in self.groups:
                factors[:, where] = self.groups[name].of(spread)[last, None]
        return factors

    def at(self, step: Tensor, spread: Spread = "epistemic") -> Tensor:
        """Return the factors of steps, which count from 1, in the shape and on the device of ``step``."""
        factors = torch.tensor(self.of(spread), dtype=torch.float32, device=step.device)
        return factors[(step - 1).clamp(0, self.steps - 1)]


def step_factors(error: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the factor of every step, ``(steps,)``.

    Args:
        error: Predicted minus recorded, ``(W, steps, S)``.
        std: Standard deviations of the same shape and unit.

    Raises:
        RwmError: Most standard deviations of a step are 0: no factor makes them cover anything.
    """
    ratio = np.abs(error) / np.maximum(std, TINY)
    factors = np.quantile(ratio.transpose(1, 0, 2).reshape(ratio.shape[1], -1), NOMINAL, axis=1)
    if (factors > 1 / TINY**0.5).any():
        raise RwmError("The members do not disagree at all; there is nothing to calibrate.", "rwm fit --members 5")
    return factors


def coverage(error: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the share of columns within one standard deviation, of every trajectory and step: ``(W, steps)``."""
    return (np.abs(error) <= std).mean(axis=-1)
