"""A model or policy file that lies anywhere works with every command that takes one, and is exactly what is used."""

from __future__ import annotations

import json

import pytest

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.runs import DIGEST, Run
from rwmmodel.calibration_factors import Calibration
from rwmmodel.checkpoint import load_model, save_model
from rwmrl.policy_file import MlpPolicy, PolicyInfo, save_policy

TINY = ("--preset", "smoke", "--iterations", "1", "--set", "num_envs=8", "--set", "episode_steps=10")


@pytest.fixture
def sent(home, dataset, make_model, tmp_path):
    """A model file in no run, in a home with a dataset and no run."""
    file = tmp_path / "sent.safetensors"
    save_model(make_model(), file)
    return file


@pytest.fixture
def told(rwm):
    """Run a command and return the JSON object it prints."""
    return lambda *words: json.loads(rwm(*words, "--json"))


@pytest.mark.parametrize("evaluation", ["uncertainty", "dynamics", "noise", "calibration"])
def test_every_evaluation_of_a_model_takes_a_lone_file(told, sent, evaluation):
    few = ("--windows", "2", "--steps", "3")
    assert told("eval", evaluation, "--model", sent, *few)["model"].startswith(f"{sent}{DIGEST}")


def test_another_file_of_a_run_is_what_is_evaluated(told, home, model_run, make_model):
    other = model_run.checkpoints / "other.safetensors"
    save_model(make_model(seed=1), other)
    words = ("eval", "dynamics", "--windows", "2", "--steps", "3", "--model")
    own, by_file, another = (told(*words, name) for name in (model_run.id, model_run.model_file, other))
    assert own["scalars"] == by_file["scalars"] != another["scalars"]
    assert own["model"] == by_file["model"] == model_run.id
    assert home.model(another["model"]).file == other.resolve()


def test_a_lone_model_is_shown_exported_calibrated_and_imported(told, home, sent, tmp_path):
    assert told("model", "info", sent)["file"] == str(sent)
    told("model", "export", sent, "--out", tmp_path / "reference.pt")
    told("model", "calibrate", sent, "--windows", "2", "--steps", "3")
    calibration = load_model(sent).calibration
    assert isinstance(calibration, Calibration)
    run = Run.open(home.runs_dir / "model" / told("model", "import", sent)["run"])
    assert load_model(run.model_file).calibration == calibration and home.model().id == run.id
    with pytest.raises(RwmError, match="is a model of anymal_d with a history of 6"):
        told("model", "import", sent, "--history", "7")


def test_a_policy_of_a_sent_model_is_resumed_in_that_very_file_only(told, home, dataset, sent, make_model):
    made = told("policy", "--model", sent, *TINY)
    run = home.run("policy", made["run"])
    assert home.model(run.meta.parents["model"]).file == sent
    run.update(status="interrupted")
    assert told("runs", "resume", run.id)["run"] == run.id
    run.update(status="interrupted")
    save_model(make_model(seed=1), sent)
    with pytest.raises(RwmError, match="sent.safetensors has changed since"):
        told("runs", "resume", run.id)


def test_a_sweep_takes_a_lone_model(told, sent):
    rows = told("sweep", "policy", "--model", sent, "--lam", "0", "--seeds", "1", *TINY)["rows"]
    assert [row["lam"] for row in rows] == [0.0]


def test_a_lone_policy_begins_a_training_and_is_exported(told, home, sent, tmp_path):
    file = tmp_path / "walks.safetensors"
    save_policy(MlpPolicy(PolicyInfo.of(load_robot("anymal_d"), (128, 128, 128))), file)
    made = told("policy", "--model", sent, *TINY, "--set", "hidden_dims=[128,128,128]", "--warm-start", file)
    parents = home.run("policy", made["run"]).meta.parents
    assert home.policy(parents["policy"]).file == file
    with pytest.raises(RwmError, match="holds a world model"):
        told("export-policy", sent, "--out", tmp_path / "deploy")
