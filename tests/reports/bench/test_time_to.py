"""Minutes until a mark: by hand, and for tiny fits and policies."""

from __future__ import annotations

import json
from shutil import copyfile

import numpy as np
import pytest
import torch

from reports.bench import time_to_error, time_to_score
from reports.bench.curves import Curve
from reports.bench.time_to_error import BenchTimeToErrorConfig, bench_time_to_error, fits_of, lengths, paces
from reports.bench.time_to_score import BenchTimeToScoreConfig, bench_time_to_score
from reports.evaluate.policy_score import reference_returns
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.fit_config import FitConfig

TINY = {"hidden": 8, "head_hidden": 8, "members": 2, "layers": 1, "history": 4, "forecast": 2, "batch": 4, "updates": 9}
SHORT = {"horizons": (1, 8), "marks": (100.0, 1e-6), "fewest": 2, "windows": 4, "device": "cpu", "pace": 8}


@pytest.fixture
def presets(monkeypatch):
    """Two small presets: one of ours, which may take the fastest arithmetic, and one that is published."""
    ours, published = {**TINY, "precision": "auto"}, {**TINY, "schedule": "constant", "updates": 4}
    monkeypatch.setattr(FitConfig, "presets", {**FitConfig.presets, "ours": ours, "published": published})


@pytest.fixture
def walks(make_dataset):
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(20):
        rows = np.zeros((40, 66), np.float32)
        rows[:, :57] = rng.normal(size=(40, 57)).cumsum(axis=0)
        parts.append(rows)
    return make_dataset(parts, "walks")


def test_the_mark_is_passed_on_a_straight_line_over_the_logarithm_of_time():
    curve = Curve("a", (1.0, 4.0, 16.0), (0.8, 0.6, 0.2))
    assert curve.until(0.4) == pytest.approx(8.0)
    assert curve.until(0.6) == pytest.approx(4.0)
    assert curve.until(0.9) == 1.0 and curve.until(0.1) is None
    assert Curve("b", (1.0, 4.0), (0.2, 0.6)).until(0.4, rising=True) == pytest.approx(2.0)
    assert Curve("b", (0.0, 1.0, 2.0), (0.9, 0.1, 0.3)).until(0.5, rising=True) == 0.0


def test_updates_are_halved_as_long_as_enough_are_left():
    assert lengths(2300, 70) == [71, 143, 287, 575, 1150, 2300]
    assert lengths(50, 70) == [50]


def test_only_the_longest_fits_are_made_where_points_are_few():
    assert lengths(2300, 70, points=2) == [1150, 2300]
    assert lengths(2300, 70, points=1) == [2300]


def test_a_fit_that_would_take_too_long_is_halved_until_it_does_not():
    assert lengths(50_000, 70, most=200) == [97, 195]
    assert lengths(50_000, 70, most=20) == [12]
    assert lengths(50_000, 70, most=0) == [1]


def test_a_variant_changes_the_first_preset(presets):
    config = BenchTimeToErrorConfig(fits=("ours", "published"), variants=("hidden=6 lr=0.1",), updates=8, **SHORT)
    made = fits_of(config)
    usual, varied = made["ours", "float32"], made["ours hidden=6 lr=0.1", "float32"]
    assert varied == usual.model_copy(update={"hidden": 6, "lr": 0.1}) and made["published", "float32"].hidden == 8
    assert {fit.updates for fit in made.values()} == {8}
    with pytest.raises(RwmError, match="'hidden' is not KEY=VALUE"):
        fits_of(BenchTimeToErrorConfig(fits=("ours",), variants=("hidden",), **SHORT))
    with pytest.raises(RwmError, match="no_such"):
        fits_of(BenchTimeToErrorConfig(fits=("ours",), variants=("no_such=1",), **SHORT))


def test_a_curve_is_the_mean_over_seeds_and_a_variant_stands_beside_its_preset(home, walks, presets, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    config = BenchTimeToErrorConfig(fits=("ours",), variants=("hidden=6",), seeds=2, points=1, seed=3, **SHORT)
    found = bench_time_to_error(home, walks, config)
    assert [(p["preset"], p["updates"], p["seed"]) for p in found["points"]] == [
        ("ours", 9, 3),
        ("ours", 9, 4),
        ("ours hidden=6", 9, 3),
        ("ours hidden=6", 9, 4),
    ]
    own, varied = found["points"][:2], found["points"][2:]
    passed, reached = (
        row for row in found["rows"] if row["name"].startswith("ours hidden=6") and "h = 1 " in row["name"]
    )
    assert passed["value"] == pytest.approx(np.mean([p["minutes"] for p in varied]))
    assert passed["baseline"] == pytest.approx(np.mean([p["minutes"] for p in own]))
    assert reached["value"] == pytest.approx(np.mean([p["rel_l1_h1"] for p in varied]))
    assert reached["baseline"] == pytest.approx(np.mean([p["rel_l1_h1"] for p in own]))


def test_our_presets_are_fitted_in_every_arithmetic_and_the_others_in_float32(presets, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    made = fits_of(BenchTimeToErrorConfig(fits=("ours", "published"), **SHORT))
    assert [*made] == [("ours", "float32"), ("ours", "bfloat16"), ("published", "float32")]
    for (_, precision), fit in made.items():
        assert (fit.precision, fit.normalizer, fit.val_windows) == (precision, "fitted", 4)


def test_every_point_is_a_fit_that_is_made_once(home, walks, presets, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    config = BenchTimeToErrorConfig(fits=("ours",), **SHORT)
    found = bench_time_to_error(home, walks, config, tmp_path / "curves.png")
    runs = home.runs("model")
    assert len(runs) == 6 and (tmp_path / "curves.png").stat().st_size > 10_000
    assert [(p["precision"], p["updates"]) for p in found["points"]] == [
        (precision, updates) for precision in ("float32", "bfloat16") for updates in (2, 4, 9)
    ]
    first = runs[-1].meta
    assert found["points"][0]["rel_l1_h8"] == first.summary["val/rel_l1_h8"] and first.config["val_interval"] == 2
    pace = [p["minutes"] / p["updates"] for p in found["points"]]
    assert pace == pytest.approx([pace[0]] * 3 + [pace[3]] * 3)
    rows = {row["name"]: row for row in found["rows"]}
    passed = rows["ours, bfloat16: until h = 1 is below 100"]
    exact = rows["ours, float32: until h = 1 is below 100"]
    assert exact["value"] == found["points"][0]["minutes"] == passed["baseline"] and exact["ratio"] is None
    assert passed["ratio"] == pytest.approx(passed["value"] / exact["value"])
    never = rows["ours, float32: until h = 8 is below 1e-06"]
    assert never["value"] is None and never["ratio"] is None
    runs[0].update(status="interrupted")
    again = bench_time_to_error(home, walks, config)["points"]
    assert [p["rel_l1_h8"] for p in again[:-1]] == [p["rel_l1_h8"] for p in found["points"][:-1]]
    assert len(home.runs("model")) == 6


def test_the_pace_is_that_of_the_faster_of_two_short_fits_in_turns(walks, presets, monkeypatch):
    made, speeds = [], iter([100.0, 40.0, 50.0, 80.0])

    def fit(home, dataset, fit):
        made.append((fit.schedule, fit.updates))
        run = Run.create(home, "model", {}, {"dataset": dataset.name}, seed=0)
        run.finish({"windows_per_second": next(speeds)})
        return run

    monkeypatch.setattr(time_to_error, "fit_model", fit)
    fits = {(name, "float32"): build(FitConfig, name) for name in ("ours", "published")}
    assert paces(walks, fits, windows=9) == {("ours", "float32"): 4 / 100, ("published", "float32"): 4 / 80}
    assert made == 2 * [("cosine", 2), ("constant", 2)]


def test_no_fit_takes_too_long(home, walks, presets):
    short = bench_time_to_error(home, walks, BenchTimeToErrorConfig(fits=("published",), **SHORT, minutes=1e-9))
    assert [p["updates"] for p in short["points"]] == [1]
    assert len(home.runs("model")) == 1


def test_horizons_that_no_episode_has_are_refused(home, walks, presets):
    config = BenchTimeToErrorConfig(fits=("published",), **SHORT | {"horizons": (1, 100)})
    with pytest.raises(RwmError, match="no held-out episode of 104 rows, .* the longest has 40"):
        bench_time_to_error(home, walks, config)
    assert not home.runs("model")
    with pytest.raises(RwmError, match="horizons: a fit tells the error up to 1, 8, 32, 100, 368"):
        build(BenchTimeToErrorConfig, None, {"horizons": (1, 99)})
    with pytest.raises(RwmError, match="1 marks for 2 horizons"):
        build(BenchTimeToErrorConfig, None, {"marks": (0.3,)})


@pytest.fixture
def policies(home, robot, constant):
    """Two runs of four iterations, of one minute and of two minutes each, that kept a policy after every one."""
    runs = []
    for minutes in (1, 2):
        run = Run.create(home, "policy", {}, {"model": None}, seed=0)
        for k in range(1, 5):
            copyfile(constant(robot, 0.0), run.stage_file(k))
            run.log(k, {"perf/collect_s": minutes * 45.0, "perf/learn_s": minutes * 15.0})
        copyfile(run.stage_file(4), run.policy_file)
        run.finish({})
        runs.append(run)
    return runs


def test_stages_of_policies_are_scored_over_their_minutes(home, policies, monkeypatch, tmp_path, rwm):
    scored = []

    def score(scoring, scenarios):
        scored.append((scoring.policy, scoring.robot, scoring.episodes, scenarios))
        low, high = reference_returns(load_robot("anymal_d"), "undisturbed")
        return [Scalar(metric="return", mode="undisturbed", value=low + 0.2 * len(scored) * (high - low))]

    monkeypatch.setattr(time_to_score, "score_policy", score)
    first, second = policies
    config = BenchTimeToScoreConfig(runs=(first.id, second.id), mark=0.5, stages=2, episodes=2)
    found = bench_time_to_score(home, config, tmp_path / "curves.png")
    expected = [(first.id, 1, 1.0), (first.id, 4, 4.0), (second.id, 1, 2.0), (second.id, 4, 8.0)]
    assert [(p["run"], p["iteration"], p["minutes"]) for p in found["points"]] == expected
    assert [p["score"] for p in found["points"]] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    rows = {row["name"]: row for row in found["rows"]}
    never, passed = (rows[f"{run.id}: until 0.5 is passed"] for run in policies)
    assert (never["value"], passed["value"], passed["baseline"], passed["ratio"]) == (None, 2.0, None, None)
    last = rows[f"{second.id}: score after 8.0 min"]
    assert (last["value"], last["ratio"]) == (pytest.approx(0.8), pytest.approx(2.0))
    assert scored[0] == (str(first.stage_file(1)), "anymal_d", 2, ("undisturbed",))
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    words = ("bench", "time-to-score", first.id, "--stages", 1, "--out", tmp_path / "one.png", "--json")
    (point,) = json.loads(rwm(*words))["points"]
    assert point["minutes"] == 4.0 and (tmp_path / "one.png").is_file()


def test_a_policy_is_scored_in_the_simulator(home, own_robot, constant, policies):
    config = BenchTimeToScoreConfig(runs=(policies[0].id,), episodes=2)
    copyfile(constant(own_robot, 0.0), policies[0].stage_file(1))
    with pytest.raises(RwmError, match="mine has no random and expert policy"):
        bench_time_to_score(home, config)


def test_a_run_without_stages_is_refused(home, policies):
    for file in policies[0].stage_files():
        file.unlink()
    with pytest.raises(RwmError, match="has kept no policies"):
        bench_time_to_score(home, BenchTimeToScoreConfig(runs=(policies[0].id,)))
