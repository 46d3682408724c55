"""PPO on two processes: each imagines robots of its own, rsl_rl averages what they learn, the first one writes."""

from __future__ import annotations

import pytest
import torch

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig
from rwmrl.policy_file import load_policy
from rwmrl.simulator_training import train_in_simulator

SCRIPT = """
import os
import sys
import torch
import torch.distributed as dist
from pathlib import Path
from rwmdata.home import Home
from rwmmodel.distributed import Ranks
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig
torch.set_num_threads(1)
if sys.argv[1] == "alike":
    Ranks.seed = lambda self, seed: seed
home = Home(Path(sys.argv[2]))
run = train_policy(home, home.dataset("small"), home.model(), PolicyConfig.model_validate_json(sys.argv[3]))
assert not dist.is_initialized()
Path(sys.argv[4], os.environ["RANK"]).write_text(f"{run.id} {run.meta.status}")
"""


@pytest.fixture
def config():
    return build(
        PolicyConfig,
        "smoke",
        {
            "iterations": 4,
            "num_envs": 16,
            "hidden_dims": (16,),
            "episode_steps": 20,
            "schedule": "fixed",
            "lam": 1.0,
            "device": "cpu",
        },
    )


def parameters(run):
    return load_policy(run.policy_file, "anymal_d").state_dict()


def test_two_processes_that_imagine_the_same_learn_what_one_learns(on_two_processes, home, dataset, model_run, config):
    """The mean of two equal gradients is that gradient, and twice the same observations have the same statistics."""
    said = on_two_processes(SCRIPT, "alike", str(home.root), config.model_dump_json())
    (run,) = home.runs("policy")
    assert said == [f"{run.id} finished"] * 2
    alone = train_policy(home, dataset, model_run.checkpoint, config)
    one, two = parameters(alone), parameters(run)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert run.series()["imagined/reward"] == pytest.approx(alone.series()["imagined/reward"], rel=1e-4)


def test_two_processes_imagine_robots_of_their_own(on_two_processes, home, dataset, model_run, config):
    on_two_processes(SCRIPT, "each its own", str(home.root), config.model_dump_json())
    (run,) = home.runs("policy")
    assert run.meta.status == "finished" and [len(v) for v in run.series().values()][0] == config.iterations
    alone = train_policy(home, dataset, model_run.checkpoint, config)
    one, two = parameters(alone), parameters(run)
    assert max((two[k] - one[k]).abs().max() for k in one) > 1e-3


def test_training_in_a_simulator_is_the_work_of_one_process(home, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RwmError, match="one process"):
        train_in_simulator(home)
