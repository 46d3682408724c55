"""Does a score rank errors? Rank correlation, area under the ROC curve, sparsification; None, not 0, for constants."""

from __future__ import annotations

import numpy as np

from reports.evaluate.statistics import Number, pearson, remove_step_and_trajectory_means

TOP = 0.9
"""Errors at or above this quantile are the ones a warning should catch."""


def codes(values: np.ndarray) -> np.ndarray:
    """Return the index of each value among the sorted unique ones, in the shape of ``values``.

    Non-negative integers are returned as they are. A bootstrap codes its values once, because every resample can then
    rank them by counting instead of sorting.
    """
    if np.issubdtype(values.dtype, np.integer) and values.min(initial=0) >= 0:
        return values
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def midranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of ``values``, from 1, flattened; equal values share the mean of their ranks."""
    code = codes(values).ravel()
    count = np.bincount(code)
    return (np.cumsum(count) - (count - 1) / 2)[code]


def spearman(x: np.ndarray, y: np.ndarray) -> Number:
    """Return Spearman's rank correlation of two equally long arrays; None when one of them is constant."""
    return pearson(midranks(x), midranks(y))


def auroc(score: np.ndarray, positive: np.ndarray) -> Number:
    """Return the probability that a positive scores above a negative, ties counted half; arrays of equal shape.

    None without both kinds, or where all scores are equal. The Mann-Whitney form: (sum of the positives' ranks -
    P (P + 1) / 2) / (P N).
    """
    positive = np.asarray(positive, bool).ravel()
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses or score.max() <= score.min():
        return None
    return float((midranks(score)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def sparsification(score: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the mean error of the 1, 2, ... n points of lowest score over that of all n, ``(n,)``.

    Among equal scores the order is random, and the curve its expectation (Ilg et al. 2018, Section 5.1). Scores and
    errors have any shape; errors are not negative and not all zero.
    """
    code, error = codes(score).ravel(), np.asarray(error, np.float64).ravel()
    count = np.bincount(code)
    mean = np.bincount(code, error) / np.maximum(count, 1)
    return np.cumsum(np.repeat(mean, count)) / np.arange(1, len(error) + 1) / error.mean()


def ause(score: np.ndarray, error: np.ndarray, error_code: np.ndarray | None = None) -> tuple[float, float] | None:
    """Return the area under the sparsification error, and the same over a random order's.

    None where all errors, or all scores, are equal. The area lies between the sparsification curve of the score and
    the oracle's, which sorts by the error itself; errors are divided by their overall mean. A random order's curve is
    1 throughout, so the second number is 0 for a perfect order, 1 for an uninformative, above 1 for a misleading one.
    """
    error = np.asarray(error, np.float64).ravel()
    if error.max() <= error.min() or score.max() <= score.min():
        return None
    oracle = sparsification(error if error_code is None else error_code, error)
    area = float((sparsification(score, error) - oracle).mean())
    return area, area / float((1 - oracle).mean())


def ranking_numbers(
    score: np.ndarray,
    error: np.ndarray,
    near_fall: np.ndarray,
    score_code: np.ndarray | None = None,
    error_code: np.ndarray | None = None,
) -> dict[str, Number]:
    """Return every metric of how well a score ranks errors; all arrays are ``(W, steps)``.

    Args:
        score: Larger where larger errors are expected.
        error: L1 errors.
        near_fall: Whether a recorded fall is about to follow.
        score_code: The score's :func:`codes`, where they are known.
        error_code: Those of the error.
    """
    score_code = codes(score) if score_code is None else score_code
    error_code = codes(error) if error_code is None else error_code
    by_step = score.mean(axis=0), error.mean(axis=0)
    within = remove_step_and_trajectory_means(score), remove_step_and_trajectory_means(error)
    areas = ause(score_code, error, error_code)
    return {
        "pearson_pooled": pearson(score, error),
        "pearson_step_averaged": pearson(*by_step),
        "pearson_within": pearson(*within),
        "spearman_pooled": spearman(score_code, error_code),
        "spearman_step_averaged": spearman(*by_step),
        "spearman_within": spearman(*within),
        "ause": areas and areas[0],
        "ause_over_random": areas and areas[1],
        "auroc_top_decile": auroc(score_code, error >= np.quantile(error, TOP)),
        "auroc_before_fall": auroc(score_code, near_fall),
    }
