from __future__ import annotations

import numpy as np
import pytest

from reports.evaluate.statistics import (
    Interval,
    pearson,
    ratio_interval,
    remove_step_and_trajectory_means,
    seeds_interval,
)
from rwmdata.errors import RwmError


def test_pearson_by_hand():
    # dx = (-1, 0, 1), dy = (-1, 1, 0): covariance 1, norms sqrt(2) each
    assert pearson(np.array([1, 2, 3]), np.array([0, 2, 1])) == pytest.approx(0.5)
    assert pearson(np.array([1, 2, 3]), np.array([30, 20, 10])) == pytest.approx(-1.0)


def test_a_constant_has_no_correlation():
    assert pearson(np.full(50, 0.1), np.arange(50)) is None


def test_removing_means_leaves_only_the_interaction():
    steps, trajectories = np.arange(5.0), np.array([[3.0], [7.0], [1.0]])
    np.testing.assert_allclose(remove_step_and_trajectory_means(steps + trajectories), 0, atol=1e-12)
    noise = np.random.default_rng(0).normal(size=(3, 5))
    left = remove_step_and_trajectory_means(noise + steps + trajectories)
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(left.mean(axis=1), 0, atol=1e-12)


def test_ratio_interval_holds_the_ratio_and_shrinks_with_more_trajectories():
    rng = np.random.default_rng(0)

    def width(n):
        value, low, high = ratio_interval(rng.uniform(1, 3, n), np.full(n, 4.0))
        assert low < value < high
        return high - low

    assert width(1000) < 0.5 * width(50)
    assert ratio_interval(np.full(4, 1.0), np.full(4, 2.0)) == (0.5, 0.5, 0.5)


def test_a_number_that_is_not_finite_is_refused_by_name():
    with pytest.raises(RwmError, match="The number final_l1 cannot be kept: value: Input should be a finite number"):
        Interval(float("nan")).scalar("final_l1", "mean", 8)


def test_seeds_by_hand_and_more_than_ten_of_them():
    """Standard deviation of 1, 2, 3 is 1; twelve seeds take the quantile of ten."""
    assert seeds_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    many = seeds_interval([0.0, 2.0] * 6)
    assert many.value == 1.0 and many.high == pytest.approx(1 + 2.262 * (12 / 11) ** 0.5 / 12**0.5)


@pytest.mark.filterwarnings("error")
def test_resamples_that_hold_nothing_to_divide_by_are_left_out():
    """One trajectory of three has falls: a resample in nine has none."""
    value, low, high = ratio_interval(np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0]))
    assert (value, low, high) == (0.5, 0.5, 0.5)
