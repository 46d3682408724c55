"""A sweep skips what is finished, resumes what is broken, and runs on processes or on Ray."""

from __future__ import annotations

from functools import partial

import pytest

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmrl.cloning import CloningConfig
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig
from rwmrl.sweep import SweepConfig, sweep_policies


def small(lam, seed, **options):
    sizes = {"iterations": 2, "num_envs": 8, "hidden_dims": (8,), "episode_steps": 10, "checkpoint_interval": 1}
    return build(PolicyConfig, "smoke", {"lam": lam, "seed": seed, "device": "cpu", **sizes | options})


def test_finished_policies_are_skipped_and_broken_ones_resumed(home, dataset, model_run):
    configs = [small(0.0, 0), small(1.0, 0), small(1.0, 1)]
    finished = train_policy(home, dataset, model_run.checkpoint, configs[0])
    broken = train_policy(home, dataset, model_run.checkpoint, configs[1])
    broken.update(status="interrupted")
    told = []
    runs = sweep_policies(
        home,
        dataset,
        model_run.checkpoint,
        configs,
        workers=2,
        progress=lambda done, total, _: told.append((done, total)),
    )
    assert [r.id for r in runs[:2]] == [finished.id, broken.id] and len(home.runs("policy")) == 3
    assert [r.meta.status for r in runs] == ["finished"] * 3
    assert [(r.meta.summary["lam"], r.meta.seed) for r in runs] == [(0.0, 0), (1.0, 0), (1.0, 1)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [r.id for r in sweep_policies(home, dataset, model_run.checkpoint, configs)] == [r.id for r in runs]


def test_policies_of_one_seed_begin_with_one_clone(home, dataset, model_run, monkeypatch):
    monkeypatch.setattr("rwmrl.imagination_training.CloningConfig", partial(CloningConfig, updates=5))
    configs, told = [small(lam, 0, warm_start="bc") for lam in (0.0, 1.0)], []
    runs = sweep_policies(
        home, dataset, model_run.checkpoint, configs, progress=lambda done, total, shown: told.append((done, shown))
    )
    (clone,) = [r for r in home.runs("policy") if "algo" in r.meta.config]
    assert [r.meta.parents["policy"] for r in runs] == [clone.id] * 2
    assert told[:2] == [(0, {"clones": 1})] * 2 and told[-1][0] == 2
    assert [r.id for r in sweep_policies(home, dataset, model_run.checkpoint, configs)] == [r.id for r in runs]


def test_one_that_fails_does_not_stop_the_others(home, dataset, model_run):
    configs = [small(1.0, 0, penalty="calibrated"), small(0.5, 0)]
    with pytest.raises(RwmError, match="1 of 2 policies failed .lambda 1, seed 0: .*never calibrated"):
        sweep_policies(home, dataset, model_run.checkpoint, configs)
    assert [r.meta.summary["lam"] for r in home.runs("policy") if r.meta.status == "finished"] == [0.5]


def test_two_workers_of_a_ray_cluster(home, dataset, model_run, ray_address):
    where = {"engine": "ray", "workers": 2, "address": ray_address}
    configs = [small(0.0, 0), small(1.0, 0), small(1.0, 0, penalty="calibrated")]
    with pytest.raises(RwmError, match="1 of 3 policies failed"):
        sweep_policies(home, dataset, model_run.checkpoint, configs, **where)
    runs = sweep_policies(home, dataset, model_run.checkpoint, configs[:2], **where)
    assert [r.meta.status for r in runs] == ["finished"] * 2 and len(home.runs("policy")) == 2


def test_weights_are_read_from_text():
    assert build(SweepConfig, None, {"lam": "0,0.5,0.5,2"}).lam == (0.0, 0.5, 0.5, 2.0)
    for text in ("", "a", "1,-2"):
        with pytest.raises(RwmError, match="sweep configuration is not valid: lam"):
            build(SweepConfig, None, {"lam": text})
