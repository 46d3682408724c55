from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rwmdata.errors import RwmError
from rwmmodel.checkpoint import save_model
from rwmrl.policy_file import METADATA_KEY, MlpPolicy, PolicyInfo, load_policy, save_policy


@pytest.fixture
def policy(robot):
    torch.manual_seed(0)
    policy = MlpPolicy(PolicyInfo.of(robot, (8, 6), "tanh", "policy 1"))
    policy.mean.fill_(0.5)
    policy.scale.fill_(2.0)
    return policy


@pytest.fixture
def path(policy, tmp_path):
    save_policy(policy, tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def test_a_policy_acts_the_same_after_a_round_trip(policy, path):
    observation = torch.randn(3, 48)
    again = load_policy(path, "anymal_d")
    torch.testing.assert_close(again(observation), policy(observation), rtol=0, atol=0)
    assert again.info == policy.info and not again.training and again(observation).shape == (3, 12)


def test_the_normaliser_is_part_of_the_policy(robot):
    """One linear layer of ones: the action is the sum of (o - mean) / scale."""
    policy = MlpPolicy(PolicyInfo.of(robot, ()))
    with torch.no_grad():
        policy.mlp[0].weight.fill_(1.0)
        policy.mlp[0].bias.zero_()
        policy.mean.fill_(1.0)
        policy.scale.fill_(4.0)
    assert policy(torch.full((1, 48), 3.0))[0].tolist() == pytest.approx([48 * 0.5] * 12)


def test_the_last_hidden_layer_may_have_an_activation_of_its_own(robot, tmp_path):
    """Four tanh units and a last layer that scales them keep actions within a range; by hand."""
    info = PolicyInfo.of(robot, (8, 4), "relu").model_copy(update={"last_activation": "tanh"})
    policy, observation = MlpPolicy(info), torch.randn(5, 48)
    save_policy(policy, tmp_path / "p")
    first, second, last = (policy.mlp[k] for k in (0, 2, 4))
    expected = last(torch.tanh(second(torch.relu(first(observation)))))
    torch.testing.assert_close(load_policy(tmp_path / "p")(observation), expected, rtol=0, atol=0)


def test_the_file_says_what_goes_in_and_what_comes_out(path):
    with safe_open(path, framework="pt") as file:
        info = json.loads(file.metadata()[METADATA_KEY])["info"]
    assert len(info["observations"]) == 48 and info["observations"][9] == "command_lin_vel_x"
    assert info["joints"][0] == "LF_HAA" and info["action_scale"] == 0.5 and info["control_hz"] == 50.0


def test_a_policy_of_another_robot_or_scale_is_refused(policy, path, tmp_path):
    changed = policy.info.model_copy(update={"action_scale": 0.25})
    policy.info = changed
    save_policy(policy, tmp_path / "scaled.safetensors")
    with pytest.raises(RwmError, match="was trained on other action_scale than robot 'anymal_d' has now"):
        load_policy(tmp_path / "scaled.safetensors", "anymal_d")
    policy.info = changed.model_copy(update={"robot": "go2"})
    save_policy(policy, tmp_path / "go2.safetensors")
    with pytest.raises(RwmError, match="is a policy of 'go2', not of 'anymal_d'"):
        load_policy(tmp_path / "go2.safetensors", "anymal_d")


def test_a_missing_file_a_pointer_and_foreign_files_are_told_apart(tmp_path, make_model):
    with pytest.raises(RwmError, match="There is no policy file"):
        load_policy(tmp_path / "missing")
    lfs = tmp_path / "lfs"
    lfs.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(RwmError, match="Git LFS pointer"):
        load_policy(lfs)
    (tmp_path / "empty").write_bytes(b"")
    torch.save({"a": torch.zeros(1)}, tmp_path / "torch.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for name in ("empty", "torch.pt", "foreign.safetensors"):
        with pytest.raises(RwmError, match="is not a policy file of this toolkit"):
            load_policy(tmp_path / name)
    save_model(make_model(), tmp_path / "model.safetensors")
    with pytest.raises(RwmError, match="holds a world model, but a policy is expected"):
        load_policy(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: d["info"].update(hidden_dims=[5]), "mlp"),
        (lambda d: d["info"].pop("joints"), "joints"),
        (lambda d: d["info"].update(activation="sin"), "sin"),
        (lambda d: d.update(format="rwm-policy-9"), "rwm-policy-9"),
    ],
)
def test_a_damaged_description_is_named(policy, tmp_path, change, fault):
    description = {"format": "rwm-policy-1", "info": policy.info.model_dump(mode="json")}
    change(description)
    save_file(policy.state_dict(), tmp_path / "bad", {METADATA_KEY: json.dumps(description)})
    with pytest.raises(RwmError, match=f"is damaged: .*{fault}"):
        load_policy(tmp_path / "bad")


def test_a_pickle_is_not_executed(tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    (tmp_path / "evil").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RwmError, match="is not a policy file"):
        load_policy(tmp_path / "evil")
    assert not marker.exists()
