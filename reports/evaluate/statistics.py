"""Correlations and intervals the evaluations share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

Number = float | None
"""None where a number is undefined."""
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom."""


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Pearson's correlation of two equally long arrays; None when one of them is constant.

    A constant array has no correlation: None says so, where 0 would read as a finding.
    """
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    dx, dy = x - x.mean(), y - y.mean()
    scale = np.sqrt((dx**2).sum() * (dy**2).sum())
    tiny = np.finfo(np.float64).eps * len(x) * max(abs(x).max(), 1e-300) * max(abs(y).max(), 1e-300)
    return float((dx * dy).sum() / scale) if scale > tiny else None


def remove_step_and_trajectory_means(values: np.ndarray) -> np.ndarray:
    """Return ``values (trajectories, steps)`` with row and column means taken out.

    What both error and uncertainty owe to the horizon (they grow with the step) or to the trajectory (some motions
    are harder throughout) is gone; a correlation of what remains is the ranking within. What is left of rounding is 0.
    """
    values = np.asarray(values, np.float64)
    rows = values.mean(axis=1, keepdims=True)
    columns = values.mean(axis=0, keepdims=True)
    left = values - rows - columns + values.mean()
    return np.where(np.abs(left) > 1e-12 * np.abs(values).max(), left, 0.0)


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Return sum(numerator) / sum(denominator), ``(n,)`` each, with its percentile bootstrap interval.

    Whole trajectories are resampled, because the steps of one trajectory are not independent.
    """
    index = np.random.default_rng(seed).integers(len(numerator), size=(draws, len(numerator)))
    ratios = numerator[index].sum(axis=1) / denominator[index].sum(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return float(numerator.sum() / denominator.sum()), float(low), float(high)


def bootstrap(
    statistics: Callable[..., Mapping[str, Number]],
    *arrays: np.ndarray,
    seed: int = 0,
    draws: int = 300,
    level: float = 0.95,
) -> dict[str, tuple[Number, Number, Number]]:
    """Return each statistic's value, low and high: the percentile bootstrap over whole trajectories.

    A statistic that is undefined in more than one in twenty resamples has no interval.

    Args:
        statistics: Takes the arrays, returns numbers by name.
        arrays: Each ``(trajectories, ...)``; resampled together.
        seed: Seed of the resamples.
        draws: Resamples.
        level: Of the interval.
    """
    values, count = statistics(*arrays), len(arrays[0])
    resamples = np.random.default_rng(seed).integers(count, size=(draws, count))
    drawn = [statistics(*(a[index] for a in arrays)) for index in resamples]
    found: dict[str, tuple[Number, Number, Number]] = {}
    for name, value in values.items():
        defined = [d[name] for d in drawn if d[name] is not None]
        if value is None or len(defined) < 0.95 * draws:
            found[name] = (value, None, None)
            continue
        tail = 100 * (1 - level) / 2
        low, high = np.percentile(np.array(defined, float), [tail, 100 - tail])
        found[name] = (value, float(low), float(high))
    return found


def rows_of(mode: str, found: Mapping[str, tuple[Number, Number, Number]], horizon: int | None = None) -> list[dict]:
    """Return what :func:`bootstrap` found as scalars of an evaluation."""
    return [
        {"metric": name, "mode": mode, "horizon": horizon, "value": value, "low": low, "high": high}
        for name, (value, low, high) in found.items()
    ]


def seeds_interval(values: list[float]) -> dict[str, float | None]:
    """Return the mean of a few seeds with its 95 % interval by Student's t; one seed has no interval."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"value": mean, "low": None, "high": None}
    half = T_95[len(values) - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"value": mean, "low": mean - half, "high": mean + half}
