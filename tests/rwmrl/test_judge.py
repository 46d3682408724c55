from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.checkpoint import load_model, save_model
from rwmrl.behaviour_base import Behaviour
from rwmrl.imagination_training import train_policy
from rwmrl.judge import Judge, JudgeConfig
from rwmrl.policy_config import PolicyConfig
from rwmrl.policy_file import load_policy


class Still(Behaviour):
    """All actions are 0."""

    def __init__(self, count):
        self.num_envs, self.name, self.device = count, "still", torch.device("cpu")

    def act(self, observations):
        return torch.zeros(self.num_envs, 12)


@pytest.fixture
def judge(make_model, dataset, robot):
    return Judge(make_model(), dataset, robot, JudgeConfig(episodes=8, steps=12))


def planted(judge, monkeypatch, tilt_deg=None, end_at=None, unsound_at=None):
    """Let the first half of the imagined robots tilt, be terminated, or blow up, at a step; the others stand."""
    env, at, take_in = judge.env, {"k": 0}, judge.env._take_in
    half = torch.arange(env.num_envs) < env.num_envs // 2
    gravity = env.schema.group("projected_gravity")

    def changed(prediction, action):
        sound = take_in(prediction, action)
        rows, k = env._rows, at["k"]
        rows[:, env.schema.termination] = 0.0
        rows[:, gravity] = torch.tensor([0.0, 0.0, -1.0])
        if tilt_deg is not None and k >= 4:
            angle = np.deg2rad(tilt_deg)
            rows[half, gravity.start], rows[half, gravity.stop - 1] = float(np.sin(angle)), -float(np.cos(angle))
        if end_at is not None and k == end_at:
            rows[half, env.schema.termination] = 1.0
        at["k"] += 1
        return sound & ~(half & (k == unsound_at))

    monkeypatch.setattr(env, "_take_in", changed)


def test_the_same_policy_is_judged_the_same_twice(judge):
    first, again = judge(Still(8)), judge(Still(8))
    assert (first.reward == again.reward).all() and (first.epistemic == again.epistemic).all()
    assert (first.epistemic > 0).all()


def test_upright_robots_earn_all_steps(judge, monkeypatch):
    planted(judge, monkeypatch)
    judged = judge(Still(8))
    assert judged.fell.sum() == judged.tilted.sum() == 0
    assert judged.means()["judged_share_without_fall"] == 1


@pytest.mark.parametrize("cause", [{"end_at": 4}, {"tilt_deg": 80.0}, {"unsound_at": 4}])
def test_nothing_is_earned_after_a_fall(judge, monkeypatch, cause):
    """Rewards are 1 a step: robots that fall in the fifth of twelve have earned four."""
    planted(judge, monkeypatch, **cause)
    compute = judge.env.rewards.compute

    def ones(*args):
        reward, terms = compute(*args)
        return torch.ones_like(reward), terms

    monkeypatch.setattr(judge.env.rewards, "compute", ones)
    judged = judge(Still(8))
    assert judged.fell.tolist() == [1.0] * 4 + [0.0] * 4
    assert judged.reward.tolist() == pytest.approx([4 / 12] * 4 + [1.0] * 4)


def test_a_tilt_below_that_of_a_fall_is_counted_and_lived_on(judge, monkeypatch):
    planted(judge, monkeypatch, tilt_deg=45.0)
    judged = judge(Still(8))
    assert judged.fell.sum() == 0
    assert judged.tilted.tolist() == pytest.approx([8 / 12] * 4 + [0.0] * 4)


def test_the_stage_the_judge_prefers_becomes_the_policy(home, dataset, model_run, make_model):
    judge = Run.create(home, "model", {}, {"dataset": dataset.name}, 1)
    save_model(make_model(seed=1), judge.model_file)
    judge.finish({})
    options = {"iterations": 4, "num_envs": 16, "hidden_dims": (16,), "episode_steps": 20, "checkpoint_interval": 1}
    judging = {"episodes": 8, "steps": 10}
    config = build(PolicyConfig, "smoke", options, {"judge": judge.id, "judging": judging})
    run = train_policy(home, dataset, model_run.checkpoint, config)
    table, summary = pl.read_parquet(run.path / "judged.parquet"), run.meta.summary
    assert table["iteration"].to_list() == [1, 2, 3, 4]
    best = table.sort("judged_reward", descending=True).row(0, named=True)
    assert (summary["chosen_iteration"], summary["judged_reward"]) == (best["iteration"], best["judged_reward"])
    assert run.meta.parents["judge"] == judge.id
    chosen, kept = load_policy(run.policy_file), load_policy(run.stage_file(best["iteration"]))
    assert all((a == b).all() for a, b in zip(chosen.parameters(), kept.parameters(), strict=True))
    again = Judge(load_model(judge.model_file), dataset, load_robot("anymal_d"), JudgeConfig(**judging))
    assert again.of_policy(kept).means()["judged_reward"] == best["judged_reward"]


@pytest.mark.parametrize("fault", ["own", "misfit"])
def test_a_judge_that_cannot_judge_is_refused_before_the_training(home, dataset, model_run, make_model, fault):
    judge = model_run
    if fault == "misfit":
        judge, model = Run.create(home, "model", {}, {"dataset": dataset.name}, 1), make_model(seed=1)
        model.info = replace(model.info, columns=("x", *model.info.columns[1:]))
        save_model(model, judge.model_file)
        judge.finish({})
    config = build(PolicyConfig, "smoke", {"num_envs": 16, "hidden_dims": (16,)}, {"judge": judge.id})
    with pytest.raises(RwmError, match={"own": "cannot judge", "misfit": "other names"}[fault]):
        train_policy(home, dataset, model_run.checkpoint, config)
    assert home.runs("policy") == []
