"""Ranking numbers by hand, against slow twins, and on scores whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest

from reports.evaluate.ranking import auroc, ause, midranks, ranking_numbers, sparsification, spearman
from reports.evaluate.statistics import bootstrap


def test_midranks_share_the_mean_rank_of_ties():
    assert midranks(np.array([10, 30, 20, 30, 30])).tolist() == [1, 4, 2, 4, 4]


def test_spearman_by_hand():
    # Ranks (1, 2, 3, 4) and (1, 3, 2, 4): 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert spearman(np.array([1, 2, 3, 4]), np.array([1, 100, 7, 1e6])) == pytest.approx(0.8)
    assert spearman(np.arange(9), np.full(9, 2.0)) is None


def test_auroc_by_hand_and_against_every_pair():
    # Of the four pairs three are right and one is a tie.
    assert auroc(np.array([1, 2, 2, 3]), np.array([0, 1, 0, 1])) == pytest.approx(3.5 / 4)
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 80), rng.random(80) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(pairs))
    assert auroc(score, np.zeros(80, bool)) is None
    assert auroc(np.ones(80), positive) is None


def test_sparsification_by_hand():
    # Kept first: error 1, then 3, then 2; the mean of all is 2.
    kept = sparsification(np.array([1, 9, 4]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(kept, [1 / 2, 2 / 2, 2 / 2])
    # A tie is the mean of both orders: of 3 then 2 and of 2 then 3.
    kept = sparsification(np.array([1, 4, 4]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(kept, [0.5, (1 + 2.5) / 2 / 2, 1])


def test_ause_by_hand():
    # The oracle keeps 1, 2, 3: means 1, 1.5, 2 over 2. The score keeps 1, 3, 2: means 1, 2, 2 over 2.
    area, share = ause(np.array([1, 9, 4]), np.array([1.0, 2.0, 3.0]))
    assert area == pytest.approx((0 + 0.25 + 0) / 3)
    assert share == pytest.approx(0.25 / (0.5 + 0.25))
    assert ause(np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])) == (0, 0)
    assert ause(np.array([3, 2, 1]), np.array([1.0, 2.0, 3.0]))[1] > 1
    assert ause(np.ones(3), np.arange(3.0)) is None and ause(np.arange(3), np.ones(3)) is None


def synthetic(seed=0, trajectories=60, steps=80, columns=45):
    """Return uncertainty and L1 error of an ensemble whose standard deviations are true, ``(W, steps)`` each."""
    rng = np.random.default_rng(seed)
    std = np.exp(rng.normal(0, 0.8, (trajectories, steps, 1)) + rng.normal(0, 0.3, (1, 1, columns)))
    return std.sum(axis=-1), np.abs(rng.normal(size=std.shape) * std).sum(axis=-1)


def test_a_true_uncertainty_sorts_errors_and_a_shuffled_one_does_not():
    score, error = synthetic()
    falls = np.zeros(error.shape, bool)
    found = ranking_numbers(score, error, falls)
    assert min(found["spearman_pooled"], found["spearman_within"], found["auroc_top_decile"]) > 0.98
    assert found["ause_over_random"] < 0.02 and found["auroc_before_fall"] is None
    shuffled = np.random.default_rng(1).permutation(score.ravel()).reshape(score.shape)
    found = ranking_numbers(shuffled, error, falls)
    for metric in ("pearson_pooled", "pearson_within", "spearman_pooled", "spearman_within"):
        assert abs(found[metric]) < 0.05
    assert found["auroc_top_decile"] == pytest.approx(0.5, abs=0.04)
    assert found["ause_over_random"] == pytest.approx(1, abs=0.05)


def test_the_step_alone_ranks_pooled_errors_but_not_within():
    score, error = synthetic()
    growth = np.arange(1, 81.0)
    found = ranking_numbers(np.broadcast_to(growth, error.shape), error * growth, np.zeros(error.shape, bool))
    assert found["spearman_pooled"] > 0.5 and found["spearman_step_averaged"] > 0.9
    assert found["pearson_within"] is None and found["spearman_within"] is None


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """Means of 12 trajectories of whole-trajectory noise: the interval has to resample trajectories, not points."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        values = rng.normal(size=(12, 1)) + np.zeros((12, 50))
        _, low, high = bootstrap(lambda v: {"mean": float(v.mean())}, values, seed=seed, draws=200)["mean"]
        held += low < 0 < high
    assert 82 <= held <= 99


def test_what_is_undefined_in_many_resamples_has_no_interval():
    score, error = np.arange(8.0).reshape(4, 2), np.arange(8.0).reshape(4, 2)
    falls = np.zeros((4, 2), bool)
    falls[3, 1] = True
    value, low, high = bootstrap(ranking_numbers, score, error, falls)["auroc_before_fall"]
    assert value == 1.0 and low is None and high is None
