"""Reference policies from a training run, and the scores normalised by them."""

from __future__ import annotations

import shutil

import pytest
import torch

from reports.evaluate.policy_score import PolicyScoreConfig, evaluate_policy, normalized, reference_returns
from reports.evaluate.statistics import Interval
from reports.references import ReferenceConfig, build_references, describe, normalise, spread
from reports.stages import own_stages, stages_of
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour, shipped_policies
from rwmrl.online_config import PretrainConfig
from rwmrl.policy_file import load_policy


@pytest.fixture
def train_run(home, own_robot, keep_stages):
    """A run whose policies shake less and less: standing still earns most in half a second."""
    config = {"robot": "mine", "task": "Init-v0", "num_envs": 10, "seed": 0, "ppo": {"num_steps": 24}}
    run = Run.create(home, "train", config, {}, 0)
    keep_stages(run, own_robot, {1: 60.0, 11: 20.0, 21: 6.0, 31: 0.0})
    for step in range(31):
        run.log(step + 1, {"perf/collect_s": 2.0, "perf/learn_s": 1.0})
    run.finish({})
    return run


def test_a_run_becomes_a_robots_references(home, own_robot, train_run, tmp_path):
    out = own_robot.folder / "policies"
    config = ReferenceConfig(episodes=4, stage_episodes=4, curve=4, stages=2)
    found = build_references(train_run, out, config)
    assert set(shipped_policies(own_robot)) == {"random", "medium", "expert"}
    assert [r["minutes"] for r in found["curve"]] == pytest.approx([0.05, 0.55, 1.05, 1.55])
    assert [r["steps"] for r in found["curve"]] == [240, 2640, 5040, 7440]
    assert found["curve"][-1]["normalized_score"] == 1.0 and (out / "curve.png").stat().st_size > 10_000
    expert = load_policy(shipped_policies(own_robot)["expert"]).info
    assert expert.made["how"].startswith("rwm train --task Init-v0 --robot mine") and expert.made["episodes"] == 4
    assert (
        expert.made["return"]["undisturbed"]
        > load_policy(out / "random.safetensors").info.made["return"]["undisturbed"]
    )
    text = (out / "README.md").read_text()
    assert text == describe(out, own_robot) and text.count("| expert | ") == 2 and "after 31 iterations" in text
    # By name, in equal shares, and with scores that refer to them.
    behaviour = make_behaviour("mixed", BehaviourContext(own_robot, 64, torch.Generator().manual_seed(0)))
    assert set(behaviour.names()) == {"stage-000001", "stage-000031"}
    run = evaluate_policy(home, PolicyScoreConfig(policy="expert", robot="mine", episodes=4))
    scores = {s["mode"]: s["value"] for s in run.meta.summary["scalars"] if s["metric"] == "normalized_score"}
    assert scores == {"undisturbed": pytest.approx(1.0), "disturbed": pytest.approx(1.0)}


def test_runs_without_stages_or_without_learning_are_refused(home, robot, tmp_path):
    run = Run.create(home, "train", {"robot": "anymal_d"}, {}, 0)
    with pytest.raises(RwmError, match="has no training stages"):
        build_references(run, tmp_path / "out")
    with pytest.raises(RwmError, match="earns -1, no more than a random policy's -0.5"):
        normalise({"random": -0.5, "a": -1.0}, "a")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_never_replaced(train_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(RwmError, match="holds other things than reference policies"):
        build_references(train_run, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_normalised_scores_by_hand(robot):
    scalars = [Interval(8.0, 6.0, 10.0).scalar("return", "disturbed")]
    (score,) = normalized(scalars, "disturbed", (-2.0, 18.0))
    assert (score.metric, score.value, score.low, score.high) == ("normalized_score", 0.5, 0.4, 0.6)
    assert normalized(scalars, "disturbed", None) == []
    assert reference_returns(robot.model_copy(update={"name": "nobody"}), "disturbed") is None


def test_stages_are_spread_over_the_scores():
    share = {"a": 0.0, "b": 0.05, "c": 0.5, "d": 0.9, "e": 1.0}
    assert spread(share, list(share), 3) == ["a", "c", "e"]
    assert spread({"a": 0.0, "b": 0.9, "c": 1.0}, ["a", "b", "c"], 5) == ["a", "b", "c"]


def test_a_warm_start_counts_on_from_the_run_before(home, train_run):
    config = {**train_run.meta.config, "warm_start": train_run.id, "rewards": {"gait": 0.5}, "exploration_rad": 0.1}
    run = Run.create(home, "train", config, {"policy": train_run.id}, 0)
    for k in (1, 11):
        shutil.copy(
            train_run.checkpoints / "policy-000001.safetensors", run.checkpoints / f"policy-{k:06d}.safetensors"
        )
    for step in range(11):
        run.log(step + 1, {"perf/collect_s": 4.0, "perf/learn_s": 2.0})
    stages = stages_of(run)
    assert [s.iteration for s in stages] == [1, 11, 21, 31, 32, 42]
    assert [s.steps for s in stages] == [240, 2640, 5040, 7440, 7680, 10080]
    assert [s.minutes for s in stages] == pytest.approx([0.05, 0.55, 1.05, 1.55, 1.65, 2.65])
    made = stages[-1].made()
    assert made["how"] == (
        "rwm train --task Init-v0 --robot mine --warm-start RUN --num-envs 10 --exploration 0.1 --reward gait=0.5 "
        "--set ppo.checkpoint_interval=50 --iterations 300, after 11 iterations"
    )
    assert (
        made["warm_start"]
        == "rwm train --task Init-v0 --robot mine --num-envs 10 --set ppo.checkpoint_interval=50 --iterations 300, "
        "after 31 iterations"
    )
    assert "warm_start" not in stages[0].made()


def test_a_warm_start_that_is_gone_or_no_training_is_not_counted(home, train_run):
    train_run.update(parents={"policy": "20260101-000000-000000"})
    assert [s.iteration for s in stages_of(train_run)] == [1, 11, 21, 31]


def test_what_an_imported_warm_start_did_before_is_not_counted(home, train_run):
    imported = Run.create(home, "train", {"imported": "model_40.pt"}, {"policy": None}, 0)
    train_run.update(parents={"policy": imported.id})
    assert [s.iteration for s in stages_of(train_run)] == [1, 11, 21, 31]
    assert "warm_start" not in stages_of(train_run)[-1].made()


def test_stages_of_a_training_with_a_model_are_read_too(home, train_run):
    config = build(PretrainConfig, "smoke", {"robot": "mine", "warm_start": train_run.id}).model_dump(mode="json")
    run = Run.create(home, "train", config, {"policy": train_run.id, "model": None}, 0)
    shutil.copy(train_run.stage_file(1), run.stage_file(2))
    for step in (1, 2):
        run.log(step, {"perf/collect_s": 4.0, "perf/learn_s": 2.0})
    (own,) = own_stages(run)
    assert (own.iteration, own.steps, own.minutes) == (2, 2 * 32 * 24, pytest.approx(0.2))
    last = stages_of(run)[-1]
    assert (last.iteration, last.steps, last.minutes) == (33, 7440 + 2 * 32 * 24, pytest.approx(1.75))
    assert last.made()["how"].startswith("rwm train --task Pretrain-v0 --robot mine --warm-start RUN --num-envs 32")
