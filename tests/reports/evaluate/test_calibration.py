"""Per-horizon calibration on ensembles whose true spread is known, and on a small fitted model."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

from reports.evaluate import uncertainty
from reports.evaluate.calibration import (
    CalibrationConfig,
    calibrate,
    calibration_table,
    deviations,
    evaluate_calibration,
    groups_of,
)
from reports.evaluate.rollouts import Rollout
from reports.evaluate.uncertainty import UncertaintyConfig, evaluate_uncertainty
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.writer import DatasetWriter
from rwmmodel.calibration_factors import SPREADS, Calibration, Factors, coverage, step_factors
from rwmmodel.checkpoint import load_model
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig

FIT = FitConfig(hidden=8, head_hidden=8, members=3, history=4, forecast=2, batch=32, updates=30, device="cpu")


def rollout_with(factors, seed, windows=400):
    """Errors are Gaussian with ``factors`` times the claimed standard deviation, which differs by column."""
    rng = np.random.default_rng(seed)
    std = np.broadcast_to(rng.uniform(0.1, 2.0, (windows, 1, 45)), (windows, len(factors), 45))
    error = rng.normal(size=std.shape) * std * np.array(factors)[:, None]
    zeros = np.zeros(std.shape[:2])
    return Rollout(error, np.zeros_like(error), np.zeros((windows, 45)), zeros, zeros, std, np.sqrt(2) * std)


@pytest.fixture
def dataset(home, schema):
    rng = np.random.default_rng(0)
    with DatasetWriter(home.data_dir, "noisy", "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(60):
            rows = np.zeros((40, 66), np.float32)
            rows[:, schema.action] = rng.normal(size=(40, 12))
            rows[0, :45] = rng.normal(size=45)
            for k in range(1, 40):
                rows[k, :45] = 0.9 * rows[k - 1, :45] + 0.4 * rng.normal(size=45)
            writer.append(Episode(rows, truncated=True))
        return writer.commit()


def test_factors_are_what_a_known_spread_lacks_and_hold_on_other_trajectories(schema, dataset):
    true = [0.5, 1.0, 8.3, 33.0]
    rollout, unseen = rollout_with(true, seed=1), rollout_with(true, seed=2)
    factors = step_factors(rollout.error, rollout.epistemic_std)
    np.testing.assert_allclose(factors, true, rtol=0.03)
    total = step_factors(rollout.error, rollout.total_std)
    np.testing.assert_allclose(total, factors / np.sqrt(2), rtol=1e-12)
    calibration = Calibration(
        dataset="x", split="val", windows=400, seed=0, epistemic=tuple(factors), total=tuple(total)
    )
    stds = deviations(unseen, calibration)
    table = calibration_table(dataset, unseen, stds).filter(pl.col("group") == "all")
    after = table.filter(pl.col("mode") == "epistemic_calibrated")
    np.testing.assert_allclose(after["coverage"], 0.683, atol=0.01)
    np.testing.assert_allclose(after["coverage_2std"], 0.954, atol=0.01)
    np.testing.assert_allclose(after["error_over_std"], np.sqrt(2 / np.pi), atol=0.02)
    assert after["ence"].max() < 0.06
    before = table.filter(pl.col("mode") == "epistemic")
    np.testing.assert_allclose(np.array(before["ence"]) / true, [1, 0, 7.3 / 8.3, 32 / 33], atol=0.06)
    # P(|z| < 1 / factor) of a standard normal.
    np.testing.assert_allclose(before["coverage"], [0.954, 0.683, 0.096, 0.024], atol=0.01)


def test_a_group_of_columns_has_its_own_factors_and_others_those_of_all():
    own = Factors(epistemic=(20.0, 30.0), total=(10.0, 50.0))
    about = {"dataset": "x", "split": "val", "windows": 2, "seed": 0}
    calibration = Calibration(**about, epistemic=(2.0, 3.0), total=(1.0, 5.0), groups={"joint_pos": own})
    columns = {"joint_pos": slice(1, 3), "joint_vel": slice(3, 4)}
    factors = calibration.of_columns("epistemic", 3, columns, 4)
    assert factors.tolist() == [[2, 20, 20, 2], [3, 30, 30, 3], [3, 30, 30, 3]]
    old = Calibration(**about, epistemic=(2.0, 3.0), total=(1.0, 5.0))
    assert old.of_columns("total", 2, columns, 4).tolist() == [[1] * 4, [5] * 4]


def test_every_group_of_a_calibrated_model_is_covered(home, dataset):
    """Members disagree about all columns alike, and are wrong about one group ten times as much."""
    rollouts = []
    for seed in (1, 2):
        rollout = rollout_with([1.0, 1.0], seed=seed)
        rollout.predicted[..., dataset.schema.group("joint_vel")] *= 10
        rollouts.append(rollout)
    fitted, unseen = rollouts
    groups = groups_of(dataset.schema)
    factors = {
        name: Factors(**{s: tuple(step_factors(fitted.error[..., at], fitted.epistemic_std[..., at])) for s in SPREADS})
        for name, at in groups.items()
    }
    whole = {s: tuple(step_factors(fitted.error, fitted.epistemic_std)) for s in SPREADS}
    calibration = Calibration(dataset="x", split="val", windows=400, seed=0, **whole, groups=factors)
    by_group = calibration_table(dataset, unseen, deviations(unseen, calibration, groups))
    covered = by_group.filter(pl.col("mode") == "epistemic_calibrated")
    np.testing.assert_allclose(covered["coverage"], 0.683, atol=0.03)
    by_step = calibration_table(dataset, unseen, deviations(unseen, calibration))
    least = by_step.filter((pl.col("mode") == "epistemic_calibrated") & (pl.col("group") == "joint_vel"))
    assert least["coverage"].max() < 0.3


def test_coverage_by_hand():
    error = np.array([[[0.5, -2.0, 1.0, 0.0]]])
    assert coverage(error, np.ones_like(error)).item() == 0.75


def test_later_steps_take_the_last_factor():
    calibration = Calibration(dataset="x", split="val", windows=2, seed=0, epistemic=(2.0, 3.0), total=(1.0, 5.0))
    assert calibration.at(torch.tensor([[1, 2], [3, 900]])).tolist() == [[2.0, 3.0], [3.0, 3.0]]
    assert calibration.at(torch.tensor(2), "total").item() == 5.0


def test_members_that_agree_exactly_cannot_be_calibrated():
    rollout = rollout_with([1.0, 1.0], seed=0, windows=5)
    with pytest.raises(RwmError, match="do not disagree"):
        step_factors(rollout.error, np.zeros_like(rollout.error))


@pytest.mark.parametrize("shared", [True, False])
def test_a_fitted_model_covers_what_it_has_not_seen(home, dataset, shared, monkeypatch):
    run = fit_model(home, dataset, FIT.model_copy(update={"shared_base": shared}))
    weights = load_model(run.model_file).state_dict()
    with pytest.raises(RwmError, match="never calibrated"):
        evaluate_uncertainty(home, dataset, run.checkpoint, UncertaintyConfig(windows=8, steps=10, calibrated=True))
    config = CalibrationConfig(windows=200, resamples=20)
    found = calibrate(dataset, run.checkpoint, config)
    model = load_model(run.model_file)
    assert model.calibration == found and found.steps == 36 and found.split == "val"
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    result = evaluate_calibration(home, dataset, run.checkpoint, config)
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary["split"] == "test" and summary["calibrated_on"]["split"] == "val"
    at = {(s["mode"], s["horizon"]): s["value"] for s in summary["scalars"] if s["metric"] == "coverage"}
    for h in (1, 8, 32):
        assert at["epistemic_calibrated", h] == pytest.approx(0.683, abs=0.1)
        assert at["total_calibrated", h] == pytest.approx(0.683, abs=0.1)
    for name in ("coverage", "reliability", "sharpness"):
        assert (result.path / f"calibration_{name}.png").stat().st_size > 10_000
    every = pl.read_parquet(result.path / "calibration.parquet")
    assert every.height == 4 * 7 * 36 and every.null_count().sum_horizontal().item() == 0
    better = {(s["metric"], s["mode"]): s["value"] for s in summary["scalars"] if s["horizon"] == 8}
    for metric in ("ence", "nll", "crps"):
        assert better[metric, "epistemic_calibrated"] < better[metric, "epistemic"]
    monkeypatch.setattr(uncertainty, "draw_all", lambda *args: None)
    settings = UncertaintyConfig(windows=8, steps=10, resamples=20)
    plain, scaled = (
        evaluate_uncertainty(home, dataset, run.checkpoint, settings.model_copy(update={"calibrated": c}))
        for c in (False, True)
    )
    last = [
        next(s["value"] for s in r.meta.summary["scalars"] if s["metric"] == "final_epistemic") for r in (plain, scaled)
    ]
    assert last[1] == pytest.approx(last[0] * found.epistemic[9], rel=1e-5)


def test_a_single_member_has_only_its_own_deviation(home, dataset):
    run = fit_model(home, dataset, FIT.model_copy(update={"members": 1}))
    with pytest.raises(RwmError, match="one member"):
        calibrate(dataset, run.checkpoint)
    result = evaluate_calibration(home, dataset, run.checkpoint, CalibrationConfig(windows=40, steps=8, resamples=20))
    summary = result.meta.summary
    assert "the model has one member" in summary["not_computed"][0]
    assert {s["mode"] for s in summary["scalars"]} == {"total"}


def test_trajectories_the_calibration_has_seen_are_refused(home, dataset, monkeypatch):
    run = fit_model(home, dataset, FIT)
    calibrate(dataset, run.checkpoint, CalibrationConfig(windows=20))
    split = type(dataset).split
    monkeypatch.setattr(type(dataset), "split", lambda self, name: split(self, name)[: 0 if name == "test" else None])
    with pytest.raises(RwmError, match="no test episode is left"):
        evaluate_calibration(home, dataset, run.checkpoint, CalibrationConfig(windows=20))
