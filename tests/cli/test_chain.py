"""The chain as a user types it, on real physics: export, validate, fit, policy, evaluate, query."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from rwmdata.config import build
from rwmdata.home import Home
from rwmdata.windows import window_starts
from rwmmodel.checkpoint import load_model
from rwmmodel.data import RowStore
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig


def start(*words, home):
    command = [sys.executable, "-m", "cli", *words, "--home", str(home.root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rwm(*words, home):
    """Run a command with --json and return the object it prints."""
    process = start(*words, "--json", home=home)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a dataset of 16,000 simulated rows and a small model fitted on it."""
    home = Home(tmp_path_factory.mktemp("chain"))
    rwm(
        "data",
        "export",
        "--task",
        "Pretrain-v0",
        "--transitions",
        "16000",
        "--num-envs",
        "16",
        "--name",
        "d",
        home=home,
    )
    rwm("fit", "--preset", "smoke", home=home)
    return home


def test_the_exported_dataset_is_sound(home):
    assert rwm("data", "validate", home=home) == {"dataset": "d", "valid": True, "faults": []}
    manifest = rwm("data", "info", home=home)
    assert manifest["rows"] == sum(manifest["episodes"]["length"]) == 16000
    assert manifest["provenance"]["backend"] == "mujoco"


def test_the_right_action_predicts_seen_rows_better_than_its_neighbours(home, tmp_path):
    """One-step error on training windows: fed the schema's action, and fed the action one row early or late."""
    dataset, runs = home.dataset("d"), Home(tmp_path)
    config = build(
        FitConfig,
        "smoke",
        {
            "base": "mlp",
            "mlp_hidden": (256,),
            "history": 3,
            "forecast": 1,
            "members": 1,
            "batch": 512,
            "updates": 600,
            "lr": 2e-3,
            "val_interval": 600,
            "precision": "float32",
        },
    )
    model = load_model(fit_model(runs, dataset, config).model_file)
    starts = window_starts(dataset.episodes.start, dataset.episodes.length, 6, dataset.split("train"))
    windows = RowStore(dataset, model.normalizer, torch.device("cpu")).windows(starts[::4], 6)
    error = {}
    with torch.no_grad():
        for shift in (-1, 0, 1):
            predicted = model(windows.states[:, 1:4], windows.actions[:, 2 + shift : 5 + shift]).state
            error[shift] = float((predicted - windows.states[:, 4]).abs().sum(dim=1).mean())
    assert error[0] < 0.9 * min(error[-1], error[1]), error


def test_policy_and_evaluation_end_with_their_files_and_numbers(home):
    policy = rwm("policy", "--preset", "smoke", "--lam", "1.0", home=home)
    assert policy["lam"] == 1.0 and policy["iterations"] == 4
    gap = policy["mean_reward"] - policy["mean_penalised_reward"]
    assert gap == pytest.approx(policy["epistemic"] * 0.02, rel=1e-3)
    summary = rwm("eval", "uncertainty", "--windows", "4", "--steps", "40", home=home)
    folder = home.runs_dir / "eval" / summary["run"]
    assert summary == json.loads((folder / "summary.json").read_text())
    assert len(list(folder.glob("uncertainty_*"))) == 8
    assert {s["mode"] for s in summary["scalars"]} == {"mean", "sampled_member"}
    query = "select kind, status from runs order by created"
    kinds = [r["kind"] for r in rwm("sql", query, home=home)["rows"]]
    assert kinds == ["model", "policy", "eval"]
    show = rwm("runs", "show", summary["run"], home=home)
    assert show["parents"] == {"dataset": "d", "model": home.run("model").id}


def test_a_model_is_calibrated_and_a_policy_is_exported(home, tmp_path):
    few = ("--windows", "8", "--steps", "40")
    factors = rwm("model", "calibrate", *few, home=home)
    assert len(factors["epistemic"]) == 40 and factors["split"] == "val"
    summary = rwm("eval", "calibration", *few, home=home)
    assert {"epistemic", "epistemic_calibrated", "total", "total_calibrated"} == {s["mode"] for s in summary["scalars"]}
    noise = rwm("eval", "noise", *few, home=home)
    assert noise["scales"] == [0.0, 0.1, 0.2, 0.4, 0.5, 0.8] and not noise["shortened"]
    assert rwm("eval", "uncertainty", *few, "--calibrated", home=home)["evaluation"] == "uncertainty"
    tiny = ("--preset", "smoke", "--iterations", "1", "--num-envs", "8")
    clone = rwm("policy", "--algo", "bc", "--iterations", "5", home=home)
    sizes = ("--set", "episode_steps=10", "--set", "hidden_dims=[128,128,128]")
    warm = rwm("policy", *tiny, *sizes, "--penalty", "calibrated", "--warm-start", clone["run"], home=home)
    found = rwm("sweep", "policy", "--lam", "0,1", "--seeds", "1", *tiny[:4], "--set", "num_envs=8", home=home)
    assert [row["lam"] for row in found["rows"]] == [0.0, 1.0]
    said = rwm("export-policy", warm["run"], "--out", str(tmp_path / "deploy"), home=home)
    assert max(said["check"].values()) <= 1e-5
    names = {"policy.onnx", "policy.pt", "policy.json", "model_0.pt", "model_0_rsl_rl_5.pt"}
    assert {p.name for p in (tmp_path / "deploy").iterdir()} == names


def test_ctrl_c_in_a_fit_keeps_the_checkpoint_and_resume_goes_on(tmp_path, home):
    fresh = Home(tmp_path)
    (tmp_path / "data").symlink_to(home.data_dir)
    process = start("fit", "d", "--preset", "smoke", "--updates", "150", home=fresh)
    deadline = time.monotonic() + 120
    while not list(fresh.runs_dir.glob("model/*/checkpoints/state.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "rwm runs resume" in err
    (run,) = fresh.runs("model")
    assert run.meta.status == "interrupted"
    assert rwm("runs", "resume", home=fresh)["updates"] == 150
    assert fresh.run("model").id == run.id
