"""Model files come back as they were; anything else is named for what it is."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from rwmdata.errors import RwmError
from rwmmodel.checkpoint import (
    METADATA_KEY,
    FitState,
    load_fit_state,
    load_model,
    load_resumable,
    load_state,
    save_fit_state,
    save_model,
    save_resumable,
    save_state,
)
from rwmmodel.described_file import read_described
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
    with pytest.raises(RwmError, match="trap.pt cannot be read"):
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
    metadata, tensors = read_described(tmp_path / "x.safetensors", "model", "")
    description = json.loads(metadata[METADATA_KEY])
    description.pop("checksum")
    for old, new, fault in (("lstm", "lsXm", "damaged: base"), ("ensemble-1", "ensemble-9", "ensemble-9")):
        text = json.dumps(description).replace(old, new)
        save_file(tensors, tmp_path / "x.safetensors", {METADATA_KEY: text})
        assert fault in refused(tmp_path / "x.safetensors")


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


def flips(path):
    """Flip one bit of a file after the other, evenly spaced over its bytes; the file is whole again afterwards."""
    raw = path.read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 150)):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        yield
    path.write_bytes(raw)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_flipped_bit_in_a_model_file_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(small_model(), path)
    whole, unchanged = load_model(path), 0
    for _ in flips(path):
        try:
            flipped = load_model(path)
        except RwmError as exc:
            assert str(path) in exc.message
        else:
            unchanged += 1
            assert flipped.config == whole.config and flipped.info == whole.info
            assert same(flipped.state_dict(), whole.state_dict())
    assert unchanged < 5  # the padding of the header


def test_a_flipped_bit_in_a_state_file_is_noticed_or_changes_nothing(tmp_path):
    path, whole = tmp_path / "state.pt", {f"w{k}": torch.randn(40) for k in range(4)}
    save_state(path, whole)
    noticed = 0
    for _ in flips(path):
        try:
            assert same(load_state(path, torch.device("cpu")), whole)
        except RwmError as exc:
            noticed += 1
            assert str(path) in exc.message
    assert noticed > 20


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.full((8,), 7.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(raw)


def test_a_damaged_state_is_replaced_by_the_one_before_with_a_sentence(tmp_path, caplog):
    path, cpu = tmp_path / "state.pt", torch.device("cpu")
    for step in (1, 2):
        save_resumable(path, {"step": step, "w": torch.full((8,), 7.0)})
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert load_resumable(path, cpu)["step"] == 1
    (sentence,) = caplog.messages
    assert "state.pt has another checksum" in sentence and "goes on from the state before it" in sentence
    save_resumable(path, {"step": 3, "w": torch.full((8,), 7.0)})
    damage(path)
    assert load_resumable(path, cpu)["step"] == 1  # a whole one is kept, not the damaged one


def test_without_a_whole_state_nothing_is_resumed(tmp_path):
    path = tmp_path / "state.pt"
    save_resumable(path, {"w": torch.full((8,), 7.0)})
    damage(path)
    with pytest.raises(RwmError, match="state.pt has another checksum"):
        load_resumable(path, torch.device("cpu"))
