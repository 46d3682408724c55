"""Exporters, fits and policy runs are killed at random moments: what was committed stays whole, and going on ends the
same.

``RWM_DRILL=50`` kills each of them fifty times.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from rwmdata.atomic import TMP_MARK
from rwmdata.config import build
from rwmdata.fsck import check_home, repair
from rwmdata.home import Home
from rwmdata.validate import validate

KILLS = int(os.environ.get("RWM_DRILL", "3"))
ITERATIONS = 12
MANY = 20
"""Of so many kills some hit while there is work to do, whatever else the machine is doing."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["rwmrl.export", "rwmmodel.fit", "rwmrl.envs.mujoco", "rwmrl.imagination_training", "rwmrl.cloning"]
)


def export(root, gate):
    """Write 12,000 rows as many small shards."""
    import rwmrl.export as module

    module.DatasetWriter = partial(module.DatasetWriter, rows_per_shard=1000)
    gate.set()
    config = module.ExportConfig(name="d", transitions=12_000, num_envs=32, seed=5, episode_length_s=2.0)
    module.export_dataset(Home(root), config)


def fit(root, gate):
    """Fit a small model with many checkpoints, or take an unfinished fit further."""
    import torch

    from rwmmodel.fit import fit_model, resume_fit
    from rwmmodel.fit_config import FitConfig

    torch.set_num_threads(1)
    gate.set()
    home, runs = Home(root), Home(root).runs("model")
    if runs:
        resume_fit(home, runs[0])
    else:
        config = build(
            FitConfig,
            "smoke",
            {"checkpoint_interval": 3, "val_interval": 6, "log_interval": 3, "updates": 24, "seed": 1},
        )
        fit_model(home, home.dataset("d"), config)


def dream(root, gate):
    """Train a small policy in the model, with a checkpoint every other iteration, or take a broken run further."""
    import torch

    from rwmrl.imagination_training import train_policy
    from rwmrl.policy_config import PolicyConfig

    torch.set_num_threads(1)
    gate.set()
    home, runs = Home(root), Home(root).runs("policy")
    sizes = {"iterations": ITERATIONS, "num_envs": 8, "num_steps": 4, "episode_steps": 6, "hidden_dims": (8,)}
    config = build(PolicyConfig, "smoke", {**sizes, "checkpoint_interval": 2, "device": "cpu"})
    train_policy(home, home.dataset("d"), home.model(), config, resume=runs[0] if runs else None)


def clone(root, gate):
    """Clone the data's behaviour, or do so again in a broken run."""
    import torch

    from rwmrl.cloning import CloningConfig, clone_behaviour

    torch.set_num_threads(1)
    gate.set()
    home, runs = Home(root), Home(root).runs("policy")
    config = CloningConfig(updates=60, batch=64, hidden_dims=(16,), log_interval=10, device="cpu")
    clone_behaviour(home, home.dataset("d"), config, resume=runs[0] if runs else None)


def start(job, root):
    gate = CONTEXT.Event()
    process = CONTEXT.Process(target=job, args=(root, gate))
    process.start()
    assert gate.wait(120)
    return process


def finish(job, root):
    """Let a job run to its end; return its seconds."""
    process, began = start(job, root), time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def kill_within(job, root, seconds, rng):
    process = start(job, root)
    process.join(rng.uniform(0, seconds))
    process.kill()
    process.join()


def kill_at(job, root, step, rng):
    """Kill a job that logs as soon as it has logged ``step``, or a moment later; unless it is done by then."""
    process = start(job, root)
    while process.is_alive() and not any(m["step"] >= step for r in Home(root).runs("policy") for m in r.metrics()):
        time.sleep(0.003)
    process.join(rng.uniform(0, 0.005))
    process.kill()
    process.join()


def content(dataset):
    """What has to be the same, bit for bit: all but times."""
    m = dataset.manifest
    return [s.sha256 for s in m.shards], m.episodes, m.splits, m.columns


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A home with an export and a fit nobody disturbed, and how long they took."""
    root = tmp_path_factory.mktemp("undisturbed")
    return Home(root), {job: finish(job, root) for job in (export, fit)}


def test_a_killed_export_leaves_committed_data_whole_and_run_again_ends_the_same(undisturbed, tmp_path):
    home, seconds = undisturbed
    expected, rng, caught = content(home.dataset("d")), random.Random(0), 0
    for k in range(KILLS):
        root = tmp_path / str(k)
        (root / "data").mkdir(parents=True)
        (root / "data" / "old").symlink_to(home.dataset("d").path)
        kill_within(export, root, seconds[export], rng)
        here = Home(root)
        names = {
            p.name for p in here.data_dir.iterdir() if (p / "dataset.json").exists() and not p.name.startswith(TMP_MARK)
        }
        assert names in ({"old"}, {"old", "d"})
        assert not [f for n in names for f in validate(here.dataset(n)) if f.severity == "error"]
        if "d" not in names:
            caught += 1
            assert all("cut off" in t.what for t in check_home(here))
            finish(export, root)
        assert content(here.dataset("d")) == expected
        assert check_home(here) == [] and {p.name for p in here.data_dir.iterdir()} == {"old", "d"}
    assert caught > 0 or KILLS < MANY


def test_a_killed_fit_goes_on_to_the_same_weights_and_numbers(undisturbed, tmp_path):
    home, seconds = undisturbed
    (whole,) = home.runs("model")
    rng, caught = random.Random(1), 0
    for k in range(KILLS):
        root = tmp_path / str(k)
        (root / "data").mkdir(parents=True)
        (root / "data" / "d").symlink_to(home.dataset("d").path)
        kill_within(fit, root, seconds[fit], rng)
        here = Home(root)
        assert not [f for f in validate(here.dataset("d")) if f.severity == "error"]
        unfinished = [r for r in here.runs("model") if r.meta.status != "finished"]
        caught += len(unfinished)
        repair(here, check_home(here))
        assert check_home(here) == []
        if unfinished or not here.runs("model"):
            finish(fit, root)
        (run,) = here.runs("model")
        assert run.meta.status == "finished" and run.metrics() == whole.metrics()
        weights, expected = (r.model_file for r in (run, whole))
        assert weights.read_bytes() == expected.read_bytes()
    assert caught > 0 or KILLS < MANY


def beside(root, home):
    """Return a home with the same dataset and model as ``home``, and no policies."""
    for kind, name in (("data", "d"), ("runs", "model")):
        (root / kind).mkdir(parents=True)
        (root / kind / name).symlink_to(getattr(home, f"{kind}_dir") / name)
    return Home(root)


def numbers(run):
    """Every logged number with its step and name, but those that measure time."""
    return [(m["step"], m["metric"], m["value"]) for m in run.metrics() if not m["metric"].startswith("perf/")]


@pytest.mark.parametrize("job", [dream, clone])
def test_a_policy_run_killed_again_and_again_ends_with_the_same_weights_and_numbers(undisturbed, tmp_path, job):
    whole_home = beside(tmp_path / "whole", undisturbed[0])
    finish(job, whole_home.root)
    (whole,) = whole_home.runs("policy")
    last = whole.metrics()[-1]["step"]
    rng, caught = random.Random(2), 0
    for k in range(KILLS):
        here = beside(tmp_path / str(k), undisturbed[0])
        for step in sorted(rng.choices(range(1, last), k=2)):
            kill_at(job, here.root, step, rng)
            if here.runs("policy")[0].meta.status == "finished":
                break
        repair(here, check_home(here))
        assert check_home(here) == []
        unfinished = [r for r in here.runs("policy") if r.meta.status != "finished"]
        caught += len(unfinished)
        if unfinished:
            finish(job, here.root)
        (run,) = here.runs("policy")
        assert run.meta.status == "finished" and numbers(run) == numbers(whole)
        assert {p.name for p in run.checkpoints.iterdir()} == {p.name for p in whole.checkpoints.iterdir()}
        weights, expected = (load_file(r.policy_file) for r in (run, whole))
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
        if job is dream:
            state = torch.load(run.state_file, weights_only=True)
            assert state["completed"] == ITERATIONS
            assert torch.equal(weights["mlp.0.weight"], state["actor_state_dict"]["mlp.0.weight"])
    assert caught > 0
