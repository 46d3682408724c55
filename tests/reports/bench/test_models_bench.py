"""The comparison of models: resumable, the same trajectories for all, intervals by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cli.bench import by_metric
from reports.bench.models import VARIANTS, BenchModelsConfig, base_config, bench_models
from reports.evaluate.statistics import seeds_interval
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.writer import DatasetWriter


@pytest.fixture
def dataset(home, schema):
    rng = np.random.default_rng(0)
    with DatasetWriter(home.data_dir, "noisy", "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(40):
            rows = np.zeros((60, 66), np.float32)
            rows[:, :57] = rng.normal(size=(60, 57)).cumsum(axis=0)
            writer.append(Episode(rows, truncated=True))
        return writer.commit()


CONFIG = BenchModelsConfig(
    variants=("gru", "gru, teacher forcing", "transformer"), seeds=2, updates=3, hidden=8, windows=8, device="cpu"
)


def test_every_fit_is_made_once_and_all_are_scored_alike(home, dataset):
    found = bench_models(home, dataset, CONFIG)
    runs = home.runs("model")
    assert len(runs) == 6
    again = bench_models(home, dataset, CONFIG)
    assert len(home.runs("model")) == 6 and again == found
    rows = {(r["name"], r["metric"], r["horizon"]): r for r in found["rows"]}
    assert {r["horizon"] for r in found["rows"] if r["metric"] == "rel_l1"} == {1, 8}
    row = rows["transformer", "rel_l1", 8]
    assert row["seeds"] == 2 and row["low"] < row["value"] < row["high"]
    assert rows["hold_last", "rel_l1", 1]["seeds"] is None
    assert 0 <= rows["gru", "coverage", 8]["value"] <= rows["gru", "coverage_calibrated", 8]["value"] <= 1
    titles = [title for title, _, _ in by_metric(found["rows"])]
    assert any(t.startswith("rel_l1") for t in titles)


def test_a_broken_fit_is_resumed(home, dataset):
    bench_models(home, dataset, CONFIG)
    run = home.runs("model")[0]
    run.update(status="interrupted")
    bench_models(home, dataset, CONFIG)
    assert len(home.runs("model")) == 6 and home.run("model", run.id).meta.status == "finished"


def test_variants_differ_only_in_what_they_are_named_for():
    config = BenchModelsConfig()
    plain = base_config(config, "gru", 1).model_dump()
    assert plain["seed"] == 1 and plain["loss"]["sequence_weight"] is None
    for name in VARIANTS:
        changed = {k for k, v in base_config(config, name, 1).model_dump().items() if plain[k] != v}
        assert changed == set(VARIANTS[name]), name
    with pytest.raises(RwmError, match="Unknown variant 'gpt'"):
        base_config(config, "gpt", 0)


def test_interval_by_hand():
    found = seeds_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    # Standard error 1 / sqrt(3), t with two degrees of freedom 4.303.
    assert found.high - 2.0 == pytest.approx(4.303 / np.sqrt(3)) == pytest.approx(2.0 - found.low)
    assert seeds_interval([1.5]) == (1.5, None, None)
