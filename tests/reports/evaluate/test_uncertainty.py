"""The evaluation on a model whose error and uncertainty are known by construction."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import reports.evaluate.model_evaluation as evaluation
import reports.evaluate.uncertainty as uncertainty
import reports.evaluate.uncertainty_figures as uncertainty_figures
from reports.evaluate.rollouts import held_out_windows, roll_out, stale_actions
from reports.evaluate.uncertainty import UncertaintyConfig, evaluate_uncertainty, near_fall
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmdata.writer import DatasetWriter
from rwmmodel.ensemble import ModelInfo

HISTORY = 4
FILES = {
    "summary.json",
    "uncertainty_error_rollout.csv",
    "uncertainty_error_rollout.parquet",
    "uncertainty_sparsification_mean.png",
    "uncertainty_sparsification_sampled_member.png",
    "uncertainty_error_by_step_mean.png",
    "uncertainty_error_by_step_sampled_member.png",
    "uncertainty_error_scatter_mean.png",
    "uncertainty_error_scatter_sampled_member.png",
}


class KnownModel(torch.nn.Module):
    """Adds the action to the first state columns: exact for the data below, plus a chosen error per step."""

    def __init__(self, error=0.0, broken=False, members=5):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(history=HISTORY, members=members, state_dim=45, action_dim=12)
        self.normalizer = SimpleNamespace(state=lambda x: x, action=lambda x: x)
        self.error, self.broken, self.info = error, broken, None

    def warm_up(self, states, actions, aux=True):
        assert states.shape[1] == actions.shape[1] == HISTORY - 1
        return 0

    def step(self, state, action, carry, member_ids=None, aux=True):
        state = state.clone()
        state[:, :12] += action
        state[:, 44] += self.error
        if self.broken and carry == 3:
            state[2, 0] = torch.nan
        drift = state[:, 44].abs() * (self.config.members > 1)
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
            writer.append(Episode(rows, truncated=True))
        return writer.commit()


@pytest.fixture
def model_run(home, dataset):
    run = Run.create(home, "model", {}, {"dataset": dataset.name}, seed=0)
    run.finish({})
    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Numbers without figures, which take their time."""
    monkeypatch.setattr(uncertainty, "draw_all", lambda *args: None)


@pytest.fixture
def use(monkeypatch):
    return lambda model: monkeypatch.setattr(evaluation, "load_model", lambda path, device: model)


CONFIG = UncertaintyConfig(windows=6, steps=20, resamples=20, device="cpu")


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
    rollout = roll_out(KnownModel(), dataset.schema, windows)
    np.testing.assert_allclose(rollout.l1, 0, atol=1e-4)


def test_all_files_and_hand_computed_numbers(home, dataset, model_run, use):
    use(KnownModel(error=0.5))
    run = evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)
    assert {p.name for p in run.path.iterdir()} >= FILES
    summary = json.loads((run.path / "summary.json").read_text())
    # The only error is 0.5 per step in one column, so after k steps it is 0.5 k, and so is the uncertainty.
    assert scalar(summary, "final_l1", "mean") == pytest.approx(10, abs=1e-3)
    assert scalar(summary, "final_epistemic", "sampled_member") == pytest.approx(10, abs=1e-3)
    assert scalar(summary, "pearson_pooled", "mean") == pytest.approx(1, abs=1e-4)
    assert scalar(summary, "spearman_pooled", "mean") == pytest.approx(1, abs=1e-3)
    assert scalar(summary, "spearman_pooled/step_index", "mean") == pytest.approx(1, abs=1e-3)
    assert scalar(summary, "pearson_within/step_index", "mean") is None
    table = pl.read_csv(run.path / "uncertainty_error_rollout.csv")
    assert pl.read_parquet(run.path / "uncertainty_error_rollout.parquet").columns == table.columns
    assert table.height == 2 * 6 * 20
    step_8 = table.filter((pl.col("step") == 8) & (pl.col("mode") == "mean"))
    np.testing.assert_allclose(step_8["l1_error"], 4.0, atol=1e-3)
    assert Run.open(run.path).meta.parents == {"dataset": "sum", "model": model_run.id}


def test_relative_error_by_horizon_is_sum_over_sum(home, dataset, model_run, use, undrawn):
    use(KnownModel(error=0.5))
    run = evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)
    windows = held_out_windows(dataset, 6, HISTORY, 20, seed=0)
    recorded = np.abs(windows.rows[:, HISTORY : HISTORY + 8, dataset.schema.state]).sum()
    expected = 6 * 0.5 * sum(range(1, 9)) / recorded
    found = scalar(run.meta.summary, "rel_l1", "mean", 8)
    assert found == pytest.approx(expected, rel=1e-4)
    assert scalar(run.meta.summary, "hold_last_rel_l1", "mean", 8) > found


def test_constant_uncertainty_has_no_correlation_but_still_a_summary(home, dataset, model_run, use, undrawn):
    use(KnownModel(error=0.0))
    run = evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)
    assert scalar(run.meta.summary, "pearson_pooled", "mean") is None


def test_a_model_that_produces_nan_is_named_and_nothing_is_plotted(home, dataset, model_run, use):
    use(KnownModel(broken=True))
    with pytest.raises(RwmError, match="not finite at step 4 of the window"):
        evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)
    run = home.runs("eval")[0]
    assert run.meta.status == "failed"
    assert not list(run.path.glob("*.png"))


def test_too_short_episodes_say_what_would_fit(home, dataset, model_run, use):
    use(KnownModel())
    with pytest.raises(RwmError, match="has the 204 rows one window needs") as caught:
        evaluate_uncertainty(home, dataset, model_run.checkpoint, UncertaintyConfig(steps=200, device="cpu"))
    assert caught.value.hint == "--steps 56"


def test_a_model_of_another_robot_is_refused(home, dataset, model_run, use):
    model = KnownModel()
    model.config.state_dim = 33
    use(model)
    with pytest.raises(RwmError, match="takes 33 state and 12 action columns"):
        evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)


def test_actions_one_row_late_are_off_by_one_action_and_the_evaluation_shows_it(
    home, dataset, model_run, use, monkeypatch
):
    for name in ("draw_by_step", "draw_scatter", "draw_sparsification"):
        monkeypatch.setattr(uncertainty_figures, name, lambda *args: None)
    windows = held_out_windows(dataset, 6, HISTORY, 20, seed=0)
    late = roll_out(KnownModel(), dataset.schema, windows, disturb=stale_actions)
    # After k steps the late sum lacks the k-th action and holds the one before the first.
    action = windows.rows[:, :, dataset.schema.action]
    expected = np.abs(action[:, HISTORY:] - action[:, HISTORY - 1 : HISTORY]).sum(axis=-1)
    np.testing.assert_allclose(late.l1, expected, rtol=1e-3)
    use(KnownModel(error=0.5))
    run = evaluate_uncertainty(
        home, dataset, model_run.checkpoint, CONFIG.model_copy(update={"reference_alignment": True})
    )
    assert scalar(run.meta.summary, "stale_over_aligned_error", "mean", 1) == pytest.approx(
        (expected[:, 0].sum() + 6 * 0.5) / (6 * 0.5), rel=1e-3
    )
    assert scalar(run.meta.summary, "rel_l1", "mean_reference_alignment", 8) > scalar(
        run.meta.summary, "rel_l1", "mean", 8
    )
    assert pl.read_parquet(run.path / "uncertainty_error_rollout.parquet")["mode"].n_unique() == 4
    assert [p.name for p in run.path.glob("*.png")] == ["reference_alignment.png"]


def test_a_splice_shows_as_a_jump_of_the_error_where_two_episodes_meet(home, dataset, schema):
    halves = dataset.matrix().reshape(20, 60, -1)
    with DatasetWriter(home.data_dir, "spliced", "anymal_d", schema, 50.0, {}) as writer:
        for k in range(20):
            writer.append(Episode(np.concatenate((halves[k, :30], halves[k - 1, 30:])), truncated=True))
        spliced = writer.commit()
    windows = held_out_windows(spliced, 8, HISTORY, 20, seed=0)
    rollout = roll_out(KnownModel(), spliced.schema, windows)
    of_step = (windows.start - spliced.episodes.start[windows.episode])[:, None] + HISTORY + np.arange(20)
    before = (of_step[:, :1] >= 30) | (of_step < 30)
    before &= of_step[:, :1] - HISTORY + 1 != 30
    assert (~before).any() and before.any()
    assert rollout.l1[before].max() < 1e-3 and rollout.l1[~before].min() > 5


def test_rows_near_a_fall_are_the_last_25_of_an_episode_that_ends_in_one(home, schema):
    with DatasetWriter(home.data_dir, "falls", "anymal_d", schema, 50.0, {}) as writer:
        for fall in (True, False):
            rows = np.random.default_rng(0).normal(size=(60, schema.width)).astype(np.float32)
            rows[:, -1] = 0
            rows[-1, -1] = fall
            writer.append(Episode(rows, truncated=not fall))
        falls = writer.commit()
    found = near_fall(falls, np.array([0, 20, 60]), history=10, steps=30)
    # Row 35 of 60 is the first of the last 25: step 25 of a forecast from row 10, step 5 of one from row 30.
    assert found[0].nonzero()[0].tolist() == [25, 26, 27, 28, 29]
    assert found[1].nonzero()[0].tolist() == list(range(5, 30))
    assert not found[2].any()


def test_one_member_has_no_uncertainty_says_so_and_draws_none(home, dataset, model_run, use):
    use(KnownModel(error=0.5, members=1))
    run = evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)
    summary = run.meta.summary
    assert "the model has one member" in summary["not_computed"][0]
    assert "no window reaches the 25 steps before a recorded fall" in summary["not_computed"][1]
    for metric in ("pearson_pooled", "spearman_within", "ause", "auroc_top_decile"):
        assert scalar(summary, metric, "mean") is None
    assert scalar(summary, "auroc_top_decile/step_index", "mean") == 1.0
    drawn = {p.name for p in run.path.glob("*.png")}
    assert drawn == {f"uncertainty_error_by_step_{mode}.png" for mode in ("mean", "sampled_member")}


def test_another_robot_rate_or_column_order_of_the_same_sizes_is_refused(home, dataset, model_run, use):
    model = KnownModel()
    names = dataset.schema.csv_names
    for info, said in (
        (ModelInfo("go2", names, 50.0, "x"), "robot go2 and not anymal_d"),
        (ModelInfo("anymal_d", names, 100.0, "x"), "rows a second 100 and not 50"),
        (ModelInfo("anymal_d", names[::-1], 50.0, "x"), "columns of other names"),
    ):
        model.info = info
        use(model)
        with pytest.raises(RwmError, match=said):
            evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)


@pytest.mark.parametrize(
    ("scale", "said"), [(1000.0, "base_lin_vel_x, .* standard deviations away"), (1e-6, "nothing")]
)
def test_a_normaliser_of_other_units_is_refused(home, dataset, model_run, use, scale, said):
    model = KnownModel()
    model.normalizer = SimpleNamespace(state=lambda x: x * scale, action=lambda x: x)
    use(model)
    with pytest.raises(RwmError, match=f"not made for 'sum': in its terms {said}"):
        evaluate_uncertainty(home, dataset, model_run.checkpoint, CONFIG)


def test_a_bound_does_not_hide_a_prediction_that_is_not_finite(dataset):
    """A bounded model clips an infinite state; its members' spread still shows it."""
    model = KnownModel()
    step = model.step

    def infinite(*args, **kwargs):
        prediction, carry = step(*args, **kwargs)
        prediction.epistemic = torch.full_like(prediction.epistemic, torch.inf)
        return prediction, carry

    model.step = infinite
    with pytest.raises(RwmError, match="not finite at step 1"):
        roll_out(model, dataset.schema, held_out_windows(dataset, 2, HISTORY, 20, seed=0))
