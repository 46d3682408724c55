"""Conventions of recorder files: quaternions, joint order, robot and rate are what the motion says, or are refused."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.joint_order import joint_orders
from rwmdata.robots import load_robot

TASK = "Isaac-Velocity-Flat-{}-v0"


def quaternions(t):
    """Orientations w x y z ``(n, 4)`` of a base that rolls, pitches and turns to the left."""
    roll, pitch, yaw = 0.2 * np.sin(3 * t), 0.15 * np.sin(2 * t + 1), 1.0 + 0.7 * t
    (a, b), (c, d), (e, f) = ((np.cos(x / 2), np.sin(x / 2)) for x in (roll, pitch, yaw))
    return np.stack(
        [a * c * e + b * d * f, b * c * e - a * d * f, a * d * e + b * c * f, a * c * f - b * d * e], axis=1
    )


def angular_velocity(t, h=1e-4):
    """Angular velocity of :func:`quaternions` in the world frame, ``(n, 3)``: 2 dq/dt q*."""
    q, dq = quaternions(t), (quaternions(t + h) - quaternions(t - h)) / (2 * h)
    w, v, dw, dv = q[:, :1], q[:, 1:], dq[:, :1], dq[:, 1:]
    return 2 * (w * dv - dw * v + np.cross(v, dv))


def moving_demo(robot, steps=80, hz=50.0, order="robot", xyzw=False, seed=0):
    """A base that turns and joints that swing around the default pose."""
    t, rng = np.arange(steps + 1) / hz, np.random.default_rng(seed)
    joints = [robot.joints.index(name) for name in joint_orders(robot)[order]]
    phase = rng.uniform(0, 6, 12)
    position = np.array(robot.default_joint_pos) + 0.1 * np.sin(8 * t[:, None] + phase)
    q = quaternions(t)
    states = {
        "root_pose": np.hstack((np.zeros((steps + 1, 3)), q[:, [1, 2, 3, 0]] if xyzw else q)),
        "root_velocity": np.hstack((np.zeros((steps + 1, 3)), angular_velocity(t))),
        "joint_position": position[:, joints],
        "joint_velocity": 0.8 * np.cos(8 * t[:, None] + phase)[:, joints],
    }
    demo = {"actions": rng.normal(0, 0.3, (steps, 12))[:, joints]}
    demo |= {f"initial_state/articulation/robot/{k}": v[:1] for k, v in states.items()}
    return demo | {f"states/articulation/robot/{k}": v[1:] for k, v in states.items()}


@pytest.fixture
def write(tmp_path):
    def write(demos, name="a.hdf5", env=None, version=None):
        with h5py.File(tmp_path / name, "w") as file:
            data = file.create_group("data")
            if env is not None:
                data.attrs["env_args"] = json.dumps(env)
            if version is not None:
                file.attrs["format_version"] = version
            for number, content in enumerate(demos):
                demo = data.create_group(f"demo_{number}")
                for key, values in content.items():
                    demo.create_dataset(key, data=values)
        return tmp_path / name

    return write


@pytest.fixture
def read(home, write):
    """Return rows, notes and robot of converted demos."""

    def read(demos, options=None, **about):
        name = f"set{len(home.datasets())}"
        dataset = convert(home, [write(demos, **about)], name, **(options or {}))
        return dataset.matrix(), "\n".join(dataset.manifest.provenance["notes"]), dataset.robot

    return read


@pytest.mark.parametrize(("version", "said"), [(None, True), (1, False)])
def test_quaternions_x_y_z_w_are_recognised_by_the_motion(read, robot, schema, version, said):
    right, notes, _ = read([moving_demo(robot)])
    assert "quaternions" not in notes
    assert right[0, schema.group("projected_gravity")][2] == pytest.approx(-np.cos(0.15 * np.sin(1)), abs=1e-6)
    rows, notes, _ = read([moving_demo(robot, xyzw=True)], version=version)
    np.testing.assert_array_equal(rows, right)
    assert ("quaternions are read as xyzw" in notes) == said


def test_quaternions_other_than_the_file_says_are_refused_unless_told(read, robot):
    with pytest.raises(RwmError, match="as wxyz it fits, as xyzw it turns unlike.*the file says xyzw"):
        read([moving_demo(robot)], version=1)
    rows, _, _ = read([moving_demo(robot)], {"quaternions": "wxyz"}, version=1)
    np.testing.assert_array_equal(rows, read([moving_demo(robot)])[0])
    with pytest.raises(RwmError, match="Unknown --quaternions 'zyxw'"):
        read([moving_demo(robot)], {"quaternions": "zyxw"})


def test_an_orientation_that_fits_in_no_order_is_refused(read, robot):
    demo = moving_demo(robot)
    key = "states/articulation/robot/root_velocity"
    with pytest.raises(RwmError, match="as wxyz it turns unlike its angular velocity, as xyzw"):
        read([demo | {key: demo[key][:, [0, 1, 2, 4, 3, 5]] * [1, 1, 1, 1, 1, -1]}])


def test_a_robot_that_stands_still_is_read_as_the_file_says(read, robot, schema):
    demo = moving_demo(robot)
    for part, rows in (("initial_state", 1), ("states", 80)):
        demo[f"{part}/articulation/robot/root_velocity"] = np.zeros((rows, 6))
        demo[f"{part}/articulation/robot/root_pose"] = np.tile([0, 0, 0.6, 0, 0, 0, 1.0], (rows, 1))
    for options in ({"version": 1}, {}):  # Without a version these are a half turn to the left, w x y z.
        gravity = read([demo], **options)[0][:, schema.group("projected_gravity")]
        np.testing.assert_allclose(gravity, np.tile([0, 0, -1], (81, 1)), atol=1e-6)


def test_joints_leg_by_leg_are_suspected_and_put_in_order_when_told(read, robot):
    right = read([moving_demo(robot)])[0]
    recorded = [moving_demo(robot, order="legs")]
    with pytest.raises(RwmError, match="fits the order LF_HAA, LF_HFE, LF_KFE, LH_HAA") as fault:
        read(recorded)
    assert fault.value.hint == "--joint-order legs"
    for order in ("legs", ",".join(joint_orders(robot)["legs"])):
        np.testing.assert_array_equal(read(recorded, {"joint_order": order})[0], right)
    with pytest.raises(RwmError, match="'lefts' is no order of the joints of ANYmal D"):
        read(recorded, {"joint_order": "lefts"})


def test_a_robot_nobody_named_is_known_by_its_task_or_by_its_joints(read, robot):
    go2 = moving_demo(load_robot("go2"))
    rows, notes, name = read([go2], env={"env_name": TASK.format("Unitree-Go2")})
    assert name == "go2" and "read as Unitree Go2: its task is Isaac-Velocity-Flat-Unitree-Go2-v0" in notes
    assert np.abs(rows[:, 9:21]).max() < 0.11
    assert read([go2])[2] == read([go2], env={"env_name": ""})[2] == "go2"
    assert read([moving_demo(robot)])[2] == "anymal_d"
    with pytest.raises(RwmError, match="not those of ANYmal D: their median pose fits Unitree Go2"):
        read([go2], {"robot": "anymal_d"})


def test_a_rate_above_the_control_rate_is_brought_to_it(read, robot, schema):
    right = read([moving_demo(robot, steps=40)])[0]
    fast = moving_demo(robot, steps=163, hz=200.0)
    for about in ({"sim_args": {"dt": 0.005, "decimation": 1}}, {"env_kwargs": {"control_freq": 200}}):
        rows, notes, _ = read([fast], env={"env_name": TASK.format("Anymal-D")} | about)
        np.testing.assert_allclose(rows[:, : schema.group("joint_vel").stop], right[:, :33], atol=1e-5)
        assert "recorded at 200 Hz, brought to 50 Hz" in notes
        np.testing.assert_allclose(rows[1:, schema.action], fast["actions"][:160:4], atol=1e-6)


def test_a_rate_nobody_told_is_refused_by_the_motion(read, robot):
    fast = [moving_demo(robot, steps=160, hz=200.0)]
    with pytest.raises(RwmError, match="presumed to be recorded at 50 Hz, but its joints move .* as at 20[01] Hz"):
        read(fast)
    with pytest.raises(RwmError, match="said to be recorded at 100 Hz, but its joints"):
        read(fast, env={"sim_args": {"dt": 0.005, "decimation": 2}})
    assert read(fast, {"rate_hz": 200})[0].shape == (41, 66)
    with pytest.raises(RwmError, match="recorded at 25 Hz, slower than the robot's control rate of 50 Hz"):
        read([moving_demo(robot, hz=25.0)], env={"sim_args": {"dt": 0.01, "decimation": 4}})


def test_a_rate_that_is_given_is_compared_with_the_motion_and_with_what_the_file_says(read, robot):
    fast = [moving_demo(robot, steps=160, hz=200.0)]
    with pytest.raises(RwmError, match="given to be recorded at 50 Hz, but its joints move .* as at 20[01] Hz"):
        read(fast, {"rate_hz": 50})
    assert read(fast, {"rate_hz": 200}, env={"fps": 50})[0].shape == (41, 66)  # The file is wrong, the motion shows.
    still = {name: np.repeat(values[:1], len(values), axis=0) for name, values in fast[0].items()}
    with pytest.raises(RwmError, match="rate_hz is 200, but the file says 50 Hz"):
        read([still], {"rate_hz": 200}, env={"fps": 50})


def test_a_rate_that_does_not_divide_is_interpolated(read, robot, schema):
    rows = read([moving_demo(robot, steps=120, hz=120.0)], env={"fps": 120})[0]
    right = read([moving_demo(robot, steps=50)])[0]
    np.testing.assert_allclose(rows[:, schema.group("joint_pos")], right[:, schema.group("joint_pos")], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(rows[:, 6:9], axis=1), 1, atol=1e-6)


def test_the_rate_of_a_mapping_holds_and_a_fall_stays_the_last_row(home, read, robot, schema, tmp_path):
    demo = moving_demo(robot, steps=162, hz=200.0)
    q, dq = (demo[f"states/articulation/robot/joint_{k}"] for k in ("position", "velocity"))
    groups = {"joint_pos": {"path": "q", "subtract_default": True}, "joint_vel": {"path": "dq"}}
    groups |= {"action": {"path": "actions"}, "termination": {"path": "dones"}}
    missing = ["base_lin_vel", "base_ang_vel", "projected_gravity", "joint_torque", "thigh_contact", "foot_contact"]
    mapping = tmp_path / "map.yaml"
    mapping.write_text(yaml.safe_dump({"groups": groups, "missing": missing, "rate_hz": 200}))
    flat = {"q": q, "dq": dq, "actions": demo["actions"], "dones": np.arange(162) == 161}
    rows = read([flat], {"mapping": mapping})[0]
    assert rows.shape == (41, 66) and rows[:, -1].nonzero()[0].tolist() == [40]
    np.testing.assert_allclose(rows[:, schema.group("joint_vel")], dq[1::4], rtol=1e-5)


def test_demos_without_a_step_are_left_out_by_name(read, robot, write, home):
    demo = moving_demo(robot)
    empty = {key: values for key, values in demo.items() if key.startswith("initial_state")}
    rows, notes, _ = read([demo, empty, demo, empty])
    assert len(rows) == 162 and "a.hdf5: left out, as they hold no step: demo_1, demo_3" in notes
    with pytest.raises(RwmError, match="no demo holds a step: demo_0, demo_1"):
        read([empty, empty])


def test_observations_in_one_dataset_and_files_without_a_first_state_are_read(read, robot):
    demo = moving_demo(robot)
    right = read([demo])[0]
    np.testing.assert_array_equal(read([demo | {"obs": np.zeros((80, 48))}])[0], right)
    later = {key: values for key, values in demo.items() if not key.startswith("initial_state")}
    np.testing.assert_array_equal(read([later])[0], right[1:])


def test_a_file_is_known_by_its_content_and_said_to_be_cut_short(read, write, home, robot):
    right = read([moving_demo(robot)])[0]
    for name in ("RUN.HDF5", "recording"):
        np.testing.assert_array_equal(read([moving_demo(robot)], name=name)[0], right)
    file = write([moving_demo(robot)], name="cut.hdf5")
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(RwmError, match=r"cut.hdf5 is cut short: the recording was not closed, or not copied whole"):
        convert(home, [file], "cut")


def test_robomimics_layout_is_named(read):
    flat = {"states": np.zeros((4, 33)), "obs/flat": np.zeros((4, 33)), "actions": np.zeros((4, 12))}
    with pytest.raises(RwmError, match=r"demo_0 has robomimic's layout.*obs/flat \(4, 33\)") as fault:
        read([flat])
    assert "--mapping" in fault.value.hint
