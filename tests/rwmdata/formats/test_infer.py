"""Mappings proposed for logs as drivers and recorders name their columns; what cannot be known is asked for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.clock import read_clock
from rwmdata.formats.convert import convert
from rwmdata.formats.infer import infer_mapping
from rwmdata.formats.infer_actions import action_index_lines
from rwmdata.formats.mapping import load_mapping
from rwmdata.robots import load_robot

T = 120
UNITREE = [f"{leg}_{joint}" for leg in ("FR", "FL", "RR", "RL") for joint in ("hip", "thigh", "calf")]


@pytest.fixture
def log():
    """A standing Go2 in the order of Unitree's driver: time, joint positions, velocities, torques and targets."""
    robot, rng = load_robot("go2"), np.random.default_rng(0)
    pose = dict(zip(robot.joints, robot.default_joint_pos, strict=True))

    def make(position, velocity, target=None, joints=range(12)):
        columns = {"t": np.arange(T) * 0.02}
        for k in joints:
            at = pose[UNITREE[k]] if k < 12 else 0.0
            columns[position.format(k)] = at + 0.1 * rng.normal(size=T)
            columns[velocity.format(k)] = rng.normal(size=T)
            if target:
                columns[target.format(k)] = at + 0.2 * rng.normal(size=T)
        return columns

    return make


def proposed(tmp_path, columns):
    pl.DataFrame(columns).write_csv(tmp_path / "a.csv")
    text = infer_mapping(tmp_path / "a.csv", "go2")
    return text, yaml.safe_load(text)


@pytest.mark.parametrize(
    ("position", "velocity", "target"),
    [
        ("q_{}", "dq_{}", "q_des_{}"),
        ("q[{}]", "dq[{}]", "q_cmd[{}]"),
        ("jpos{}", "jvel{}", "jpos{}_des"),
        ("motor_state_{}_q", "motor_state_{}_dq", "motor_cmd_{}_q"),
        ("/lowstate/motor_state[{}]/q", "/lowstate/motor_state[{}]/dq", "/lowcmd/motor_cmd[{}]/q"),
        ("field.position{}", "field.velocity{}", "field.target{}"),
        ("motorState{}.q", "motorState{}.dq", "motorCmd{}.q"),
        ("joint_pos_{}", "joint_vel_{}", "action_target_{}"),
        ("dof_pos.{}", "dof_vel.{}", "dof_pos_target.{}"),
        ("theta_{}", "theta_dot_{}", "theta_des_{}"),
        ("q{}", "qd{}", "qref{}"),
    ],
)
def test_numbered_joints_are_found_and_their_order_asked_for(tmp_path, log, position, velocity, target):
    text, found = proposed(tmp_path, log(position, velocity, target))
    assert found["groups"]["joint_pos"] == {
        "columns": [position.format(k) for k in range(12)],
        "subtract_default": True,
    }
    assert found["groups"]["joint_vel"] == [velocity.format(k) for k in range(12)]
    targets = {"columns": [target.format(k) for k in range(12)], "kind": "target_position"}
    assert found["groups"]["action"] == targets
    assert found["joints"] == "ASK"
    assert "move one joint by hand while it records; the column that changes is that joint" in text
    first = next(line for line in text.splitlines() if line.startswith("#   joints:"))
    assert first == f"#   joints: [{', '.join(UNITREE)}]"
    assert "Without base_lin_vel no policy learns to follow velocity commands" in text


def test_a_driver_with_room_for_more_motors_than_joints(tmp_path, log):
    _, found = proposed(tmp_path, log("motor_{}_q", "motor_{}_dq", joints=range(20)))
    assert found["groups"]["joint_vel"] == [f"motor_{k}_dq" for k in range(12)]


def test_what_was_asked_must_be_filled_in_and_then_converts(tmp_path, home, log):
    columns = log("q_{}", "dq_{}", "q_des_{}")
    columns |= {f"imu_acc_{k}": np.full(T, 9.81 if k == 2 else 0.0) for k in range(3)}
    columns |= {f"gyro_{k}": np.zeros(T) for k in range(3)} | {f"foot_force_{k}": np.full(T, 80.0) for k in range(4)}
    text, found = proposed(tmp_path, columns)
    assert found["groups"]["projected_gravity"]["kind"] == "accelerometer"
    assert found["groups"]["foot_contact"]["kind"] == "threshold" and found["legs"] == "ASK"
    assert text.index("legs: [FR, FL, RR, RL]") < text.index("legs: [FL, FR, RL, RR]")  # As the joints, by the pose.
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(RwmError, match="joints: the order in which the recorder numbers them is still to be filled in"):
        convert(home, [tmp_path / "a.csv"], "a", robot="go2", mapping=tmp_path / "m.yaml")
    text = text.replace("joints: ASK", f"joints: [{', '.join(UNITREE)}]").replace("legs: ASK", "legs: [FR, FL, RR, RL]")
    (tmp_path / "m.yaml").write_text(text)
    dataset = convert(home, [tmp_path / "a.csv"], "a", robot="go2", mapping=tmp_path / "m.yaml")
    joint = dataset.schema.names.index("joint_vel_FL_calf")
    np.testing.assert_allclose(dataset.matrix()[:, joint], columns["dq_5"], atol=1e-5)
    notes = " ".join(dataset.manifest.provenance["notes"])
    assert "no policy learns in it to follow velocity commands" in notes


def test_joints_without_any_name_are_said_to_be_in_the_robots_order(tmp_path, home, log):
    columns = log("q_{}", "dq_{}", "q_des_{}") | {f"g_{k}": np.full(T, -float(k == 2)) for k in range(3)}
    text, _ = proposed(tmp_path, columns)
    pose = load_robot("go2")
    (tmp_path / "m.yaml").write_text(text.replace("joints: ASK", ""))
    dataset = convert(home, [tmp_path / "a.csv"], "a", robot="go2", mapping=tmp_path / "m.yaml")
    wanted = f"the mapping names no joints; q_0 and so on were taken as {', '.join(pose.joints)}"
    assert wanted in dataset.manifest.provenance["notes"]


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        (["qw", "qx", "qy", "qz"], {"kind": "quaternion", "order": "wxyz"}),
        ([f"imu.orientation.{c}" for c in "xyzw"], {"kind": "quaternion", "order": "xyzw"}),
        (["quat_0", "quat_1", "quat_2", "quat_3"], {"kind": "quaternion", "order": "ASK"}),
        (["roll", "pitch", "yaw"], {"kind": "roll_pitch_yaw"}),
        (["imu_rpy_0", "imu_rpy_1", "imu_rpy_2"], {"kind": "roll_pitch_yaw"}),
        (["acc_x", "acc_y", "acc_z"], {"kind": "accelerometer"}),
    ],
)
def test_what_stands_for_gravity_is_found(tmp_path, log, columns, source):
    values = {name: np.full(T, 0.5) for name in columns}
    _, found = proposed(tmp_path, log("q_{}", "dq_{}") | values)
    assert found["groups"]["projected_gravity"] == {"columns": columns} | source


def test_the_clock_that_repeats_least_is_taken_and_its_unit_said(tmp_path, log):
    columns = log("q_{}", "dq_{}")
    ticks = columns.pop("t")
    columns |= {"unix_time": 1_765_180_800 + np.round(ticks / 0.05) * 0.05, "stamp": (ticks * 1e9).astype(int)}
    text, found = proposed(tmp_path, columns)
    assert found["time"] == "stamp" and "# nanoseconds, 50 Hz; or unix_time" in text


@pytest.mark.parametrize("index", ["next", "previous"])
@pytest.mark.parametrize("hz", [50, 100])
def test_the_action_that_explains_the_motion_is_told(hz, index):
    step = hz // 50
    target = np.repeat(np.random.default_rng(0).normal(size=(400, 2)), step, axis=0)
    position = np.roll(target, step, axis=0)  # Reached a control step later.
    velocity = position - np.roll(position, step, axis=0)
    action = target if index == "next" else position
    *_, seen, said = action_index_lines(position, velocity, action, hz, 0.02)
    assert said == f"action_index: {index}" and seen.startswith(f"# {index} explains 1.00 of how joints accelerate")
    assert action_index_lines(position[:20], velocity, action, hz, 0.02)[1:] == ["action_index: next"]


def test_degrees_are_noticed(tmp_path, log):
    columns = {k: np.degrees(v) if k.startswith("q_") else v for k, v in log("q_{}", "dq_{}").items()}
    _, found = proposed(tmp_path, columns)
    assert found["groups"]["joint_pos"]["scale"] == pytest.approx(np.pi / 180, rel=1e-5)
    assert found["groups"]["joint_pos"]["subtract_default"] is True


LEG, JOINT = {"FR": "RF", "FL": "LF", "RR": "RH", "RL": "LH"}, {"hip": "HAA", "thigh": "HFE", "calf": "KFE"}
WORDS = {"FR": "front_right", "FL": "front_left", "RR": "rear_right", "RL": "rear_left"}
SPOT = {"hip": "hx", "thigh": "hy", "calf": "kn"}


@pytest.mark.parametrize(
    ("spell", "position", "velocity"),
    [
        (lambda leg, joint: f"{leg}_{list(JOINT).index(joint)}", "q_{}", "dq_{}"),
        (lambda leg, joint: f"{leg}_{list(JOINT).index(joint) + 1}", "{}_q", "{}_dq"),
        (lambda leg, joint: f"{LEG[leg]}_{JOINT[joint]}", "q_{}", "qd_{}"),
        (lambda leg, joint: f"{WORDS[leg]}_{joint}_joint", "{}_pos", "{}_vel"),
        (lambda leg, joint: f"{leg}_{dict(hip='abad', thigh='hip', calf='knee')[joint]}", "{}_pos", "{}_vel"),
        (lambda leg, joint: f"{leg.lower()}.{SPOT[joint]}", "{}.pos", "{}.vel"),
        (lambda leg, joint: f"{leg}{joint.capitalize()}", "{}Pos", "{}Vel"),
        (lambda leg, joint: f"{joint}_{leg}", "{}_pos", "{}_vel"),
    ],
)
def test_joints_by_other_names_are_found_in_the_robots_order(tmp_path, log, spell, position, velocity):
    spelled = [spell(*joint.split("_")) for joint in UNITREE]
    columns = dict(zip(["t", *[p.format(s) for s in spelled for p in (position, velocity)]],
                       log("q_{}", "dq_{}").values(), strict=True))  # fmt: skip
    text, found = proposed(tmp_path, columns)
    wanted = [spelled[UNITREE.index(joint)] for joint in load_robot("go2").joints]
    assert found["groups"]["joint_pos"]["columns"] == [position.format(name) for name in wanted]
    assert found["groups"]["joint_vel"] == [velocity.format(name) for name in wanted]
    assert "joints" not in found
    told = f"{position.format(wanted[0])} taken as FL_hip"
    assert (told in text) == ("hip" not in wanted[0].lower() or "front" in wanted[0])


def test_joints_by_numbers_of_leg_and_joint_are_asked_for(tmp_path, log):
    columns = log("leg{}_q", "leg{}_dq")
    renamed = {}
    for name, values in columns.items():
        number = int(name.removeprefix("leg").split("_")[0]) if name != "t" else 0
        renamed[name if name == "t" else f"leg{number // 3}_joint{number % 3}_{name.split('_')[1]}"] = values
    _, found = proposed(tmp_path, renamed)
    assert found["groups"]["joint_vel"] == [f"leg{leg}_joint{joint}_dq" for leg in range(4) for joint in range(3)]
    assert found["joints"] == "ASK"


def test_temperatures_of_thighs_are_no_contacts(tmp_path, log):
    temperature = {f"{leg}_thigh_temp": np.full(T, 40.0) for leg in ("FL", "FR", "RL", "RR")}
    assert "thigh_contact" in proposed(tmp_path, log("q_{}", "dq_{}") | temperature)[1]["missing"]


@pytest.mark.parametrize(
    ("names", "per_second"),
    [(("stamp.sec", "stamp.nanosec"), 10**9), (("secs", "nsecs"), 10**9), (("tv_sec", "tv_usec"), 10**6)],
)
def test_seconds_and_their_fractions_in_two_columns_are_the_time(tmp_path, home, log, names, per_second):
    ticks = 1_765_180_800 * per_second + np.arange(T) * per_second // 50
    columns = dict(zip(names, (ticks // per_second, ticks % per_second), strict=True)) | log(
        "q_{}", "dq_{}", "q_des_{}"
    )
    del columns["t"]
    columns |= {f"g_{axis}": np.full(T, -float(axis == "z")) for axis in "xyz"}
    text, found = proposed(tmp_path, columns)
    assert found["time"] == list(names) and "# seconds, 50 Hz" in text
    (tmp_path / "m.yaml").write_text(text.replace("joints: ASK", ""))
    dataset = convert(home, [tmp_path / "a.csv"], "a", robot="go2", mapping=tmp_path / "m.yaml")
    assert dataset.episodes.length.tolist() == [T]


def test_two_columns_that_are_no_second_and_its_fraction_are_refused():
    frame = pl.DataFrame({"t_sec": [0.0, 1.0], "t_nsec": [0.0, 2e9]})
    with pytest.raises(RwmError, match="row 2, column 't_nsec': 2e.09 is no part of a second in steps of 1e-09 s"):
        read_clock(frame, ("t_sec", "t_nsec"), None, "a.csv")


def test_the_frame_of_odometry_is_asked_for(tmp_path, log):
    columns = log("q_{}", "dq_{}") | {f"odom_v{axis}": np.zeros(T) for axis in "xyz"}
    text, found = proposed(tmp_path, columns)
    assert found["groups"]["base_lin_vel"]["frame"] == "ASK"
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(RwmError, match="base_lin_vel.frame: .*'base' or 'world'"):
        load_mapping(tmp_path / "m.yaml")


def test_a_robot_that_nobody_named_is_told_by_names_or_pose(tmp_path, home, log):
    file = tmp_path / "a.csv"
    named = {column.replace("q_", "").replace("dq_", "vel_"): values for column, values in log("q_{}", "dq_{}").items()}
    names = dict(zip(["t", *[f"{p}_{j}" for j in UNITREE for p in ("q", "dq")]], named.values(), strict=True))
    pl.DataFrame(names).write_csv(file)
    text = infer_mapping(file)
    assert "name the joints of Unitree Go1 and Unitree Go2: give --robot go1 or go2 here" in text
    pl.DataFrame(log("q_{}", "dq_{}", "q_des_{}") | {f"g_{k}": np.full(T, -float(k == 2)) for k in range(3)}).write_csv(
        file
    )
    text = infer_mapping(file)
    assert "the joints stand as those of Unitree Go2 and Unitree Go1: give --robot go2 or go1 here" in text
    assert text.startswith("# Proposed for Unitree Go2") and f"#   joints: [{', '.join(UNITREE)}]" in text
    assert f"#   rwm data convert {file} --robot go2 --mapping THIS_FILE --name NAME" in text
    assert infer_mapping(file.rename(tmp_path / "Go1 walk.csv")).startswith("# Proposed for Unitree Go1")
    (tmp_path / "Go1 walk.csv").rename(file)
    (tmp_path / "m.yaml").write_text(text.replace("joints: ASK", ""))
    with pytest.raises(RwmError, match="not stand as those of ANYmal D but of Unitree Go2 or Unitree Go1.* go2 or"):
        convert(home, [file], "a", mapping=tmp_path / "m.yaml")
    assert home.datasets() == []


def test_time_that_runs_backwards_is_said():
    with pytest.raises(RwmError, match="column 't': the time runs backwards from 3"):
        read_clock(pl.DataFrame({"t": [3.0, 2.0, 1.0]}), "t", None, "a.csv")
