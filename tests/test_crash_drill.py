"""Exporters and fits are killed at random moments: committed data stays whole, and starting again ends the same.

``RWM_DRILL=50`` kills each of them fifty times.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from functools import partial

import pytest

from rwmdata.atomic import TMP_MARK
from rwmdata.fsck import check_home, repair
from rwmdata.home import Home
from rwmdata.validate import validate

KILLS = int(os.environ.get("RWM_DRILL", "3"))
MANY = 20
"""Of so many kills some hit while there is work to do, whatever else the machine is doing."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rwmrl.export", "rwmmodel.fit", "rwmrl.envs.mujoco"])


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
    from rwmmodel.fit_config import fit_preset

    torch.set_num_threads(1)
    gate.set()
    home, runs = Home(root), Home(root).runs("model")
    if runs:
        resume_fit(home, runs[0])
    else:
        config = fit_preset("smoke", checkpoint_interval=3, val_interval=6, log_interval=3, updates=24, seed=1)
        fit_model(home, home.dataset("d"), config)


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
        names = {p.name for p in here.data_dir.iterdir() if (p / "dataset.json").exists() and TMP_MARK not in p.name}
        assert names in ({"old"}, {"old", "d"})
        assert not [f for n in names for f in validate(here.dataset(n)) if f.severity == "error"]
        if "d" not in names:
            caught += 1
            assert all("cut off" in t.what for t in check_home(here))
            finish(export, root)
        assert content(here.dataset("d")) == expected
        assert check_home(here) == [] and not list(here.data_dir.glob(f"{TMP_MARK}*"))
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
        weights, expected = (r.checkpoints / "model.safetensors" for r in (run, whole))
        assert weights.read_bytes() == expected.read_bytes()
    assert caught > 0 or KILLS < MANY
