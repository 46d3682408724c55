"""Model files come back as they were; anything else is named for what it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from rwmdata.errors import RwmError
from rwmmodel.checkpoint import FitState, load_fit_state, load_model, save_fit_state, save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.normalizer import Normalizer

POLICY = {"actor.0.weight": torch.zeros(2, 2), "critic.0.weight": torch.zeros(2, 2), "std": torch.ones(2)}


def small_model() -> DynamicsEnsemble:
    config = EnsembleConfig(base="lstm", hidden=8, head_hidden=4, members=2, state_dim=3, action_dim=1, contact_dim=2)
    info = ModelInfo("toy", ("a", "b", "terminated"), 50.0, "linear")
    return DynamicsEnsemble(config, Normalizer(3, 1, [1, 2, 3, 0], [2, 2, 2, 1]), info)


def test_a_saved_model_predicts_the_same(tmp_path):
    model, path = small_model(), tmp_path / "model.safetensors"
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.config == model.config and loaded.info == model.info and not loaded.training
    states, actions = torch.randn(4, 32, 3), torch.randn(4, 32, 1)
    before, after = model(states, actions), loaded(states, actions)
    assert torch.equal(before.state, after.state) and torch.equal(before.contact, after.contact)
    assert torch.equal(loaded.normalizer.state_mean, torch.tensor([1.0, 2.0, 3.0]))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def refused(path) -> str:
    with pytest.raises(RwmError) as caught:
        load_model(path)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    assert "no model file" in refused(tmp_path / "absent.safetensors")


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    pointer = tmp_path / "model.pt"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 30718293\n")
    assert "Git LFS pointer of 133 bytes" in refused(pointer) and "git lfs pull" in refused(pointer)


@pytest.mark.parametrize("nested", [False, True])
def test_a_policy_is_not_taken_for_a_world_model(tmp_path, nested):
    torch.save({"model_state_dict": POLICY, "iter": 3} if nested else POLICY, tmp_path / "policy.pt")
    save_file({"mlp.0.weight": torch.zeros(2)}, tmp_path / "policy.safetensors", {"rwm_policy": "{}"})
    assert "holds a policy" in refused(tmp_path / "policy.pt")
    assert "holds a policy" in refused(tmp_path / "policy.safetensors")


def test_a_reference_checkpoint_says_which_key_is_which(tmp_path):
    torch.save({"model_state_dict": POLICY, "system_dynamics_state_dict": {}}, tmp_path / "model_500.pt")
    message = refused(tmp_path / "model_500.pt")
    assert "model_state_dict is the POLICY" in message and "system_dynamics_state_dict the world model" in message


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"x": Trap(tmp_path / "harmed")}, tmp_path / "trap.pt")
    assert "not a world model" in refused(tmp_path / "trap.pt")
    with pytest.raises(RwmError, match="not a fit state"):
        load_fit_state(tmp_path / "trap.pt", torch.device("cpu"))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_foreign_bytes_are_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "not a world model" in refused(tmp_path / "x.safetensors")


def test_foreign_tensors_are_refused(tmp_path):
    save_file({"embedding": torch.zeros(2)}, tmp_path / "x.safetensors")
    assert "first keys: embedding" in refused(tmp_path / "x.safetensors")


def test_tensors_that_do_not_fit_the_description_are_refused(tmp_path):
    model = small_model()
    model.state_head.min_log_std = torch.nn.Parameter(torch.zeros(2, 1, 4))
    save_model(model, tmp_path / "x.safetensors")
    assert "min_log_std" in refused(tmp_path / "x.safetensors")


def test_a_damaged_description_is_refused(tmp_path):
    model = small_model()
    save_model(model, tmp_path / "x.safetensors")
    raw = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(raw.replace(b"lstm", b"lsXm"))
    assert "damaged: base" in refused(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(raw.replace(b"ensemble-1", b"ensemble-9"))
    assert "ensemble-9" in refused(tmp_path / "x.safetensors")


def test_fit_state_comes_back(tmp_path):
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = FitState(step=7, validated=5, best={"val/total": 1.5}, best_step=5, stale=1, seconds=2.0)
    save_fit_state(tmp_path / "state.pt", state, net.state_dict(), optimizer.state_dict())
    got, weights, moments = load_fit_state(tmp_path / "state.pt", torch.device("cpu"))
    assert dataclasses.asdict(got) == dataclasses.asdict(state)
    assert torch.equal(weights["weight"], net.weight)
    assert torch.equal(moments["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
