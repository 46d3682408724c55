"""Exported policies give the policy's own actions, and say how to run them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmrl.deploy import export_policy
from rwmrl.policy_file import MlpPolicy, PolicyInfo, load_policy, save_policy


@pytest.fixture
def policy_file(tmp_path):
    torch.manual_seed(0)
    policy = MlpPolicy(PolicyInfo.of(load_robot("anymal_d"), (32, 16), source="policy x"))
    policy.mean.normal_()
    policy.scale.uniform_(0.1, 3.0)
    save_policy(policy, tmp_path / "policy.safetensors")
    return tmp_path / "policy.safetensors"


def test_both_files_give_the_same_actions_without_this_toolkit(policy_file, tmp_path):
    found = export_policy(policy_file, tmp_path / "out")
    assert max(found["check"].values()) <= 1e-5
    policy = load_policy(policy_file)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "policy.onnx"))
    script = torch.jit.load(str(tmp_path / "out" / "policy.pt"))
    for batch in (1, 7):
        observation = 3 * torch.randn(batch, 48)
        expected = policy(observation).detach().numpy()
        (onnx,) = session.run(["action"], {"observation": observation.numpy()})
        np.testing.assert_allclose(onnx, expected, atol=1e-5)
        np.testing.assert_allclose(script(observation).detach().numpy(), expected, atol=1e-5)
    for name in ("policy.onnx", "policy.pt", "model_0.pt", "model_0_rsl_rl_5.pt"):
        again = load_policy(tmp_path / "out" / name, "anymal_d")
        torch.testing.assert_close(again(observation), policy(observation), rtol=0, atol=1e-5)
        assert again.info.activation == "elu"


def test_a_policy_with_bounded_actions_is_exported_but_for_rsl_rl(tmp_path):
    info = PolicyInfo.of(load_robot("anymal_d"), (16, 12), "relu").model_copy(update={"last_activation": "tanh"})
    save_policy(MlpPolicy(info), tmp_path / "p")
    found = export_policy(tmp_path / "p", tmp_path / "out")
    assert max(found["check"].values()) <= 1e-5
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"policy.onnx", "policy.pt", "policy.json"}


def test_the_description_states_orders_scales_gains_and_rate(policy_file, tmp_path):
    export_policy(policy_file, tmp_path / "out")
    said, robot = json.loads((tmp_path / "out" / "policy.json").read_text()), load_robot("anymal_d")
    assert said["input"]["order"][:3] == ["base_lin_vel_x", "base_lin_vel_y", "base_lin_vel_z"]
    assert len(said["input"]["order"]) == 48 and said["output"]["order"] == robot.joints
    assert said["control_hz"] == 50 and said["action_scale"] == robot.action_scale
    assert list(said["default_joint_pos_rad"].values()) == robot.default_joint_pos
    assert (said["stiffness_nm_per_rad"], said["damping_nm_s_per_rad"]) == (robot.drive.stiffness, robot.drive.damping)


def test_gains_that_differ_are_named_by_joint(tmp_path):
    robot = load_robot("g1")
    save_policy(MlpPolicy(PolicyInfo.of(robot, (16, 12))), tmp_path / "p")
    export_policy(tmp_path / "p", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert said["stiffness_nm_per_rad"] == dict(zip(robot.joints, robot.drive.stiffness, strict=True))
    assert said["effort_limit_nm"]["left_knee"] == 139 and said["damping_nm_s_per_rad"]["right_ankle_roll"] == 2


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_foreign_files_are_refused_and_no_code_in_them_runs(tmp_path):
    mark = tmp_path / "ran"
    for name, content in (("evil.pt", pickle.dumps(Attack(mark))), ("evil.safetensors", pickle.dumps(Attack(mark)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RwmError, match="is not a policy file"):
            export_policy(tmp_path / name, tmp_path / "out")
    torch.save({"model_state_dict": Attack(mark)}, tmp_path / "zip.pt")
    with pytest.raises(RwmError, match="is not a policy file"):
        export_policy(tmp_path / "zip.pt", tmp_path / "out")
    assert not mark.exists() and not (tmp_path / "out").exists()


def test_an_export_that_acts_otherwise_is_not_kept(policy_file, tmp_path, monkeypatch):
    trace = torch.jit.trace
    monkeypatch.setattr(torch.jit, "trace", lambda policy, x: trace(torch.nn.Sequential(policy, torch.nn.Tanh()), x))
    with pytest.raises(RwmError, match="differ by"):
        export_policy(policy_file, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_policy_of_another_robot_is_refused(policy_file, tmp_path):
    with pytest.raises(RwmError, match="policy of 'anymal_d'"):
        export_policy(policy_file, tmp_path / "out", "go2")
