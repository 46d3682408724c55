"""A small model and its run, a robot of one's own with policies, and a home with one of everything a page can show."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

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
from rwmmodel.checkpoint import save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.fit_config import FitConfig
from rwmmodel.normalizer import Normalizer
from rwmrl.behaviours import untrained_policy
from rwmrl.policy_file import MlpPolicy, PolicyInfo, save_policy

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x.png>"
"""Stands where a user's text can: in a behaviour's name and in an error."""


@pytest.fixture
def make_model(schema):
    """Make an untrained model of ANYmal D with a history of four rows."""

    def make(members=2):
        torch.manual_seed(0)
        config = EnsembleConfig(
            hidden=8, head_hidden=8, members=members, history=4, state_dim=45, action_dim=12, contact_dim=8
        )
        rng = np.random.default_rng(0)
        normalizer = Normalizer(45, 12, *(rng.uniform(0.5, 2, 57).astype(np.float32) for _ in range(2)))
        return DynamicsEnsemble(config, normalizer, ModelInfo("anymal_d", schema.csv_names, 50.0, "set")).eval()

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def model_run(home, model):
    """A finished run that keeps :func:`model`."""
    run = Run.create(home, "model", {}, {"dataset": "set"}, 0)
    save_model(model, run.model_file)
    run.finish({})
    return run


@pytest.fixture
def own_robot(robot, tmp_path, monkeypatch):
    """A robot of one's own: short episodes, no reference policies, in a folder one can write into."""
    folder = tmp_path / "robots" / "mine"
    shutil.copytree(robot.folder, folder)
    text = (folder / "robot.yaml").read_text().replace("name: anymal_d", "name: mine")
    (folder / "robot.yaml").write_text(text + "episode_length_s: 0.6\n")
    monkeypatch.setenv("RWM_ROBOTS", str(folder.parent))
    load_robot.cache_clear()
    yield load_robot("mine")
    load_robot.cache_clear()


@pytest.fixture
def constant(tmp_path):
    """Make the file of a policy of a robot whose every action is one number."""

    def make(robot, value):
        policy = MlpPolicy(PolicyInfo.of(robot, (4,)))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.zero_()
            policy.mlp[-1].bias.fill_(value)
        save_policy(policy, tmp_path / "constant.safetensors")
        return str(tmp_path / "constant.safetensors")

    return make


@pytest.fixture
def keep_stages():
    """Give a run policies that shake more or less: standing still earns most in half a second."""

    def keep(run, robot, gains, seed=0):
        for iteration, gain in gains.items():
            policy = untrained_policy(robot, seed)
            policy.info = policy.info.model_copy(update={"noise_std": 0.0})
            with torch.no_grad():
                policy.mlp[-1].weight *= gain
                policy.mlp[-1].bias *= gain
            save_policy(policy, run.stage_file(iteration))

    return keep


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
