"""A fit on two processes takes the steps of a fit on one."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmmodel.checkpoint import load_model
from rwmmodel.distributed import Ranks
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig

SCRIPT = """
import os
import sys
import torch
import torch.distributed as dist
from pathlib import Path
from rwmdata.home import Home
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
torch.set_num_threads(1)
home = Home(Path(sys.argv[1]))
run = fit_model(home, home.dataset(sys.argv[2]), FitConfig.model_validate_json(sys.argv[3]))
assert not dist.is_initialized()
Path(sys.argv[4], os.environ["RANK"]).write_text(f"{run.id} {run.meta.status}")
"""
SETTINGS = {
    "hidden": 8, "head_hidden": 8, "members": 3, "history": 4, "forecast": 3, "batch": 33, "updates": 25,
    "val_interval": 10, "checkpoint_interval": 10, "device": "cpu", "base": "gru",
}  # fmt: skip


@pytest.fixture
def dataset(make_dataset, schema):
    rows = np.zeros((40, 40, schema.width), np.float32)
    rows[..., :57] = np.random.default_rng(0).normal(size=(40, 40, 57))
    return make_dataset(rows, "random")


@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "ema": 0.9, "loss": {"kind": "nll"}, "shared_base": False}])
def test_two_processes_fit_what_one_fits(on_two_processes, tmp_path, home, dataset, more):
    config = FitConfig(**SETTINGS, **more)
    said = on_two_processes(SCRIPT, str(home.root), dataset.name, config.model_dump_json())
    (run,) = home.runs("model")
    assert said == [f"{run.id} finished"] * 2
    alone = fit_model(Home(tmp_path / "alone"), dataset, config)
    two, one = (load_model(r.model_file).state_dict() for r in (run, alone))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    losses = [[m["value"] for m in r.metrics() if m["metric"] == "train/total"] for r in (run, alone)]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert run.meta.summary["val/total"] == pytest.approx(alone.meta.summary["val/total"], rel=1e-4)


def test_a_batch_too_small_to_share_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Ranks, "from_environment", classmethod(lambda cls: cls(0, 8)))
    monkeypatch.setattr(Ranks, "joined", lambda self, device: nullcontext())
    monkeypatch.setattr(Ranks, "share", lambda self, value: value)
    with pytest.raises(RwmError, match="cannot be shared between 8 processes"):
        fit_model(Home(tmp_path), dataset, FitConfig(**{**SETTINGS, "batch": 7}))


def test_every_process_takes_a_gpu_of_its_own_unless_one_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    ranks = Ranks.from_environment()
    assert (ranks.rank, ranks.world, ranks.main) == (3, 4, False)
    assert ranks.device(torch.device("cuda")) == torch.device("cuda", 1)
    assert ranks.device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert ranks.device(torch.device("cpu")) == torch.device("cpu")
