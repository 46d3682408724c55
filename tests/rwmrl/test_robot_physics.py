"""The simulated robots obey mechanics: weight, torques, energy, mirror symmetry, and their drives' data sheets."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.robots import JointDrive, ResetSpec, load_robot
from rwmdata.schema import Schema
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.envs.mujoco_model import layout_of, load_model, randomized_models

STILL = ResetSpec(position_xy_m=0.0, velocity=0.0, joint_scale=(1.0, 1.0))
GRAVITY = 9.81
EXPECTED = {
    "anymal_d": {
        "mass": 52.3,
        "height": (0.5, 0.6),
        "settled": 50,
        "sway": 0.35,
        "level": 0.999,
        "shift": 0.01,
        "moment": 0.1,
    },
    # Softer gains: it sinks to three quarters of its height, and rocks for a while.
    "go2": {
        "mass": 15.7,
        "height": (0.25, 0.3),
        "settled": 150,
        "sway": 0.5,
        "level": 0.99,
        "shift": 0.15,
        "moment": 0.4,
    },
    # 33.34 kg in Unitree's g1_29dof_rev_1_0. It stands on two ankles that have to balance it.
    "g1": {
        "mass": 33.34,
        "height": (0.75, 0.79),
        "settled": 150,
        "sway": 0.3,
        "level": 0.99,
        "shift": 0.1,
        "moment": 0.4,
    },
}
BALANCE = 2.5, 0.1
"""What the ankles of a biped give way by: rad per unit of projected gravity, and per rad/s of the base."""


@pytest.fixture(scope="module", params=list(EXPECTED))
def robot(request):
    return load_robot(request.param)


@pytest.fixture(scope="module")
def expected(robot):
    return EXPECTED[robot.name]


@pytest.fixture(scope="module")
def schema(robot):
    return Schema.from_robot(robot)


@pytest.fixture(scope="module")
def model(robot):
    return load_model(robot)


@pytest.fixture(scope="module")
def layout(robot, model):
    return layout_of(robot, model)


@pytest.fixture(scope="module")
def standing(robot):
    """One robot that has held its default pose for five seconds, and the rows of that time ``(250, width)``."""
    env = quiet_env(robot.model_copy(update={"reset": STILL}), 1)
    rows = [env.step(standing_action(env)).transition[0] for _ in range(250)]
    return env, torch.stack(rows)


def standing_action(env):
    """Return the action ``(1, J)`` that holds the default pose: none, but for the ankles of a biped."""
    robot, row, action = env.robot, env.current_rows()[0], torch.zeros(1, env.num_actions)
    ankles = [j for j, name in enumerate(robot.joints) if name.endswith("ankle_pitch")]
    lean, rate = row[env.schema.group("projected_gravity")][0], row[env.schema.group("base_ang_vel")][1]
    action[:, ankles] = (BALANCE[0] * lean + BALANCE[1] * rate) / robot.action_scale
    return action


def quiet_env(robot, num_envs):
    config = MujocoEnvConfig(num_envs=num_envs, noise=False, pushes=False, randomize=False, threads=0)
    return MujocoEnv(robot, config)


def run(model, state, target, steps):
    """Return the data after ``steps`` physics steps from a state row towards joint targets ``(J,)``."""
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
    data.ctrl[:] = target
    for _ in range(steps):
        mujoco.mj_step(model, data)
    return data


def test_it_weighs_what_such_a_robot_weighs(model, expected):
    assert model.body_mass.sum() == pytest.approx(expected["mass"], abs=0.5)


def test_a_biped_weighs_what_the_sum_of_its_published_links_does():
    """Unitree's g1_29dof_rev_1_0: 18.969 kg of upper body, 7.186 kg a leg."""
    model = load_model(load_robot("g1"))
    assert model.body_mass.sum() == pytest.approx(33.341, abs=1e-3)
    assert model.body("pelvis").mass[0] == pytest.approx(18.969)
    left, right = (model.body(f"{side}_hip_pitch_link").subtreemass[0] for side in ("left", "right"))
    assert left == right == pytest.approx(1.35 + 1.52 + 1.702 + 1.932 + 0.074 + 0.608)


def test_a_biped_stays_up_for_two_seconds_without_balancing_and_not_for_ever():
    robot = load_robot("g1").model_copy(update={"reset": STILL})
    env = quiet_env(robot, 1)
    fell = [bool(env.step(torch.zeros(1, 12)).terminated) for _ in range(250)]
    assert 100 < fell.index(True) < 200


def test_it_stands_in_the_default_pose_for_five_seconds(standing, schema, expected):
    env, rows = standing
    settled = rows[expected["settled"] :]
    low, high = expected["height"]
    assert low < env.base_position[0, 2] < high
    assert settled[:, schema.group("foot_contact")].min() == 1
    assert rows[:, schema.group("thigh_contact")].max() == 0
    assert rows[:, schema.termination].max() == 0
    assert settled[:, schema.group("projected_gravity")][:, 2].max() < -expected["level"]
    assert settled[:, schema.group("joint_pos")].abs().max() < expected["sway"]
    assert env.base_position[0, :2].abs().max() < expected["shift"]


def test_its_feet_do_not_creep_while_it_stands(standing):
    env, _ = standing
    feet = env.physics.sensors[0, env.physics.layout.sole_pos].copy()
    for _ in range(50):
        env.step(standing_action(env))
    assert np.abs(env.physics.sensors[0, env.physics.layout.sole_pos] - feet).max() < 2e-3


def test_the_feet_carry_the_weight(standing, model, robot):
    env, _ = standing
    legs = len(robot.legs)
    feet = env.physics.sensors[0, env.physics.layout.contact].reshape(-1, 3)[legs : 2 * legs]
    assert abs(feet[:, 2].sum()) == pytest.approx(model.body_mass.sum() * GRAVITY, rel=5e-3)
    assert np.abs(feet[:, 2]).min() > 0.2 * model.body_mass.sum() * GRAVITY


def test_knee_torques_balance_the_ground_forces_and_the_shank_weight(standing, model, robot, expected):
    """Moments about the knee axis: drive + ground forces + weight of shank and foot = 0."""
    env, _ = standing
    target = np.array(robot.default_joint_pos) + robot.action_scale * standing_action(env)[0].numpy()
    data = run(model, env.physics.state[0], target, 1)
    knees = [name for name in robot.joints if name.endswith(("KFE", "calf", "knee"))]
    assert len(knees) == len(robot.legs)
    for name, foot in zip(knees, robot.foot_bodies, strict=True):
        joint = model.joint(name).id
        knee, axis, shank = data.xanchor[joint], data.xaxis[joint], model.jnt_bodyid[joint]
        moment = np.cross(data.subtree_com[shank] - knee, [0, 0, -GRAVITY * model.body_subtreemass[shank]]) @ axis
        moment += sum(np.cross(at - knee, force) @ axis for at, force in ground_forces(model, data, foot))
        drive = data.sensordata[env.physics.layout.torque][robot.joints.index(name)]
        assert drive + moment == pytest.approx(0, abs=expected["moment"])
        assert abs(drive) > 8 * expected["moment"]


def ground_forces(model, data, body):
    """Give where the ground touches a body and its force on it there, world frame."""
    for number, contact in enumerate(data.contact):
        first, second = (model.body(model.geom_bodyid[geom]).name for geom in contact.geom)
        if body in (first, second):
            wrench = np.zeros(6)
            mujoco.mj_contactForce(model, data, number, wrench)
            force = contact.frame.reshape(3, 3).T @ wrench[:3]
            yield contact.pos, force if body == second else -force


def test_a_hard_push_makes_it_fall_and_base_contact_is_reported(robot, schema):
    env = quiet_env(robot, 4)
    for _ in range(20):
        env.step(torch.zeros(4, 12))
    env.physics.state[:, env.physics.layout.lin_vel_w] += [0, 4, 0]
    fallen = torch.zeros(4, dtype=torch.bool)
    for _ in range(100):
        step = env.step(torch.zeros(4, 12))
        assert torch.equal(step.transition[:, -1] > 0.5, step.terminated)
        fallen |= step.terminated
    assert fallen.all()


@pytest.mark.parametrize("seed", range(20))
def test_drives_follow_pd_law_effort_limit_and_torque_speed_line(robot, model, layout, seed):
    rng = np.random.default_rng(seed)
    drive = JointDrive(*np.transpose(robot.drive.of_joints(12)))
    position, velocity, target = rng.uniform(-1, 1, 12), rng.uniform(-12, 12, 12), rng.uniform(-2, 2, 12)
    state = np.zeros(layout.width)
    state[layout.position], state[layout.quaternion.start] = (0, 0, 2), 1
    state[layout.joint_pos], state[layout.joint_vel] = position, velocity
    torque = run(model, state, target, 1).sensordata[layout.torque]
    wanted = drive.stiffness * (target - position) - drive.damping * velocity
    speed = velocity / drive.velocity_limit
    wanted = wanted.clip(drive.saturation_effort * (-1 - speed), drive.saturation_effort * (1 - speed))
    np.testing.assert_allclose(torque, wanted.clip(-drive.effort_limit, drive.effort_limit), atol=1e-9)


def test_energy_does_not_grow_in_free_fall_without_torque(robot, layout):
    model = load_model(robot)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
    model.opt.enableflags |= int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    rng = np.random.default_rng(0)
    state = np.zeros(layout.width)
    state[layout.position], state[layout.quaternion.start] = (0, 0, 5), 1
    state[layout.joint_pos] = robot.default_joint_pos
    state[layout.lin_vel_w] = rng.uniform(-1, 1, 3)
    state[layout.ang_vel_b] = rng.uniform(-1, 1, 3)
    state[layout.joint_vel] = rng.uniform(-1, 1, 12)
    data = run(model, state, np.zeros(12), 1)
    first, height = data.energy.sum(), data.qpos[2]
    energies = []
    for _ in range(100):
        mujoco.mj_step(model, data)
        energies.append(data.energy.sum())
    assert height - data.qpos[2] == pytest.approx(0.5 * GRAVITY * 0.5**2, rel=0.5)
    assert max(energies) < first + 1e-3 * abs(first)


def mirrored(values, robot):
    """Return per-joint values ``(..., J)`` in the mirror: joint by joint, every leg's in turn."""
    places, legs = np.array(robot.foot_positions_m), len(robot.legs)
    twin = [int(np.abs(places - place * [1, -1]).sum(axis=1).argmin()) for place in places]
    swap = [legs * kind + leg for kind in range(len(robot.joints) // legs) for leg in twin]
    return values[..., swap] * robot.mirror_signs


def test_a_mirrored_start_gives_mirrored_motion(robot, layout, model):
    rng = np.random.default_rng(3)
    default = np.array(robot.default_joint_pos)
    position, target = default * rng.uniform(0.8, 1.2, 12), default + rng.uniform(-0.2, 0.2, 12)
    velocity, linear, angular = rng.uniform(-1, 1, 12), rng.uniform(-0.5, 0.5, 3), rng.uniform(-0.5, 0.5, 3)
    state = np.zeros((2, layout.width))
    state[:, layout.position], state[:, layout.quaternion.start] = (0, 0, 0.97 * robot.base_height_m), 1
    state[:, layout.joint_pos] = position, mirrored(position, robot)
    state[:, layout.joint_vel] = velocity, mirrored(velocity, robot)
    state[:, layout.lin_vel_w] = linear, linear * [1, -1, 1]
    state[:, layout.ang_vel_b] = angular, angular * [-1, 1, -1]
    here = run(model, state[0], target, 60).qpos
    there = run(model, state[1], mirrored(target, robot), 60).qpos
    np.testing.assert_allclose(there[:3], here[:3] * [1, -1, 1], atol=2e-3)
    joints = layout.joint_pos - 1
    np.testing.assert_allclose(there[joints], mirrored(here[joints], robot), atol=5e-3)
    assert np.abs(here[joints] - position).max() > 0.1


def test_randomised_trunks_stay_in_range_and_leave_the_nominal_robot_alone(robot, model):
    trunk, before = model.body(robot.base_body).id, model.body_mass.sum()
    variants = randomized_models(model, robot, 16, np.random.default_rng(0))
    masses = np.array([v.body_mass[trunk] - model.body_mass[trunk] for v in variants])
    shifts = np.array([v.body_ipos[trunk] - model.body_ipos[trunk] for v in variants])
    low, high = robot.randomization.base_mass_kg
    assert low <= masses.min() < low / 2 and high / 2 < masses.max() <= high
    assert (np.abs(shifts) <= robot.randomization.base_com_m).all() and np.abs(shifts[:, 0]).max() > 0.02
    assert model.body_mass.sum() == before


def test_a_body_that_the_mjcf_lacks_is_named(robot):
    with pytest.raises(RwmError, match="has no body TOE"):
        load_model(robot.model_copy(update={"foot_bodies": ["TOE", *robot.foot_bodies[1:]]}))
