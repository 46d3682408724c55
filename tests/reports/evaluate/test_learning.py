"""Learning curves: what is counted, which runs are one curve, and the mark, by hand."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

from reports.evaluate.learning import (
    SCHEMA,
    LearningConfig,
    equal_budgets,
    evaluate_learning,
    judge,
    marks_of,
    median_of,
    scalars_of_learning,
    spread,
)
from reports.evaluate.learning_figures import curve
from reports.evaluate.learning_groups import labels_of
from reports.evaluate.statistics import Interval
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmrl.online_config import FinetuneConfig
from rwmrl.ppo_config import PPOConfig
from rwmrl.simulator_training import train_in_simulator
from rwmrl.train_config import TrainConfig


@pytest.fixture
def make_run(home, keep_stages):
    """Make a train run with its record, metrics and stages, without training."""

    def make(robot="mine", seed=0, iterations=(1, 3, 4), first=60.0, parents=None, **options):
        config = build(FinetuneConfig, "smoke", {"robot": robot, "seed": seed, **options})
        run = Run.create(home, "train", config.model_dump(mode="json"), parents or {"policy": None}, seed)
        keep_stages(run, load_robot(robot), dict(zip(iterations, (first, 6.0, 0.0), strict=True)), seed)
        for step in range(1, iterations[-1] + 1):
            run.log(step, {"perf/collect_s": 40.0 + seed, "perf/learn_s": 20.0, "perf/model_s": 5.0})
            if step % 2 == 0:
                held = {"val/hold_last_h100": 1.5, "val/rel_l1_h8": 9.0, "val/rel_l1_noise0.1_h100": 9.0}
                run.log(step, {"val/rel_l1_h1": 0.1, "val/rel_l1_h100": 1.0 / step + seed, **held})
        run.finish({})
        return run

    return make


def test_seeds_are_one_curve_and_imagined_steps_are_not_counted(home, rwm, own_robot, make_run):
    """Sixteen simulated robots and 24 steps an iteration; 32 more robots are imagined."""
    runs = [make_run(seed=0), make_run(seed=1), make_run(imagine=False, first=6.0)]
    summary = json.loads(
        rwm("eval", "learning", *(r.id for r in runs), "--episodes", 4, "--disturbed", "--stages", 2, "--json")
    )
    assert summary["trainings"] == {
        "imagine=true": [runs[0].id, runs[1].id],
        "imagine=false": [runs[2].id],
    }
    run = home.run("eval", summary["run"])
    assert {p.name for p in run.path.glob("learning*")} == {
        "learning.parquet", "learning_by_steps.png", "learning_by_minutes.png"
    }  # fmt: skip
    table = pl.read_parquet(run.path / "learning.parquet")
    scores = table.filter(metric="return", mode="undisturbed", run=runs[1].id)
    assert scores["iteration"].to_list() == [0, 1, 4]
    assert scores["steps"].to_list() == [0, 16 * 24, 4 * 16 * 24]
    assert scores["minutes"].to_list() == pytest.approx([0, 61 / 60, 4 * 61 / 60])
    assert scores["value"][1] < scores["value"][2]
    assert table.filter(metric="return", mode="disturbed").height == 9
    errors = table.filter(metric="rel_l1", run=runs[1].id).sort("horizon", "mode", "iteration")
    assert errors.select("mode", "horizon", "steps", "value").rows() == [
        ("model", 1, 768, 0.1), ("model", 1, 1536, 0.1), ("hold_last", 100, 768, 1.5), ("hold_last", 100, 1536, 1.5),
        ("model", 100, 768, 1.5), ("model", 100, 1536, 1.25),
    ]  # fmt: skip
    values = {(s["metric"], s["mode"], s["horizon"]): s for s in summary["scalars"]}
    assert values["rel_l1", "imagine=true", 100]["value"] == pytest.approx(0.75)
    assert values["rel_l1_hold_last", "imagine=true", 100]["value"] == 1.5
    assert values["rel_l1", "imagine=false", 100]["low"] is None
    final = values["return", "imagine=true", None]
    assert final["low"] <= final["value"] <= final["high"]
    assert values["return_disturbed", "imagine=false", None]["value"] is not None
    assert values["steps_to_mark", "imagine=true", None]["value"] is None
    assert summary["not_computed"] == ["normalised scores: mine has no random and expert policy"]
    assert summary["equal_steps"] == 1536 and summary["equal_minutes"] == pytest.approx(4.0)
    assert "with one seed nothing can be told" in summary["verdict"]


def test_a_training_begins_with_its_own_policy_or_an_untrained_one(home, rwm, own_robot, make_run):
    ppo = PPOConfig(num_steps=4, hidden_dims=(8,), mini_batches=1, epochs=1)
    first = train_in_simulator(home, TrainConfig(robot="mine", num_envs=4, iterations=2, ppo=ppo))
    rwm("eval", "learning", "--episodes", 3)
    (alone,) = home.runs("eval")
    assert alone.meta.config["runs"] == [first.id] and alone.meta.parents == {"policy": first.id}
    table = pl.read_parquet(alone.path / "learning.parquet").filter(metric="return")
    assert table["steps"].to_list() == [0, 16, 32] and table["iteration"].to_list() == [0, 1, 2]
    assert "rel_l1" not in pl.read_parquet(alone.path / "learning.parquet")["metric"].to_list()
    second = make_run(parents={"policy": first.id})
    later = evaluate_learning(home, LearningConfig(runs=(second.id,), episodes=3))
    returns = pl.read_parquet(later.path / "learning.parquet").filter(metric="return", mode="undisturbed")
    assert returns["value"][0] == table["value"][-1]
    shutil.rmtree(first.path)
    lost = evaluate_learning(home, LearningConfig(runs=(second.id,), episodes=2))
    assert any(f"what run {second.id} began with" in text for text in lost.meta.summary["not_computed"])
    assert pl.read_parquet(lost.path / "learning.parquet")["iteration"].min() == 1


def test_a_curve_ends_where_its_shortest_run_does_and_that_is_said(home, own_robot, make_run):
    long, short = make_run(iterations=(1, 3, 5)), make_run(seed=1, iterations=(1, 2, 3))
    run = evaluate_learning(home, LearningConfig(runs=(long.id, short.id), episodes=2))
    scores = pl.read_parquet(run.path / "learning.parquet").filter(metric="return")
    assert scores["iteration"].to_list() == [0, 1, 3] * 2
    said = f"iterations 4 to 5 of run {long.id}: another run of 'Finetune-v0' has none"
    assert said in run.meta.summary["not_computed"]


def test_what_cannot_be_compared_is_refused_before_anything_is_scored(home, rwm, own_robot, make_run):
    mine, other, empty = make_run(), make_run(robot="go2"), make_run(seed=2)
    for file in empty.stage_files():
        file.unlink()
    model = Run.create(home, "model", {}, {}, 0)
    with pytest.raises(RwmError, match=r"different robots cannot be compared: mine \(.*\), go2 \("):
        rwm("eval", "learning", mine.id, other.id)
    with pytest.raises(RwmError, match="has no training stages"):
        rwm("eval", "learning", mine.id, empty.id)
    with pytest.raises(RwmError, match="is a model run, not a train run"):
        rwm("eval", "learning", model.path)
    with pytest.raises(RwmError, match=f"No training '{model.id}'"):
        rwm("eval", "learning", model.id)
    with pytest.raises(RwmError, match=f"Named more than once: {mine.id}"):
        rwm("eval", "learning", mine.id, mine.id)
    with pytest.raises(RwmError, match="1 labels for 2 runs"):
        rwm("eval", "learning", mine.id, other.id, "--label", "a")
    apart = make_run(iterations=(2, 5, 6))
    with pytest.raises(RwmError, match="kept no policies at the same iteration"):
        rwm("eval", "learning", mine.id, apart.id, "--label", "a", "--label", "a")
    assert not home.runs("eval")


def test_labels_name_what_differs_and_nothing_else(home):
    def recorded(config, policy=None):
        content = config.model_dump(mode="json")
        return Run.create(home, "train", content, {"policy": policy, "model": None}, config.seed)

    plain = recorded(TrainConfig())
    a, b = (recorded(build(FinetuneConfig, "smoke", {"seed": k, "imagination.seed": k}), "p") for k in (0, 1))
    without = recorded(build(FinetuneConfig, "smoke", {"imagine": False}), "p")
    assert labels_of([a, b]) == ["Finetune-v0"] * 2
    assert labels_of([a, without, b]) == ["imagine=true", "imagine=false", "imagine=true"]
    assert labels_of([plain, a, without]) == [
        "Init-v0", "Finetune-v0, imagine=true", "Finetune-v0, imagine=false"
    ]  # fmt: skip
    lam = recorded(build(FinetuneConfig, "smoke", {"imagination.lam": 0.5}), "p")
    assert labels_of([a, lam]) == ["imagination.lam=0.0", "imagination.lam=0.5"]
    paths = [f"/{folder}/medium.safetensors#sha256={folder}" for folder in ("a", "b")]
    one, two = (recorded(build(FinetuneConfig, "smoke"), path) for path in paths)
    assert labels_of([a, one]) == ["policy=p", "policy=medium"]
    assert labels_of([one, two]) == [f"policy=medium ({one.id})", f"policy=medium ({two.id})"]
    bare = recorded(TrainConfig(rewards={"gait": 0.5}))
    assert labels_of([plain, bare]) == ["rewards.gait=0.5" if k else "Init-v0" for k in (0, 1)]


def rows(run, scores, label="a", minutes_per_step=0.5, metric="normalized_score"):
    return [
        {"label": label, "run": run, "seed": 0, "iteration": k, "steps": 100 * k, "minutes": minutes_per_step * 100 * k,
         "metric": metric, "mode": "undisturbed", "horizon": None, "value": score}
        for k, score in enumerate(scores)
    ]  # fmt: skip


def test_the_mark_is_the_first_stage_that_reaches_it():
    table = pl.DataFrame(
        rows("r", [0.1, 0.95, 0.9, 1.0]) + rows("s", [0.0, 0.2, 0.3, 0.97]) + rows("t", [0.96, 0, 0, 0]),
        schema=SCHEMA,
    )
    assert marks_of(table, 0.95) == {"r": (100.0, 50.0), "s": (300.0, 150.0), "t": (0.0, 0.0)}
    assert marks_of(table, 0.98) == {"r": (300.0, 150.0), "s": None, "t": None}
    values = {(s.metric, s.mode): s.value for s in scalars_of_learning(table, LearningConfig(runs=("r",), mark=0.95))}
    assert values["steps_to_mark", "a"] == 100.0 and values["minutes_to_mark", "a"] == 50.0
    assert values["steps_to_mark/s", "a"] == 300.0 and values["steps_to_mark/t", "a"] == 0.0
    assert values["normalized_score", "a"] == pytest.approx((1.0 + 0.97 + 0.0) / 3)


def test_a_run_that_never_passes_is_later_than_all_others():
    assert median_of([3.0, None, 1.0]) == 3.0
    assert median_of([None, None, 1.0]) is None and median_of([None, 1.0]) is None and median_of([2.0, 4.0]) == 3.0


def test_trainings_are_compared_at_what_the_shortest_took():
    """Run b has 200 steps; a is there at 0.6. In 20 minutes b has done 200 steps and a, slower, 40."""
    table = pl.DataFrame(
        rows("r", [0.0, 0.5, 0.6, 0.9]) + rows("s", [0.0, 0.2, 0.4], label="b", minutes_per_step=0.1), schema=SCHEMA
    )
    found = equal_budgets(table)
    assert (found.steps, found.minutes) == (200.0, 20.0)
    values = {(s.metric, s.mode): s.value for s in found.scalars}
    assert values["normalized_score_at_equal_steps", "a"] == pytest.approx(0.6)
    assert values["normalized_score_at_equal_minutes", "a"] == pytest.approx(0.2)
    assert values["normalized_score_at_equal_minutes", "b"] == pytest.approx(0.4)
    assert found.verdict.startswith("after 200 simulated steps a scores highest (0.6; b 0.4), but with one seed")
    assert "; after 20 minutes b scores highest (0.4; a 0.2)" in found.verdict
    assert equal_budgets(table.filter(label="a")).scalars == []


def test_a_winner_needs_an_interval_above_all_others():
    clear = {"a": Interval(0.9, 0.85, 0.95), "b": Interval(0.5, 0.4, 0.6), "c": Interval(0.4, 0.0, 0.8)}
    assert judge(clear) == "a scores highest (0.9; b 0.5)"
    assert "the seeds cannot tell" in judge({**clear, "c": Interval(0.4, 0.0, 0.86)})
    assert "with one seed nothing can be told" in judge({**clear, "c": Interval(0.4)})


def test_stages_are_spread_and_a_curve_holds_what_all_seeds_have():
    assert spread([1, 11, 21, 31, 41], 3) == [1, 21, 41] and spread([1, 2, 3], 9) == [1, 2, 3]
    assert spread([1, 2, 3], 1) == [3]
    table = pl.DataFrame(rows("r", [0.0, 1.0, 5.0]) + rows("s", [1.0, 3.0], minutes_per_step=0.7), schema=SCHEMA)
    found = curve(table, "minutes")
    assert found.x.tolist() == pytest.approx([0, 60]) and found.mean.tolist() == [0.5, 2.0]
    assert found.low[1] == pytest.approx(2 - 12.706)
