"""Error by horizon and group against numbers worked out by hand, and the ridge model against a system it can learn."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from reports.evaluate.dynamics import DynamicsConfig, error_table, evaluate_dynamics, scalars
from reports.evaluate.linear_model import RidgeModel, ridge
from reports.evaluate.rollouts import Rollout
from rwmdata.episodes import Episode
from rwmdata.writer import DatasetWriter
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
from rwmmodel.normalizer import Normalizer


@pytest.fixture
def linear_dataset(home, schema):
    """Rows of s' = s + W [s, a, 1] without noise."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (58, 45)) - 0.05 * np.eye(58, 45)
    with DatasetWriter(home.data_dir, "linear", "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(30):
            rows = np.zeros((60, 66), np.float32)
            rows[0, :45] = rng.normal(size=45)
            for k in range(1, 60):
                rows[k, schema.action] = rng.normal(size=12)
                rows[k, :45] = rows[k - 1, :45] + np.concatenate((rows[k - 1, :45], rows[k, 45:57], [1])) @ weights
            writer.append(Episode(rows, truncated=True))
        return writer.commit()


def test_ridge_finds_a_linear_system_and_rolls_it_out(linear_dataset, schema):
    mean, std = np.full(57, 0.5), np.full(57, 2.0)
    model = RidgeModel(linear_dataset, mean, std)
    rows = (linear_dataset.matrix()[:60, :57] - mean) / std
    predicted = model.roll_out(rows[:1, :45], rows[None, 1:, 45:])
    assert predicted.shape == (1, 59, 45)
    np.testing.assert_allclose(predicted[0], rows[1:, :45], atol=0.2)


def test_ridge_by_hand():
    weights = ridge(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))
    np.testing.assert_allclose(weights[:, 0], [2.0, 1.0], atol=0.01)


def rollout_of(predicted, recorded, last):
    zeros = np.zeros(predicted.shape[:2])
    return Rollout(predicted, recorded, last, zeros, zeros, np.zeros_like(predicted), np.zeros_like(predicted))


def test_numbers_by_hand(linear_dataset):
    recorded, predicted = np.ones((2, 8, 45)), np.ones((2, 8, 45))
    predicted[:, 0] = 1.5
    predicted[1, 4] = 0.0
    rollout = rollout_of(predicted, recorded, np.zeros((2, 45)))
    mean, std = np.zeros(57), np.full(57, 2.0)
    config = EnsembleConfig(state_dim=45, action_dim=12, contact_dim=8, hidden=4, head_hidden=4)
    model = DynamicsEnsemble(config, Normalizer(45, 12, mean, std))
    every = {"model": predicted, "hold_last": np.zeros_like(recorded)}
    table = error_table(linear_dataset, model, rollout, every)
    found = {s.key: s.value for s in scalars(rollout, every, table)}
    assert found["rel_l1", "model", 1] == pytest.approx(0.5)
    assert found["rel_l1", "model", 8] == pytest.approx((0.5 * 2 + 1) / 16)
    assert found["rel_l1", "hold_last", 8] == 1.0
    assert found["rmse/base_lin_vel", "model", 1] == pytest.approx(1.0)
    assert found["rmse/joint_torque", "hold_last", 8] == pytest.approx(2.0)
    at_five = table.filter((pl.col("predictor") == "model") & (pl.col("step") == 5) & (pl.col("group") == "joint_pos"))
    assert at_five["rmse"].item() == pytest.approx(np.sqrt(0.5) * 2) and at_five["mae"].item() == pytest.approx(1.0)
    assert at_five["unit"].item() == "rad"


def test_the_evaluation_leaves_its_files_and_shortens_itself_to_the_data(home, linear_dataset):
    sizes = {"hidden": 8, "head_hidden": 8, "members": 2, "history": 4, "forecast": 2, "batch": 16, "updates": 3}
    config = FitConfig(**sizes, normalizer="fitted", device="cpu")
    run = evaluate_dynamics(
        home, linear_dataset, fit_model(home, linear_dataset, config).checkpoint, DynamicsConfig(windows=4)
    )
    summary = run.meta.summary
    assert summary["steps"] == 56 and summary["windows"] == 3
    assert {s["mode"] for s in summary["scalars"]} == {"model", "hold_last", "ridge"}
    for name in ("dynamics_error_by_horizon.png", "dynamics_trajectory.png"):
        assert (run.path / name).stat().st_size > 20_000
    frame = pl.read_parquet(run.path / "dynamics_error.parquet")
    assert frame.height == 3 * 6 * 56 and frame["rmse"].is_finite().all()
