"""Correlations and intervals the evaluations share."""

from __future__ import annotations

import numpy as np


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
    are harder throughout) is gone; a correlation of what remains is the ranking within.
    """
    rows = values.mean(axis=1, keepdims=True)
    columns = values.mean(axis=0, keepdims=True)
    return values - rows - columns + values.mean()


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
