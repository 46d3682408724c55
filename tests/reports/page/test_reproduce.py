"""A command made from a run's record leads to the same configuration when it is parsed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import typer

from cli.main import app
from reports.evaluate.closed_loop import ClosedLoopConfig
from reports.evaluate.falls import FallsConfig
from reports.evaluate.learning import LearningConfig
from reports.evaluate.policy_score import PolicyScoreConfig
from reports.evaluate.uncertainty import UncertaintyConfig
from reports.page.reproduce import dataset_command, recorded_command, run_command
from rwmdata.config import build
from rwmdata.edit import filter_episodes, split_anew
from rwmdata.formats.convert import convert
from rwmdata.formats.csv66 import write_csv
from rwmdata.home import Home
from rwmdata.runs import Run
from rwmmodel.fit_config import FitConfig
from rwmrl.cloning import CloningConfig
from rwmrl.export import ExportConfig
from rwmrl.offline_rl import OfflineRLConfig
from rwmrl.policy_config import PolicyConfig
from rwmrl.simulator_training import TrainConfig


class Arrived(BaseException):
    """Carries the configuration a command came to."""


WORKERS = (
    "rwmmodel.fit.fit_model",
    "rwmrl.imagination_training.train_policy",
    "rwmrl.simulator_training.train_in_simulator",
    "rwmrl.cloning.clone_behaviour",
    "rwmrl.offline_rl.train_offline_rl",
    "reports.evaluate.uncertainty.evaluate_uncertainty",
    "reports.evaluate.policy_score.evaluate_policy",
    "reports.evaluate.closed_loop.evaluate_closed_loop",
    "reports.evaluate.falls.evaluate_falls",
    "reports.evaluate.learning.evaluate_learning",
    "rwmrl.export.export_dataset",
)


@pytest.fixture
def parse(home, monkeypatch):
    """Return the configuration a command line hands to the function that does the work."""
    some_run = made(home, "model", build(FitConfig, "laptop"), {"dataset": "d"})
    some_run.id = "m"

    def arrive(*args, **kwargs):
        raise Arrived(next(a for a in (*args, *kwargs.values()) if hasattr(a, "model_dump")))

    for worker in WORKERS:
        monkeypatch.setattr(worker, arrive)
    monkeypatch.setattr("rwmdata.windows.too_short", lambda dataset, window: [])
    monkeypatch.setattr(import_module("rwmdata.validate"), "glance", lambda dataset: [])  # A function has its name too.
    monkeypatch.setattr(Home, "dataset", lambda self, name: None)
    for found in ("model", "policy"):
        monkeypatch.setattr(Home, found, lambda self, name=None: some_run.checkpoint)
    monkeypatch.setattr(Home, "runs", lambda self, kind=None: [])

    def to_configuration(command):
        with pytest.raises(Arrived) as caught:
            typer.main.get_command(app).main(shlex.split(command)[1:], standalone_mode=False)
        return caught.value.args[0]

    return to_configuration


def made(home, kind, config, parents, **more):
    content = config.model_dump(mode="json") if hasattr(config, "model_dump") else config
    return Run.create(home, kind, {**more, **content}, parents, seed=content["seed"])


@pytest.mark.parametrize(
    "config",
    [
        build(FitConfig, "laptop"),
        build(FitConfig, "laptop", {"updates": 2500, "normalizer": "fitted", "seed": 3}),
        build(
            FitConfig,
            "smoke",
            {"shared_base": False, "balance": True, "patience": 4, "loss": {"decay": 0.9, "kind": "nll"}},
        ),
        build(FitConfig, "laptop", {"late_forecast": None, "mlp_hidden": (64, 32), "device": "cpu"}),
    ],
)
def test_a_fit_comes_back_from_its_command(home, parse, config):
    command = run_command(made(home, "model", config, {"dataset": "d"}))
    assert command.startswith("rwm fit d --preset")
    assert parse(command) == config


def test_what_an_older_record_does_not_say_is_the_default_of_its_field(home):
    config = build(FitConfig, "laptop").model_dump(mode="json")
    del config["bounded"]
    assert "--set bounded=false" in run_command(made(home, "model", config, {"dataset": "d"}))


@pytest.mark.parametrize(
    "config",
    [
        build(PolicyConfig, "laptop"),
        build(PolicyConfig, "laptop", {"lam": 0.1, "warm_start": "none"}),
        build(
            PolicyConfig,
            "smoke",
            {"lam": 2.0, "seed": 5, "penalty": "calibrated", "hidden_dims": (64,), "halt_quantile": 0.99},
        ),
        build(PolicyConfig, "demo", {"warm_start": "m", "command": {"standing_share": 0.5, "resample_s": (1.0, 2.0)}}),
    ],
)
def test_a_policy_comes_back_from_its_command(home, parse, config):
    command = run_command(made(home, "policy", config, {"dataset": "d", "model": "m"}))
    assert parse(command) == config


def test_a_clone_and_a_training_come_back_from_their_commands(home, parse):
    clone = CloningConfig(updates=7, hidden_dims=(8,), noise=False, seed=2)
    assert parse(run_command(made(home, "policy", clone, {"dataset": "d"}))) == clone
    offline = build(OfflineRLConfig, "cql", {"updates": 7, "options.conservative_weight": 2.0})
    command = run_command(made(home, "policy", offline, {"dataset": "d"}))
    assert command == "rwm policy d --algo cql --set updates=7 --set options.conservative_weight=2.0 --seed 0"
    assert parse(command) == offline
    train = TrainConfig(robot="go2", iterations=5, num_envs=8, rewards={"action_rate_l2": -0.02}, seed=1)
    assert parse(run_command(made(home, "train", train, {}))) == train
    tuned = build(TrainConfig, None, {"ppo.lr": 1e-4, "ppo.hidden_dims": (256, 128), "ppo.ema": 0.9, "seed": 1})
    assert parse(run_command(made(home, "train", tuned, {}))) == tuned
    elsewhere = TrainConfig(backend="isaaclab", device="cuda:1")
    assert parse(run_command(made(home, "train", elsewhere, {}))) == elsewhere


def test_a_judgement_and_a_sweep_name_what_their_commands_take(home):
    judged = made(
        home, "eval", {"policy": "p", "episodes": 4, "seed": 0}, {"policy": "p", "model": "m"}, evaluation="judgement"
    )
    assert run_command(judged) == "rwm eval policy --backend model --policy p --model m --episodes 4 --seed 0"
    swept = made(home, "eval", {"judge": "j", "episodes": 4, "seed": 0}, {"model": "m"}, evaluation="lambda-sweep")
    assert run_command(swept) == "rwm eval lambda-sweep --model m --episodes 4 --judge j --seed 0"


def test_an_evaluation_comes_back_from_its_command(home, parse):
    config = UncertaintyConfig(windows=8, steps=40, calibrated=True, seed=3)
    run = made(home, "eval", config, {"dataset": "d", "model": "m"}, evaluation="uncertainty")
    assert run_command(run) == "rwm eval uncertainty d --model m --windows 8 --steps 40 --calibrated --seed 3"
    assert parse(run_command(run)) == config
    config = ClosedLoopConfig(policy="expert", robots=5, settle=3, steps=7)
    run = made(home, "eval", config, {"policy": "expert", "model": "m"}, evaluation="closed-loop")
    assert parse(run_command(run)) == config
    config = FallsConfig(policy="medium", robots=5, rounds=2, action_noise=0.3)
    run = made(home, "eval", config, {"policy": "medium", "model": "m"}, evaluation="falls")
    assert parse(run_command(run)) == config
    config = PolicyScoreConfig(policy="expert", robot="go2", episodes=5, backend="isaaclab", device="cpu")
    run = made(home, "eval", config, {"policy": "expert"}, evaluation="policy")
    assert parse(run_command(run)) == config
    config = LearningConfig(runs=("a", "b"), labels=("one", "the other"), disturbed=True, stages=3, mark=0.8, seed=2)
    run = made(home, "eval", config, {"policy": None}, evaluation="learning")
    assert run_command(run).startswith("rwm eval learning a b --label one --label 'the other' --episodes 64")
    assert parse(run_command(run)) == config


def test_a_dataset_says_how_it_was_made(parse):
    config = ExportConfig(policy="expert:0.5,random:0.5", bounds_m=(4, 3), noise=False, transitions=90, name="set")
    assert parse(dataset_command(of({"source": "simulation", "config": config.model_dump(mode="json")}))) == config
    kept = {"source": "rwm data filter", "where": "length > 5", "datasets": [{"name": "a"}]}
    assert dataset_command(of(kept)) == "rwm data filter 'length > 5' --dataset a --name set"
    assert dataset_command(of({"source": "elsewhere"})) is None


def test_a_dataset_says_the_options_it_was_made_with(home, make_dataset, schema, tmp_path):
    rows = np.random.default_rng(0).normal(0, 0.01, (4, 60, schema.width)).astype(np.float32)
    rows[..., 6:9] = (0, 0, -1)
    rows[..., schema.contact.start :] = 0
    source = make_dataset(rows, "walks")
    kept = filter_episodes(home, source, "episode < 3", "kept", cut_spikes=True, seed=2)
    assert dataset_command(kept) == "rwm data filter 'episode < 3' --dataset walks --name kept --cut-spikes --seed 2"
    dealt = split_anew(home, source, "dealt", {"train": 0.5, "val": 0.25, "test": 0.25}, window=20)
    made = "rwm data split walks --train 0.5 --val 0.25 --test 0.25 --name dealt --window 20"
    assert dataset_command(dealt) == made
    (file,) = write_csv(source, tmp_path)
    back = convert(home, [file], "back", episode_ends="none")
    assert dataset_command(back) == f"rwm data convert {file.name} --robot anymal_d --name back --episode-ends none"


def of(provenance):
    return SimpleNamespace(manifest=SimpleNamespace(provenance=provenance), name="set", robot="go2")


def test_what_no_command_says_falls_back_to_how_it_was_started(home):
    run = made(home, "policy", {"seed": 0, "odd": 1}, {})
    run.update(command=["/x/.venv/bin/rwm", "policy", "--home", "/x", "--lam", "1", "--json", "--home=/y"])
    assert run_command(run) == recorded_command(run) == "rwm policy --lam 1"


def test_a_page_needs_no_simulator_and_no_reinforcement_learning_library(home, monkeypatch):
    code = (
        "import sys, reports.page.report, reports.page.compare; sys.exit(bool({'rsl_rl', 'mujoco'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    run = made(home, "policy", build(PolicyConfig, "smoke"), {"dataset": "d", "model": "m"})
    monkeypatch.setitem(sys.modules, "rwmrl.imagination_training", None)
    assert run_command(run) == "rwm policy d --model m --lam 1 --preset smoke --seed 0"


def test_a_fit_that_began_with_a_model_does_not_ask_for_what_that_decides(home):
    own = {"warm_start": "m", "updates": 60, "hidden": 64, "bounded": True, "normalizer": "fitted"}
    run = made(home, "model", build(FitConfig, "finetune", own), {"dataset": "d", "model": "m"})
    assert run_command(run) == "rwm fit d --preset finetune --warm-start m --set updates=60 --seed 0"
