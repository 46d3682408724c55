"""Wherever a checkpoint or policy is read, code in it is refused with one clear sentence and never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from cli.common import Call
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.checkpoint import load_fit_state, load_model, load_state
from rwmmodel.reference_checkpoint import import_reference
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.deploy import export_policy
from rwmrl.policy_file import load_policy
from rwmrl.ppo_config import PPOConfig
from rwmrl.reference_training import import_training
from rwmrl.warm_start import begin_with

CPU = torch.device("cpu")


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def plain(path, trap):
    path.write_bytes(pickle.dumps({"model_state_dict": trap, "actor_state_dict": trap}, protocol=2))


def zipped(path, trap):
    torch.save({"system_dynamics_state_dict": trap, "actor_state_dict": trap, "completed": trap}, path)


def old_style(path, trap):
    torch.save({"model_state_dict": trap}, path, _use_new_zipfile_serialization=False)


def warm_start(path):
    """As ``rwm policy --warm-start`` does, from a run whose checkpoint of that name is the file."""
    run = Run.create(Home(path.parent), "policy", {}, {}, seed=0)
    path.rename(run.checkpoints / path.name)
    begin_with(run.checkpoint, nn.Linear(1, 1), nn.Linear(1, 1), load_robot("anymal_d"), PPOConfig())


def behaviour(path):
    make_behaviour(str(path), BehaviourContext(load_robot("anymal_d"), 2, torch.Generator()))


READERS = {
    "load_policy": ("policy.safetensors", load_policy),
    "rwm export-policy FILE": ("policy.pt", lambda path: export_policy(path, path.parent / "out")),
    "--policy FILE": ("policy.safetensors", behaviour),
    "load_model": ("model.safetensors", load_model),
    "--model FILE": ("model.pt", lambda path: Call(Home(path.parent), True, {}, {}).model(str(path))),
    "rwm model import FILE": ("model_0.pt", lambda path: import_reference(path, history=32)),
    "rwm model import FILE, policy too": ("model_0.pt", import_training),
    "resumed fit": ("state.pt", lambda path: load_fit_state(path, CPU)),
    "resumed policy": ("state.pt", lambda path: load_state(path, CPU)),
    "--warm-start RUN": ("state.pt", warm_start),
    "--warm-start CLONE": ("policy.safetensors", warm_start),
}


@pytest.mark.parametrize("write", [plain, zipped, old_style])
@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_file_is_refused_and_not_run(tmp_path, write, reader):
    name, read = READERS[reader]
    write(tmp_path / name, Trap(tmp_path / "ran"))
    with pytest.raises(RwmError) as error:
        read(tmp_path / name)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()
    assert name in error.value.message and "\n" not in error.value.message and error.value.hint


@pytest.mark.parametrize("write", [plain, zipped, old_style])
def test_the_trap_works(tmp_path, write):
    """Read the careless way, each of these files does run its code."""
    write(tmp_path / "x", Trap(tmp_path / "ran"))
    if write is plain:
        pickle.loads((tmp_path / "x").read_bytes())
    else:
        torch.load(tmp_path / "x", weights_only=False)
    assert (tmp_path / "ran").exists()
