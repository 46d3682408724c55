"""Noise on an exact model: what it costs is known by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from reports.evaluate import model_evaluation
from reports.evaluate.noise import NoiseConfig, evaluate_noise
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmdata.writer import DatasetWriter

HISTORY = 4


class SumModel(torch.nn.Module):
    """The first 12 state columns gain the action; the others stay."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.info = None
        self.config = SimpleNamespace(history=HISTORY, members=1, state_dim=45, action_dim=12)
        self.normalizer = SimpleNamespace(state=lambda x: x, action=lambda x: x)

    def warm_up(self, states, actions, aux=True):
        return 0

    def step(self, state, action, carry, member_ids=None, aux=True):
        state = state.clone()
        state[:, :12] += action
        zero, none = torch.zeros(len(state)), torch.zeros(1, *state.shape)
        return SimpleNamespace(state=state, epistemic=zero, aleatoric=zero, member_mean=none, member_std=none), carry


@pytest.fixture
def evaluated(home, schema, monkeypatch):
    rng = np.random.default_rng(0)
    with DatasetWriter(home.data_dir, "sum", "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(60):
            rows = np.zeros((34, schema.width), np.float32)
            rows[:, schema.action] = rng.normal(size=(34, 12))
            rows[:, :12] = rows[:, schema.action].cumsum(axis=0)
            rows[:, 12:45] = rng.normal(size=(1, 33))
            writer.append(Episode(rows, truncated=True))
        dataset = writer.commit()
    run = Run.create(home, "model", {}, {"dataset": dataset.name}, seed=0)
    run.finish({})
    monkeypatch.setattr(model_evaluation, "load_model", lambda path, device: SumModel())

    def evaluate(**options):
        return evaluate_noise(
            home, dataset, run.checkpoint, NoiseConfig(windows=40, resamples=20, device="cpu", **options)
        )

    return evaluate


def test_the_cost_of_noise_is_what_the_sum_of_its_draws_says(evaluated):
    run = evaluated(scales=(0.2, 0.4))
    summary = run.meta.summary
    assert summary["steps"] == 30 and summary["shortened"] and summary["scales"] == [0.0, 0.2, 0.4]
    table = pl.read_parquet(run.path / "noise_error.parquet")
    assert table.height == 3 * summary["windows"] * 30
    clean = table.filter(pl.col("scale") == 0)
    assert clean["l1_error"].max() < 1e-3
    # Noise of the last state and of k actions adds up: 12 columns of std s sqrt(k + 1), 33 of s; mean |z| is 0.798.
    for step, scale in ((1, 0.2), (25, 0.4)):
        found = table.filter((pl.col("scale") == scale) & (pl.col("step") == step))["l1_error"].mean()
        assert found == pytest.approx(0.798 * scale * (12 * np.sqrt(step + 1) + 33), rel=0.15)
    by = {(s["metric"], s["mode"], s["horizon"]): s for s in summary["scalars"]}
    double = by["rel_l1", "noise_0.4", 8]
    assert double["value"] == pytest.approx(2 * by["rel_l1", "noise_0.2", 8]["value"], rel=1e-2)
    assert double["low"] < double["value"] < double["high"]
    assert by["hold_last_rel_l1", "noise_0", 8]["value"] > by["rel_l1", "noise_0", 8]["value"]
    assert (
        by["mean_step_rel_l1_noised_target", "noise_0.4", 30]["value"]
        > by["mean_step_rel_l1", "noise_0.4", 30]["value"]
    )
    assert (run.path / "noise_error_by_step.png").stat().st_size > 20_000


def test_the_same_seed_gives_the_same_noise(evaluated, monkeypatch):
    monkeypatch.setattr("reports.evaluate.noise.draw_noise", lambda *args: None)
    first, again, other = (evaluated(scales=(0.2,), steps=8, seed=s).meta.summary["scalars"] for s in (0, 0, 1))
    assert first == again != other


def test_a_model_that_breaks_under_noise_is_named(evaluated, monkeypatch):
    step = SumModel.step

    def fragile(self, state, *args, **kwargs):
        prediction, carry = step(self, state, *args, **kwargs)
        prediction.state = torch.where(prediction.state.abs() > 40, torch.nan, prediction.state)
        return prediction, carry

    monkeypatch.setattr(SumModel, "step", fragile)
    with pytest.raises(RwmError, match="not finite at step"):
        evaluated(scales=(100.0,))
