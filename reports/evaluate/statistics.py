"""Correlations and 95 % intervals that the evaluations share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar

Number = float | None
"""None where a number is undefined."""
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom."""


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval; None where it is undefined, or has no interval."""

    value: Number
    low: Number = None
    high: Number = None

    def scalar(self, metric: str, mode: str | None = None, horizon: int | None = None) -> Scalar:
        """Return it as a scalar of an evaluation.

        Raises:
            RwmError: It is not finite.
        """
        try:
            return Scalar(metric=metric, mode=mode, horizon=horizon, **self._asdict())
        except ValidationError as exc:
            raise RwmError(f"The number {metric} cannot be kept: {one_line(exc)}.") from exc


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Pearson's correlation of two equally long arrays; None, not 0, when one of them is constant."""
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    dx, dy = x - x.mean(), y - y.mean()
    scale = np.sqrt((dx**2).sum() * (dy**2).sum())
    tiny = np.finfo(np.float64).eps * len(x) * max(abs(x).max(), 1e-300) * max(abs(y).max(), 1e-300)
    return float((dx * dy).sum() / scale) if scale > tiny else None


def remove_step_and_trajectory_means(values: np.ndarray) -> np.ndarray:
    """Return ``values (trajectories, steps)`` with row and column means taken out.

    That removes what error and uncertainty both owe to the horizon (they grow with the step) and to the trajectory
    (some motions are harder throughout); a correlation of the rest ranks within both. Rounding errors are set to 0.
    """
    values = np.asarray(values, np.float64)
    rows = values.mean(axis=1, keepdims=True)
    columns = values.mean(axis=0, keepdims=True)
    rest = values - rows - columns + values.mean()
    return np.where(np.abs(rest) > 1e-12 * np.abs(values).max(), rest, 0.0)


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0, draws: int = 1000) -> Interval:
    """Return sum(numerator) / sum(denominator), ``(n,)`` each, with its percentile bootstrap interval.

    Whole trajectories are resampled, because the steps of one trajectory are not independent; resamples in which the
    denominator is 0 tell nothing and are left out.
    """
    index = np.random.default_rng(seed).integers(len(numerator), size=(draws, len(numerator)))
    of, by = numerator[index].sum(axis=1), denominator[index].sum(axis=1)
    ratios = of[by != 0] / by[by != 0] if by.any() else np.full(1, np.nan)
    return Interval(float(numerator.sum() / denominator.sum()), *_ends(ratios))


def ratio_up_to(horizon: int, numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """Return the ratio of two sums, ``(n, steps)`` each, over all trajectories and the steps up to a horizon."""
    return ratio_interval(numerator[:, :horizon].sum(axis=1), denominator[:, :horizon].sum(axis=1))


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean of ``values (n,)`` with its percentile bootstrap interval."""
    return ratio_interval(values, np.ones(len(values)))


def bootstrap(
    statistics: Callable[..., Mapping[str, Number]], *arrays: np.ndarray, seed: int = 0, draws: int = 300
) -> dict[str, Interval]:
    """Return each statistic of arrays ``(trajectories, ...)`` with its percentile bootstrap interval.

    Whole trajectories are resampled, ``draws`` times, in all arrays together. A statistic that is undefined in more
    than one in twenty resamples has no interval.
    """
    values, count = statistics(*arrays), len(arrays[0])
    resamples = np.random.default_rng(seed).integers(count, size=(draws, count))
    drawn = [statistics(*(a[index] for a in arrays)) for index in resamples]
    intervals = {}
    for name, value in values.items():
        defined = [d[name] for d in drawn if d[name] is not None]
        has_interval = value is not None and len(defined) >= 0.95 * draws
        intervals[name] = Interval(value, *(_ends(np.array(defined, float)) if has_interval else ()))
    return intervals


def _ends(resampled: np.ndarray) -> tuple[float, float]:
    """Return the quantiles between which the middle 95 % of the resampled values lie."""
    tail = 100 * (1 - 0.95) / 2  # Not quite 2.5: results stay the same, bit for bit.
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def scalars_of(mode: str, intervals: Mapping[str, Interval], horizon: int | None = None) -> list[Scalar]:
    """Return intervals by metric as the scalars of one mode and horizon."""
    return [interval.scalar(metric, mode, horizon) for metric, interval in intervals.items()]


def seeds_interval(values: list[float]) -> Interval:
    """Return the mean of a few seeds with its 95 % interval by Student's t; one seed has no interval.

    More than ten take the quantile of ten: the interval is a little too wide.
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean)
    half = T_95[min(len(values), len(T_95)) - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
