"""A home with one of everything a page can show, none of it computed by a model."""

from __future__ import annotations

import numpy as np
import pytest

from reports.evaluate.statistics import Interval
from reports.evaluate.summary import finish_evaluation
from reports.figures import BLUE, figure
from rwmdata.config import build
from rwmdata.episodes import Episode
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter
from rwmmodel.fit_config import FitConfig

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x.png>"
"""Stands where a user's text can: in a behaviour's name and in an error."""


def scalar(metric, mode, horizon, value, spread=0.01):
    return Interval(value, value - spread, value + spread).scalar(metric, mode, horizon)


def add_evaluation(home, name, parents, scalars, config=None, pictures=()):
    run = Run.create(home, "eval", {"evaluation": name, "windows": 4, "seed": 0, **(config or {})}, parents, seed=0)
    for picture in pictures:
        with figure(run.path / f"{picture}.png", size=(4, 3)) as axes:
            axes[0, 0].plot([0, 1], [0, 1], color=BLUE)
    finish_evaluation(run, "anymal_d", scalars, "normalised", split="test", windows=4)
    return run


def add_model(home, dataset, lr=1e-3, factor=1.0):
    config = build(FitConfig, "smoke", {"lr": lr}).model_dump(mode="json")
    model = Run.create(home, "model", config, {"dataset": dataset}, seed=0)
    for step in (10, 20, 30):
        held_out = {"val/total": 5.0 / step, "val/relative_l1_h1": 1 / step, "val/rel_l1_h8": 2 / step}
        model.log(step, {"train/total": factor / step, **held_out})
    model.finish({"parameters": 1000, "val/relative_l1_h8": 0.1 * factor})
    return model


@pytest.fixture(scope="session")
def report_home(tmp_path_factory):
    """A dataset, two models, a policy and their evaluations; returns the home and the runs by name."""
    from rwmrl.policy_config import PolicyConfig

    home = Home(tmp_path_factory.mktemp("report"))
    schema = Schema.from_robot(load_robot("anymal_d"))
    with DatasetWriter(home.data_dir, "walks", "anymal_d", schema, 50.0, {"source": "test"}) as writer:
        for seed in range(4):
            rows = np.random.default_rng(seed).normal(size=(30, schema.width)).astype(np.float32)
            rows[:, schema.width - 9 :] = 0
            writer.append(Episode(rows, truncated=True, behaviour=HOSTILE))
        writer.commit()
    first, second = add_model(home, "walks"), add_model(home, "walks", lr=2e-3, factor=0.5)
    of = {"dataset": "walks", "model": first.id}
    curve = [scalar("rel_l1", "model", h, v) for h, v in ((1, 0.1), (32, 0.9), (368, 0.25))]
    parts = [scalar("rmse/joint_pos", "model", 1, 0.3)]
    runs = {
        "model": first, "other": second,
        "dynamics": add_evaluation(home, "dynamics", of, curve + parts, pictures=["dynamics_error_by_horizon"]),
        "other dynamics": add_evaluation(
            home, "dynamics", {**of, "model": second.id}, [scalar("rel_l1", "model", 1, 0.2)],
            pictures=["dynamics_error_by_horizon"],
        ),
    }  # fmt: skip
    policy = Run.create(home, "policy", build(PolicyConfig, "smoke").model_dump(mode="json"), of, seed=0)
    policy.log(1, {"imagined/reward": 0.1, "imagined/penalised_reward": -0.1, "imagined/epistemic": float("nan")})
    policy.log(2, {"imagined/reward": 0.2, "imagined/penalised_reward": 0.1, "imagined/epistemic": 2.0})
    policy.finish({"lam": 1.0})
    scores = [scalar("normalized_score", "undisturbed", None, 0.5), Interval(None).scalar("return", "undisturbed")]
    config = {"policy": "somewhere/policy.safetensors", "robot": "anymal_d"}
    runs["policy"] = policy
    runs["score"] = add_evaluation(home, "policy", {**of, "policy": policy.id}, scores, config, pictures=["film"])
    return home, runs
