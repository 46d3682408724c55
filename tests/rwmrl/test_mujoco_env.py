"""The MuJoCo environment: rows, alignment, resets, pushes, time-outs, noise, determinism, blown-up simulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.robots import ResetSpec
from rwmrl.backends import make_env, resolve_backend
from rwmrl.envs.base import EnvOptions
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig, rotation
from rwmrl.rewards import RewardModel
from rwmrl.tasks import TASKS
from rwmrl.velocity_commands import CommandConfig


def make(robot, num_envs=8, **options):
    return MujocoEnv(robot, MujocoEnvConfig(**{"num_envs": num_envs, "threads": 0} | options))


def roll(env, steps, seed=0, scale=0.3):
    """Return the steps under seeded random actions, and the actions."""
    generator = torch.Generator().manual_seed(seed)
    actions = [scale * torch.randn(env.num_envs, env.num_actions, generator=generator) for _ in range(steps)]
    return [env.step(a) for a in actions], actions


def test_observation_groups_have_the_documented_shapes(robot):
    env = make(robot, 5)
    sizes = {
        "policy": 48, "system_state": 45, "system_action": 12, "system_contact": 8, "system_termination": 1,
    }  # fmt: skip
    assert {k: tuple(v.shape) for k, v in env.reset().items()} == {k: (5, n) for k, n in sizes.items()}
    assert {v.dtype for v in env.get_observations().values()} == {torch.float32}


def test_rows_are_finite_gravity_is_a_unit_vector_and_contacts_are_binary(robot, schema):
    rows = torch.cat([s.transition for s in roll(make(robot, 16), 60, scale=1.0)[0]])
    assert rows.isfinite().all()
    assert (rows[:, schema.group("projected_gravity")].norm(dim=1) - 1).abs().max() <= 1e-5
    assert set(rows[:, schema.contact.start :].unique().tolist()) == {0.0, 1.0}


def test_a_row_holds_the_action_that_led_to_it(robot, schema):
    env = make(robot)
    assert env.current_rows()[:, schema.action].abs().max() == 0
    steps, actions = roll(env, 5)
    for step, action in zip(steps, actions, strict=True):
        assert torch.equal(step.transition[:, schema.action], action)
        assert torch.equal(step.observations["policy"][:, 36:], action)


def test_actions_move_the_joints_they_name(robot, schema):
    """Hold one joint's target 0.4 rad off in the air: that joint follows."""
    env = make(robot, 12, pushes=False, randomize=False)
    env.physics.state[:, env.physics.layout.position.stop - 1] += 5.0
    env.physics.state[:, env.physics.layout.joint_pos] = torch.tensor(robot.default_joint_pos).double()
    env.physics.state[:, env.physics.layout.joint_vel] = 0
    for _ in range(20):
        step = env.step(torch.eye(12) * 0.8)
    moved = step.transition[:, schema.group("joint_pos")]
    assert torch.equal(moved.argmax(dim=1), torch.arange(12))
    assert (moved.diagonal() > 0.25).all()


def test_base_velocity_integrates_to_the_displacement_of_the_base(robot, schema):
    env = make(robot, 32, pushes=False)
    start, path = env.base_position, torch.zeros(32, 3, dtype=torch.float64)
    alive = torch.ones(32, dtype=torch.bool)
    before = env.current_rows()[:, :3].double(), rotation(env.base_quaternion)
    for _ in range(100):
        step = env.step(torch.zeros(32, 12))
        after = step.transition[:, schema.group("base_lin_vel")].double(), rotation(env.base_quaternion)
        world = [(axes @ velocity[:, :, None])[..., 0] for velocity, axes in (before, after)]
        path += 0.5 * env.control_dt_s * (world[0] + world[1])
        alive &= ~step.done
        before = after
    moved = (env.base_position - start)[alive]
    assert len(moved) > 20 and moved.norm(dim=1).max() > 0.05
    assert (path[alive] - moved).abs().max() < 0.01


def test_angular_velocity_turns_the_projected_gravity(robot, schema):
    """d g / dt = -w x g in the base frame."""
    env = make(robot, 16, pushes=False)
    gravity, rate = schema.group("projected_gravity"), schema.group("base_ang_vel")
    for _ in range(10):
        before = env.current_rows().clone()
        row = env.step(torch.zeros(16, 12)).transition
        mean = 0.5 * (before[:, rate] + row[:, rate])
        turn = -torch.linalg.cross(mean, before[:, gravity]) * env.control_dt_s
        assert ((row - before)[:, gravity] - turn).abs().max() < 5e-3


def test_same_seed_gives_identical_rows_whatever_the_threads(robot):
    runs = []
    for threads in (0, 1, 3):
        steps, _ = roll(make(robot, 24, threads=threads, seed=5, episode_length_s=0.6), 40, scale=1.0)
        runs.append(torch.stack([torch.cat((s.transition, s.observations["policy"]), dim=1) for s in steps]))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_another_seed_gives_another_start(robot):
    assert not torch.equal(make(robot, seed=0).current_rows(), make(robot, seed=1).current_rows())


def test_noise_reaches_the_policy_only_and_leaves_the_motion_alone(robot):
    loud, quiet = make(robot, noise=True), make(robot, noise=False)
    a, b = roll(loud, 20)[0][-1], roll(quiet, 20)[0][-1]
    assert torch.equal(a.transition, b.transition)
    difference = (a.observations["policy"] - b.observations["policy"]).abs()
    assert difference[:, 9:12].max() == 0 and difference[:, 36:].max() == 0
    assert 0.05 < difference[:, :3].max() <= 0.1 and 0.5 < difference[:, 24:36].max() <= 1.5


def test_time_out_truncates_resets_and_keeps_the_last_row(robot, schema):
    env = make(robot, episode_length_s=0.2)
    assert env.max_episode_length == 10
    steps, actions = roll(env, 10)
    assert not any(s.done.any() for s in steps[:-1])
    last = steps[-1]
    assert last.truncated.all() and not last.terminated.any()
    assert torch.equal(last.transition[:, schema.action], actions[-1])
    assert env.current_rows()[:, schema.action].abs().max() == 0
    assert last.observations["system_action"].abs().max() == 0
    assert env.episode_length_buf.max() == 0


def test_starts_spread_as_specified_and_never_below_the_ground(robot, schema):
    env = make(robot, 256, randomize=False)
    rows, position = env.current_rows(), env.base_position
    layout = env.physics.layout
    assert 0.45 < rows[:, :2].norm(dim=1).max() <= 0.71
    assert np.abs(env.physics.state[:, layout.position][:, :2]).max() <= 0.5
    default = torch.tensor(robot.default_joint_pos)
    share = (rows[:, schema.group("joint_pos")] + default)[:, 4:] / default[4:]
    assert 0.5 <= share.min() < 0.52 and 1.48 < share.max() <= 1.5
    assert position[:, 2].min() >= robot.base_height_m
    assert (env.physics.sensors[:, layout.sole_pos][:, 2::3] > layout.sole_radius).all()
    assert rows[:, schema.contact].max() == 0


def test_pushes_come_every_ten_to_fifteen_seconds(robot, schema):
    still = robot.model_copy(update={"reset": ResetSpec(position_xy_m=0, velocity=0, joint_scale=(1, 1))})
    env = make(still, 8, randomize=False)
    times, speeds, before, told = [], [], env.current_rows(), 0
    for t in range(760):
        row = env.step(torch.zeros(8, 12)).transition
        jump = (row - before)[:, :2].norm(dim=1) if t > 100 else torch.zeros(8)
        told += int(env.pushed.sum())
        assert env.pushed[jump > 0.08].all()
        times += [t * env.control_dt_s] * int((jump > 0.08).sum())
        speeds += jump[jump > 0.08].tolist()
        before = row
    assert len(times) >= 6
    assert told == 8  # One each in 15.2 s: the gentlest are no jump.
    assert min(times) > 9.9 and max(times) < 15.1
    assert max(speeds) < 0.9


def yaw(env):
    """Return the heading of every base, rad."""
    w, x, y, z = env.base_quaternion.unbind(dim=1)
    return torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)).float()


def test_commands_are_in_range_and_the_yaw_rate_steers_to_the_heading(robot):
    command = CommandConfig(heading=True, standing_share=0.0)
    env = make(robot, 64, command=command)
    assert env.command.abs().max() <= 1.0
    rate, heading = env.command[:, 2].clone(), yaw(env)
    env.step(torch.zeros(64, 12))
    turned, free = yaw(env) - heading, (rate.abs() < 0.99) & (env.command[:, 2].abs() < 0.99)
    assert free.sum() > 20 and turned[free].abs().max() > 1e-3
    torch.testing.assert_close((env.command[:, 2] - rate)[free], -0.5 * turned[free], rtol=0, atol=1e-5)


def test_reward_is_that_of_the_reward_model_on_the_rows(robot, schema):
    env = make(robot, 6, pushes=True)
    model = RewardModel(robot, schema, 6, env.device)
    model.reset(torch.arange(6), env.current_rows()[:, schema.state])
    for action in (torch.randn(6, 12) * 0.3 for _ in range(20)):
        command = env.command.clone()
        step = env.step(action)
        reward, terms = model.compute(
            step.transition[:, schema.state], step.transition[:, schema.contact], action, command
        )
        torch.testing.assert_close(step.reward, reward)
    assert float(step.log["reward/lin_vel_z_l2"]) == pytest.approx(float(terms["lin_vel_z_l2"].mean()))


@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_a_blown_up_simulation_is_reset_reported_and_never_a_row(robot, schema, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make(robot, 6)
    sound = env.current_rows().clone()
    env.physics.state[2, env.physics.layout.joint_vel] = value
    step = env.step(torch.zeros(6, 12))
    assert step.log["unstable"].tolist() == [0, 0, 1, 0, 0, 0]
    assert step.truncated.tolist() == [False, False, True, False, False, False] and not step.terminated.any()
    assert torch.equal(step.transition[2], sound[2]) and step.reward[2] == 0
    assert step.transition.isfinite().all() and step.observations["policy"].isfinite().all()
    assert env.episode_length_buf.tolist() == [1, 1, 0, 1, 1, 1]
    assert env.step(torch.zeros(6, 12)).log["unstable"].max() == 0
    assert list(tmp_path.iterdir()) == []


def test_randomised_robots_differ_and_the_nominal_ones_do_not(robot):
    still = robot.model_copy(update={"reset": ResetSpec(position_xy_m=0, velocity=0, joint_scale=(1, 1))})
    spread = {}
    for randomize in (True, False):
        env = make(still, 16, randomize=randomize, pushes=False)
        for _ in range(50):
            env.step(torch.zeros(16, 12))
        spread[randomize] = float(env.base_position[:, 2].std())
    assert spread[False] < 1e-6 and spread[True] > 1e-3


def test_tasks_and_backends_are_named_when_wrong(robot):
    assert set(TASKS) == {"Init-v0", "Pretrain-v0", "Finetune-v0", "Visualize-v0"}
    initial = EnvOptions(task="Init-v0")
    assert robot.task_reward_weights["Init-v0"]["flat_orientation_l2"] == 0
    assert "reward/flat_orientation_l2" not in make_env("mujoco", robot, initial).step(torch.zeros(1, 12)).log
    with pytest.raises(RwmError, match="Unknown task 'Walk-v0'; tasks: Init-v0"):
        make_env("mujoco", robot, EnvOptions(task="Walk-v0"))
    with pytest.raises(RwmError, match="Unknown backend 'gazebo'; backends: auto, mujoco"):
        make_env("gazebo", robot, initial)
    with pytest.raises(RwmError, match="'isaaclab' is not available here: package isaaclab is not installed"):
        make_env("isaaclab", robot, initial)
    assert resolve_backend("auto") == "mujoco"


def test_the_missing_simulator_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setattr("rwmrl.backends.find_spec", lambda name: None)
    with pytest.raises(RwmError) as error:
        resolve_backend("auto")
    assert "mujoco" in error.value.message and error.value.hint == "pip install rwm[mujoco]"


def test_a_task_decides_about_noise_pushes_and_randomisation(robot):
    env = make_env("auto", robot, EnvOptions(task="Visualize-v0", num_envs=2))
    assert isinstance(env, MujocoEnv)
    assert (env.config.noise, env.config.pushes, env.config.randomize) == (False, False, False)
    loud = make_env("auto", robot, EnvOptions(task="Visualize-v0", num_envs=2, pushes=True))
    assert isinstance(loud, MujocoEnv) and loud.config.pushes
