"""The mirror image: its own inverse, right by hand, and what the physics of a mirrored robot shows."""

from __future__ import annotations

import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.observations import observation_names
from rwmrl.ppo_config import PPOConfig
from rwmrl.simulator_training import train_in_simulator
from rwmrl.symmetry import Mirror
from rwmrl.train_config import TrainConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["anymal_d", "go2", "go1", "g1"])
def test_twice_mirrored_is_the_same(name):
    mirror = Mirror(load_robot(name), CPU)
    observations, actions = torch.randn(5, 48), torch.randn(5, 12)
    assert torch.equal(mirror.observations(mirror.observations(observations)), observations)
    assert torch.equal(mirror.actions(mirror.actions(actions)), actions)
    assert not torch.equal(mirror.actions(actions), actions)


def test_by_hand(robot, schema):
    names, mirror = observation_names(schema), Mirror(robot, CPU)
    image = mirror.observations(torch.arange(48.0)[None])[0]

    def at(name):
        return float(image[names.index(name)])

    def value(name):
        return float(names.index(name))

    assert [at(f"base_lin_vel_{a}") for a in "xyz"] == [0, -1, 2]
    assert [at(f"base_ang_vel_{a}") for a in "xyz"] == [-3, 4, -5]
    assert [at(f"command_{c}") for c in ("lin_vel_x", "lin_vel_y", "ang_vel_z")] == [9, -10, -11]
    assert at("joint_pos_LF_HAA") == -value("joint_pos_RF_HAA")
    assert at("joint_vel_RH_KFE") == value("joint_vel_LH_KFE")
    assert at("last_action_LH_HFE") == value("last_action_RH_HFE")


def test_a_biped_by_hand():
    """Yaw and roll change sign with the side, pitch and knee do not."""
    robot = load_robot("g1")
    actions = dict(zip(robot.joints, torch.arange(12.0), strict=True))
    image = dict(zip(robot.joints, Mirror(robot, CPU).actions(torch.arange(12.0)).tolist(), strict=True))
    for part, sign in (("hip_pitch", 1), ("hip_roll", -1), ("hip_yaw", -1), ("knee", 1), ("ankle_roll", -1)):
        assert image[f"left_{part}"] == sign * actions[f"right_{part}"]
        assert image[f"right_{part}"] == sign * actions[f"left_{part}"]


@pytest.mark.parametrize("name", ["anymal_d", "go2", "g1"])
def test_a_mirrored_robot_under_mirrored_actions_is_seen_mirrored(name):
    robot = load_robot(name)
    mirror = Mirror(robot, CPU)
    config = MujocoEnvConfig(num_envs=2, noise=False, pushes=False, randomize=False, threads=0)
    env = MujocoEnv(robot, config)
    layout, state = env.physics.layout, env.physics.state
    state[:, layout.position], state[:, layout.quaternion] = (0, 0, 0.97 * robot.base_height_m), (1, 0, 0, 0)
    state[1, layout.lin_vel_w] = state[0, layout.lin_vel_w] * (1, -1, 1)
    state[1, layout.ang_vel_b] = state[0, layout.ang_vel_b] * (-1, 1, -1)
    for part, offset in ((layout.joint_pos, robot.default_joint_pos), (layout.joint_vel, 0.0)):
        relative = torch.from_numpy(state[0, part] - offset).float()
        state[1, part] = mirror.actions(relative).double().numpy() + offset
    for seed in range(10):
        action = 0.3 * torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
        env.command[1] = env.command[0] * torch.tensor([1.0, -1.0, -1.0])
        policy = env.step(torch.cat((action, mirror.actions(action)))).observations["policy"]
        policy[1, 9:12] = policy[0, 9:12] * torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(policy[1], mirror.observations(policy[0]), atol=0.05, rtol=0.05)
    assert (policy[0] - policy[1]).abs().max() > 0.2


def test_training_can_use_it_and_a_one_sided_robot_cannot(home, robot):
    ppo = PPOConfig(num_steps=4, hidden_dims=(8,), mini_batches=1, epochs=1, symmetry=True)
    run = train_in_simulator(home, TrainConfig(num_envs=4, iterations=1, ppo=ppo))
    assert run.meta.status == "finished"
    with pytest.raises(RwmError, match="says nothing of its mirror image"):
        Mirror(robot.model_copy(update={"mirror_signs": None}), CPU)
    with pytest.raises(RwmError, match="Joint LF_HAA of robot 'anymal_d' has no counterpart RF_HAA"):
        Mirror(robot.model_copy(update={"joints": [j.replace("RF", "RX") for j in robot.joints]}), CPU)
