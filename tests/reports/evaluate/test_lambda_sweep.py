"""The sweep's table and verdict by hand; which policies belong to a sweep; scores are not made twice."""

from __future__ import annotations

import polars as pl
import pytest

import reports.evaluate.lambda_sweep
from reports.evaluate.lambda_sweep import (
    LambdaSweepConfig,
    best_lambda,
    evaluate_lambda_sweep,
    gains,
    ranking,
    sweep_of,
)
from reports.evaluate.statistics import Interval
from reports.evaluate.summary import finish_evaluation
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmrl.policy_config import PolicyConfig


def test_a_clear_best_is_called_and_noise_is_not():
    clear = pl.DataFrame({"lam": [0.0, 0.0, 0.5, 0.5, 2.0, 2.0], "simulated_reward": [1.0, 1.1, 2.0, 2.1, 0.5, 0.4]})
    found = best_lambda(clear)
    assert (found.best_lam, found.best_share, found.lam_low, found.lam_high) == (0.5, 1.0, 0.5, 0.5)
    assert found.verdict.startswith("lambda 0.5 earns most")
    noise = pl.DataFrame({"lam": [0.0] * 3 + [1.0] * 3, "simulated_reward": [1.0, 5.0, 3.0, 2.0, 4.0, 3.1]})
    found = best_lambda(noise)
    assert found.best_lam == 1.0 and 0.3 < found.best_share < 0.7
    assert (found.lam_low, found.lam_high) == (0.0, 1.0) and "cannot tell" in found.verdict
    alone = best_lambda(pl.DataFrame({"lam": [0.0, 1.0], "simulated_reward": [1.0, 2.0]}))
    assert alone.best_share is None and "nothing can be told" in alone.verdict


def share_by_hand(first, second):
    """Share of all equally likely resamples of two seeds each in which the second's mean is higher."""
    means = [[(a + b) / 2 for a in part for b in part] for part in (first, second)]
    return sum(y > x for x in means[0] for y in means[1]) / 16


def test_the_share_of_resamples_is_that_of_all_of_them():
    table = pl.DataFrame({"lam": [0.0, 0.0, 1.0, 1.0], "simulated_reward": [1.0, 4.0, 2.0, 5.0]})
    assert best_lambda(table).best_share == pytest.approx(share_by_hand([1.0, 4.0], [2.0, 5.0]), abs=0.02)


@pytest.fixture
def make_policy(home):
    def make(lam, seed, model="m", status="finished", **options):
        config = build(PolicyConfig, "smoke", {"lam": lam, "seed": seed, **options})
        run = Run.create(home, "policy", config.model_dump(mode="json"), {"dataset": "d", "model": model}, seed)
        if status == "finished":
            imagined = {"imagined_reward_after": 0.03, "penalised_reward_after": 0.03 - 0.01 * lam}
            run.finish({"robot": "anymal_d", **imagined})
        return run

    return make


@pytest.fixture
def model_run(home):
    run = Run.create(home, "model", {}, {"dataset": "d"}, 0)
    run.id = "m"
    return run


def test_a_sweep_is_the_policies_like_the_newest_but_for_lambda_and_seed(home, make_policy, model_run):
    make_policy(0.0, 0, num_envs=32)
    make_policy(1.0, 0, model="other")
    make_policy(1.0, 1, status="running")
    wanted = [make_policy(lam, seed, warm_start=f"clone-{seed}") for lam in (0.0, 1.0) for seed in (0, 1)]
    assert {r.id for r in sweep_of(home, model_run.id)} == {r.id for r in wanted}
    with pytest.raises(RwmError, match="no finished policies of several lambdas"):
        model_run.id = "other"
        evaluate_lambda_sweep(home, model_run.checkpoint)


def test_a_sweep_is_scored_once_and_its_numbers_are_these(home, make_policy, model_run, monkeypatch):
    policies = [make_policy(lam, seed) for lam in (0.0, 0.5) for seed in (0, 1)]
    scored = []

    def evaluate_policy(home, config):
        policy = next(p for p in policies if p.id in config.policy)
        scored.append(policy.id)
        lam, seed = policy.meta.config["imagination"]["lam"], policy.meta.seed
        run = Run.create(home, "eval", {"evaluation": "policy", **config.model_dump()}, {"policy": policy.id}, 0)
        rows = [
            Interval(value).scalar(metric, mode)
            for mode in ("undisturbed", "disturbed")
            for metric, value in (("return", 10 + 10 * lam + seed), ("share_without_fall", 0.5), ("lin_vel_error", 0.1))
        ]
        finish_evaluation(run, "anymal_d", rows)
        return run

    monkeypatch.setattr(reports.evaluate.lambda_sweep, "evaluate_policy", evaluate_policy)
    run = evaluate_lambda_sweep(home, model_run.checkpoint, LambdaSweepConfig(episodes=4))
    assert sorted(scored) == sorted(p.id for p in policies)
    table = pl.read_parquet(run.path / "lambda_sweep.parquet")
    assert table["lam"].to_list() == [0.0, 0.0, 0.5, 0.5] and table["seed"].to_list() == [0, 1, 0, 1]
    # An episode lasts 1000 steps.
    assert table["simulated_reward"].to_list() == pytest.approx([0.010, 0.011, 0.015, 0.016])
    assert table["exploitation_gap"].to_list() == pytest.approx([0.020, 0.019, 0.015, 0.014])
    values = {(s["metric"], s["mode"]): s["value"] for s in run.meta.summary["scalars"]}
    assert values["simulated_reward", "lam_0.5"] == pytest.approx(0.0155)
    assert values["imagined_penalised_reward", "lam_0.5"] == pytest.approx(0.025)
    assert run.meta.summary["best_lam"] == 0.5 and (run.path / "lambda_sweep.png").stat().st_size > 10_000
    evaluate_lambda_sweep(home, model_run.checkpoint, LambdaSweepConfig(episodes=4))
    assert len(scored) == 4
    evaluate_lambda_sweep(home, model_run.checkpoint, LambdaSweepConfig(episodes=5))
    assert len(scored) == 8


def test_gains_are_differences_of_policies_of_one_seed():
    """Seed 1 is missing at lambda 1: its pair does not count."""
    table = pl.DataFrame(
        {
            "lam": [0.0, 0.0, 0.0, 1.0, 1.0],
            "seed": [0, 1, 2, 0, 2],
            "simulated_reward": [1.0, 9.0, 2.0, 1.5, 2.7],
            "share_without_fall": [0.5, 0.9, 0.6, 0.7, 0.8],
        }
    )
    reward, falls = gains(table)
    assert reward.key == ("simulated_reward_over_lam_0", "lam_1", None) and falls.value == pytest.approx(0.2)
    assert (reward.value, reward.high) == (pytest.approx(0.6), pytest.approx(0.6 + 12.706 * 0.1))


def test_ranking_of_policies_by_what_needs_no_simulator():
    """The judge has two neighbours in the wrong order, and prefers the second best; own imagination is reversed."""
    table = pl.DataFrame(
        {
            "simulated_reward": [0.1, 0.2, 0.3, 0.4],
            "imagined_reward": [4.0, 3.0, 2.0, 1.0],
            "judged_reward": [1.0, 2.0, 4.0, 3.0],
            "judged_share_without_fall": [0.1, 0.2, 0.3, 0.4],
            "judged_tilted": [0.4, 0.3, 0.2, 0.1],
            "judged_epistemic": [1.0, 1.0, 1.0, 1.0],
        }
    )
    found = {(s.metric, s.mode): s.value for s in ranking(table)}
    assert found["spearman", "imagined_reward"] == pytest.approx(-1) and found[
        "regret", "imagined_reward"
    ] == pytest.approx(0.75)
    assert found["spearman", "judged_reward"] == pytest.approx(0.8)
    assert found["regret", "judged_reward"] == pytest.approx(0.25)
    assert found["spearman", "judged_tilted"] == pytest.approx(1) and found["regret", "judged_tilted"] == 0
    assert found["spearman", "judged_epistemic"] is None
