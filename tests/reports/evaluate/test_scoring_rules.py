"""Scoring rules by hand, by numerical integration, and beside the uncertainty-toolbox package where it is there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports.evaluate.calibration import calibration_numbers, parts_of
from reports.evaluate.scoring_rules import ence, gaussian_crps, gaussian_nll, interval_coverage


@pytest.fixture
def true_ensemble():
    """Errors and their true standard deviations, ``(W, D)``."""
    rng = np.random.default_rng(0)
    std = np.exp(rng.normal(0, 1, (400, 45)))
    return rng.normal(size=std.shape) * std, std


def test_nll_by_hand():
    found = gaussian_nll(np.array([0.0, 2.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(found, [0.918939, 0.918939 + math.log(2) + 0.5], atol=1e-6)
    assert gaussian_nll(np.array([0.1]), np.array([0.0])) == np.inf


def test_crps_by_hand_and_by_integration():
    # At the mean of a standard normal: 2 / sqrt(2 pi) - 1 / sqrt(pi).
    assert gaussian_crps(np.zeros(1), np.ones(1)).item() == pytest.approx(0.233695, abs=1e-6)
    assert gaussian_crps(np.array([-3.0]), np.zeros(1)).item() == 3.0
    error, std = 0.7, 0.4
    x = np.linspace(-8, 8, 200_001)
    cdf = 0.5 * (1 + np.array([math.erf(v / std / math.sqrt(2)) for v in x[::20]]))
    integral = ((cdf - (x[::20] >= error)) ** 2).sum() * (x[20] - x[0])
    assert gaussian_crps(np.array([error]), np.array([std])).item() == pytest.approx(integral, abs=1e-3)


def test_ence_by_hand():
    # Bins (1, 1) and (2, 2): RMSE 1 of RMV 1, RMSE 3 of RMV 2.
    error, std = np.array([1.0, 3.0, -1.0, -3.0]), np.array([1.0, 2.0, 1.0, 2.0])
    assert ence(error, std, bins=2) == pytest.approx((0 + 1 / 2) / 2)
    assert ence(np.ones(20), np.zeros(20)) == math.inf


def test_interval_coverage_by_hand():
    # The central 68.27 % reach one standard deviation, the central 95.45 % two.
    found = interval_coverage(np.array([0.5, -1.5, 1.9, 4.0]), np.ones(4), np.array([0.6827, 0.9545]))
    assert found.tolist() == [0.25, 0.75]


def test_a_bin_holds_one_point_where_there_are_few():
    error, std = np.array([[1.0, -3.0, 2.0]]), np.array([[1.0, 2.0, 4.0]])
    assert ence(error, std) == pytest.approx((0 + 1 / 2 + 1 / 2) / 3)


@pytest.mark.filterwarnings("error")
def test_standard_deviations_of_zero_and_tiny_ones_warn_of_nothing():
    error, std = np.array([[0.0, 1.0, 2.0, 300.0]]), np.array([[0.0, 0.0, 1e-200, 1.0]])
    found = calibration_numbers(*parts_of(error, std))
    assert found["nll"] is None and found["ence"] is None and found["coverage"] == 0.25
    assert gaussian_crps(error, std)[0, :2].tolist() == [0.0, 1.0]
    assert interval_coverage(error, std, np.array([0.9])).tolist() == [0.25]


def test_a_true_ensemble_is_found_calibrated_and_an_overconfident_one_is_not(true_ensemble):
    error, std = true_ensemble
    found = calibration_numbers(*parts_of(error, std))
    assert found["coverage"] == pytest.approx(0.683, abs=0.01)
    assert found["coverage_2std"] == pytest.approx(0.954, abs=0.01)
    assert found["error_over_std"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)
    assert found["ence"] < 0.03
    levels = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(interval_coverage(error, std, levels), levels, atol=0.01)
    small = calibration_numbers(*parts_of(error, std / 4))
    assert small["ence"] == pytest.approx(3, abs=0.1) and small["error_over_std"] > 3
    for metric in ("nll", "crps"):
        assert all(found[metric] < calibration_numbers(*parts_of(error, std * s))[metric] for s in (0.25, 0.8, 1.25, 4))


def test_shuffled_deviations_keep_their_size_but_lose_calibration(true_ensemble):
    error, std = true_ensemble
    shuffled = np.random.default_rng(1).permutation(std.ravel()).reshape(std.shape)
    assert ence(error, shuffled) > 20 * ence(error, std)


def test_a_deviation_of_zero_has_no_likelihood(true_ensemble):
    error, std = true_ensemble
    std[0, 0] = 0
    found = calibration_numbers(*parts_of(error, std))
    assert found["nll"] is None and found["crps"] > 0 and found["ence"] < 0.05


def test_as_uncertainty_toolbox_has_it(true_ensemble):
    toolbox = pytest.importorskip("uncertainty_toolbox")
    error, std = (part.ravel() for part in true_ensemble)
    zero = np.zeros_like(error)
    assert gaussian_nll(error, std).mean() == pytest.approx(toolbox.nll_gaussian(error, std, zero), rel=1e-9)
    assert gaussian_crps(error, std).mean() == pytest.approx(toolbox.crps_gaussian(error, std, zero), rel=1e-9)
    levels = np.array([0.1, 0.5, 0.6827, 0.9545])
    theirs = [toolbox.get_proportion_in_interval(error, std, zero, level) for level in levels]
    np.testing.assert_allclose(interval_coverage(error, std, levels), theirs, atol=1e-12)
