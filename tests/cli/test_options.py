"""Options of all commands: what is left out is not passed on, what nothing reads is refused, help states defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cli.common import Call
from cli.main import PANELS, app
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Checkpoint, Run
from rwmrl.policy_config import PolicyConfig
from rwmrl.policy_file import save_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo
from rwmrl.simulator_training import TrainConfig

OWN_DEFAULTS = {"--home", "--json", "--help", "--out", "--format", "--algo"}
"""Options that no configuration and no function stands behind, or that choose the configuration."""


def commands(group=None, words=()):
    """Give every command with the words that call it."""
    for name, each in (group or typer.main.get_command(app)).commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*words, name))
        else:
            yield pytest.param(each, id=" ".join((*words, name)))


@pytest.mark.parametrize("each", list(commands()))
def test_every_command_has_a_home_speaks_json_and_states_no_default(each):
    names = {option for param in each.params for option in param.opts}
    assert {"--home", "--json"} <= names
    for param in each.params:
        assert param.default in (None, False) or OWN_DEFAULTS & {*param.opts}, param.opts


def run(*words, home):
    result = CliRunner().invoke(app, [*words, "--home", str(home.root)])
    if isinstance(result.exception, RwmError):
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("fit",), ("2300", "laptop", "sampled_mse")),
        (("policy",), ("mopo", "0.2")),
        (("train",), ("4096", "0.25")),
        (("eval", "noise"), ("100", "400")),
        (("data", "sample"), ("40", "train")),
    ],
)
def test_help_states_the_defaults_of_the_configuration(home, words, shown):
    text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).stdout
    assert all(f"[default: {value}]" in text for value in shown), text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--algo", "bc", "--lam", "3"), "bc does not read --lam; mopo, mbpo do"),
        (("--algo", "cql", "--model", "m"), "cql does not read --model; mopo, mbpo do"),
        (("--algo", "iql", "--preset", "paper"), "iql does not read --preset"),
        (("--algo", "bc", "--warm-start", "none"), "bc does not read --warm-start"),
        (("--algo", "bc", "--num-envs", "3"), "bc does not read --num-envs"),
        (("--algo", "mbpo", "--lam", "1"), "lambda 1 contradicts it"),
        (("--algo", "mbpo", "--set", "lam=1"), "lambda 1 contradicts it"),
        (("--algo", "genius"), "Unknown algorithm 'genius'"),
        (("--set", "ppo.lr=-1"), "ppo.lr: Input should be greater than 0"),
        (("--set", "ppo.entropy=1"), r"ppo.entropy: is no option \(similar: ppo.entropy_coef"),
    ],
)
def test_options_of_a_policy_that_nothing_reads_or_that_contradict_are_named(home, words, sentence):
    with pytest.raises(RwmError, match=sentence):
        run("policy", *words, home=home)
    assert not home.runs_dir.exists()


def test_other_options_of_one_way_only_are_refused_without_it(home, tmp_path):
    with pytest.raises(RwmError, match="needs --engine ray"):
        run("sweep", "policy", "--address", "ray://x", home=home)
    log = tmp_path / "x.hdf5"
    log.touch()
    with pytest.raises(RwmError, match="HDF5 files are converted without --episode-ends"):
        run("data", "convert", str(log), "--name", "x", "--episode-ends", "file", home=home)


class Arrived(BaseException):
    """Carries what a command handed on."""


@pytest.mark.parametrize(("words", "robot"), [((), "go2"), (("--robot", "anymal_d"), "anymal_d")])
def test_a_policy_file_names_the_robot_that_walks_unless_another_is_asked_for(
    home, tmp_path, monkeypatch, words, robot
):
    def arrive(home, config, progress):
        raise Arrived(config)

    monkeypatch.setattr("reports.evaluate.policy_score.evaluate_policy", arrive)
    file = tmp_path / "policy.safetensors"
    save_policy(MlpPolicy(PolicyInfo.of(load_robot("go2"), (8,))), file)
    command = ["eval", "policy", "--policy", str(file), *words, "--home", str(home.root)]
    with pytest.raises(Arrived) as caught:
        typer.main.get_command(app).main(command, standalone_mode=False)
    assert caught.value.args[0].robot == robot


def test_dotted_settings_reach_a_training_and_leave_its_other_defaults(home, monkeypatch):
    def arrive(home, config, progress):
        raise Arrived(config)

    monkeypatch.setattr("rwmrl.simulator_training.train_in_simulator", arrive)
    words = ("--set", "ppo.lr=1e-4", "--reward", "action_rate_l2=-0.02", "--entropy", "0")
    with pytest.raises(Arrived) as caught:
        typer.main.get_command(app).main(["train", *words, "--home", str(home.root)], standalone_mode=False)
    ppo = TrainConfig().ppo.model_copy(update={"lr": 1e-4, "entropy_coef": 0.0})
    assert caught.value.args[0] == TrainConfig(ppo=ppo, rewards={"action_rate_l2": -0.02})
    with pytest.raises(RwmError, match="'x' is not KEY=VALUE"):
        run("train", "--reward", "x", home=home)


def test_a_sweep_hands_preset_and_settings_to_its_policies(home, monkeypatch):
    def arrive(*arguments, **options):
        raise Arrived(arguments[3])

    monkeypatch.setattr("rwmrl.sweep.sweep_policies", arrive)
    monkeypatch.setattr("cli.common.Call.model", lambda *_: None)
    monkeypatch.setattr("cli.common.Call.fitted", lambda *_: None)
    words = ["sweep", "policy", "--lam", "0,0.5,0.0", "--seeds", "2", "--preset", "smoke", "--set", "num_envs=8"]
    with pytest.raises(Arrived) as caught:
        typer.main.get_command(app).main([*words, "--home", str(home.root)], standalone_mode=False)
    assert caught.value.args[0] == [
        build(PolicyConfig, "smoke", {"num_envs": 8, "lam": lam, "seed": seed}) for lam in (0.0, 0.5) for seed in (0, 1)
    ]


def test_inferring_a_mapping_prints_one_json_object(home, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("time,base_lin_vel_x\n0,1\n")
    result = run("data", "convert", str(log), "--infer", "--json", home=Home(Path(home.root)))
    assert "mapping" in json.loads(result.stdout)


def test_help_lists_every_command_under_one_heading_in_the_order_of_the_work(home):
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    commands_of_help = re.findall(r"^│ ([a-z][\w-]*) +\S", shown, re.MULTILINE)
    assert commands_of_help == [name for names in PANELS.values() for name in names]
    assert set(commands_of_help) == set(typer.main.get_command(app).commands)


def test_a_command_says_when_it_takes_the_dataset_a_model_was_fitted_on(home, schema, make_dataset, capsys):
    rows = np.zeros((30, schema.width), np.float32)
    rows[:, 8] = -1  # gravity
    for name in ("fitted_on", "newest"):
        make_dataset([rows], name)
    run = Run.create(home, "model", {}, {"dataset": "fitted_on"}, 0)
    checkpoint, call = Checkpoint(run.model_file, run.id, run), Call(home, False, {}, {})
    assert call.fitted(None, checkpoint).name == "fitted_on"
    assert "dataset fitted_on (the model was fitted on it)" in capsys.readouterr().err
    assert call.fitted("newest", checkpoint).name == "newest"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [("--members", 3), ("--normalizer", "fitted"), ("--set", "hidden=64")])
def test_what_a_begun_model_decides_cannot_be_asked_for(rwm, words):
    with pytest.raises(RwmError, match=f"keeps its architecture and normaliser, whatever {words[0]}"):
        rwm("fit", "sample", "--warm-start", "shipped", *words)
