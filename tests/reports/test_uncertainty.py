"""The evaluation on a model whose error and uncertainty are known by construction."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import reports.evaluation as evaluation
from reports.rollouts import held_out_windows, roll_out
from reports.uncertainty import UncertaintyConfig, evaluate_uncertainty
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmdata.writer import DatasetWriter

HISTORY = 4
FILES = {
    "summary.json",
    "uncertainty_error_rollout.csv",
    "uncertainty_error_by_step_mean.png",
    "uncertainty_error_by_step_sampled_member.png",
    "uncertainty_error_scatter_mean.png",
    "uncertainty_error_scatter_sampled_member.png",
}


class KnownModel(torch.nn.Module):
    """Adds the action to the first state columns: exact for the data below, plus a chosen error per step."""

    def __init__(self, error=0.0, broken=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(history=HISTORY, members=5, state_dim=45, action_dim=12)
        self.normalizer = SimpleNamespace(state=lambda x: x, action=lambda x: x)
        self.error, self.broken = error, broken

    def warm_up(self, states, actions):
        assert states.shape[1] == actions.shape[1] == HISTORY - 1
        return 0

    def step(self, state, action, carry, member_ids=None, aux=True):
        state = state.clone()
        state[:, :12] += action
        state[:, 44] += self.error
        if self.broken and carry == 3:
            state[2, 0] = torch.nan
        drift = state[:, 44].abs()
        none = torch.zeros(5, *state.shape)
        return SimpleNamespace(
            state=state, epistemic=drift, aleatoric=torch.zeros_like(drift), member_mean=none, member_std=none
        ), carry + 1


@pytest.fixture
def dataset(home, schema):
    """Episodes in which the first 12 state columns are the running sum of the actions (row t holds action t)."""
    rng = np.random.default_rng(0)
    with DatasetWriter(home.data_dir, "sum", "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(20):
            rows = np.zeros((60, schema.width), np.float32)
            rows[1:, schema.action] = rng.normal(size=(59, 12))
            rows[:, :12] = rows[:, schema.action].cumsum(axis=0)
            rows[:, 12:44] = rng.normal(size=(1, 32))
            writer.append_episode(rows, truncated=True)
        return writer.commit()


@pytest.fixture
def model_run(home, dataset):
    run = Run.create(home, "model", {}, {"dataset": dataset.name}, seed=0)
    run.finish({})
    return run


@pytest.fixture
def use(monkeypatch):
    return lambda model: monkeypatch.setattr(evaluation, "load_model", lambda path, device: model)


CONFIG = UncertaintyConfig(windows=6, steps=20, device="cpu")


def scalar(summary, metric, mode, horizon=None):
    (value,) = [
        s["value"]
        for s in summary["scalars"]
        if s["metric"] == metric and s["mode"] == mode and (horizon is None or s["horizon"] == horizon)
    ]
    return value


def test_windows_come_from_held_out_episodes_and_take_turns(dataset):
    windows = held_out_windows(dataset, count=8, history=HISTORY, steps=20, seed=1)
    held_out = set(dataset.split("test"))
    assert windows.split == "test" and set(windows.episode) == held_out
    assert np.bincount(windows.episode, minlength=20)[sorted(held_out)].tolist() == [4, 4]
    starts, ends = dataset.episodes.start[windows.episode], dataset.episodes.length[windows.episode]
    assert (windows.start >= starts).all() and (windows.start + 24 <= starts + ends).all()


def test_the_action_of_the_next_row_is_fed(dataset):
    """An exact model has no error; one action late, it would be off by one action."""
    windows = held_out_windows(dataset, 6, HISTORY, 20, seed=0)
    rollout = roll_out(KnownModel(), dataset, windows, HISTORY, "mean", seed=0)
    np.testing.assert_allclose(rollout.l1, 0, atol=1e-4)


def test_all_six_files_and_hand_computed_numbers(home, dataset, model_run, use):
    use(KnownModel(error=0.5))
    run = evaluate_uncertainty(home, dataset, model_run, CONFIG)
    assert {p.name for p in run.path.iterdir()} >= FILES
    summary = json.loads((run.path / "summary.json").read_text())
    # The only error is 0.5 per step in one column, so after k steps it is 0.5 k, and so is the uncertainty.
    assert scalar(summary, "final_l1", "mean") == pytest.approx(10, abs=1e-3)
    assert scalar(summary, "final_epistemic", "sampled_member") == pytest.approx(10, abs=1e-3)
    assert scalar(summary, "pearson_pooled", "mean") == pytest.approx(1, abs=1e-4)
    table = pl.read_csv(run.path / "uncertainty_error_rollout.csv")
    assert table.height == 2 * 6 * 20
    step_8 = table.filter((pl.col("step") == 8) & (pl.col("mode") == "mean"))
    np.testing.assert_allclose(step_8["l1_error"], 4.0, atol=1e-3)
    assert Run.open(run.path).meta.parents == {"dataset": "sum", "model": model_run.id}


def test_relative_error_by_horizon_is_sum_over_sum(home, dataset, model_run, use):
    use(KnownModel(error=0.5))
    run = evaluate_uncertainty(home, dataset, model_run, CONFIG)
    windows = held_out_windows(dataset, 6, HISTORY, 20, seed=0)
    recorded = np.abs(windows.rows[:, HISTORY : HISTORY + 8, dataset.schema.state]).sum()
    expected = 6 * 0.5 * sum(range(1, 9)) / recorded
    found = scalar(run.meta.summary, "rel_l1", "mean", 8)
    assert found == pytest.approx(expected, rel=1e-4)
    assert scalar(run.meta.summary, "hold_last_rel_l1", "mean", 8) > found


def test_constant_uncertainty_has_no_correlation_but_still_a_summary(home, dataset, model_run, use):
    use(KnownModel(error=0.0))
    run = evaluate_uncertainty(home, dataset, model_run, CONFIG)
    assert scalar(run.meta.summary, "pearson_pooled", "mean") is None


def test_a_model_that_produces_nan_is_named_and_nothing_is_plotted(home, dataset, model_run, use):
    use(KnownModel(broken=True))
    with pytest.raises(RwmError, match="not finite at step 4 of the window"):
        evaluate_uncertainty(home, dataset, model_run, CONFIG)
    run = home.runs("eval")[0]
    assert run.meta.status == "failed"
    assert not list(run.path.glob("*.png"))


def test_too_short_episodes_say_what_would_fit(home, dataset, model_run, use):
    use(KnownModel())
    with pytest.raises(RwmError, match="has the 204 rows one window needs") as caught:
        evaluate_uncertainty(home, dataset, model_run, UncertaintyConfig(steps=200, device="cpu"))
    assert caught.value.hint == "--steps 56"


def test_a_model_of_another_robot_is_refused(home, dataset, model_run, use):
    model = KnownModel()
    model.config.state_dim = 33
    use(model)
    with pytest.raises(RwmError, match="takes 33 state and 12 action columns"):
        evaluate_uncertainty(home, dataset, model_run, CONFIG)
