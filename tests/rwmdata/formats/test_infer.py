"""Mappings proposed for logs as drivers and recorders name their columns; what cannot be known is asked for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.formats.infer import infer_mapping
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


def test_degrees_are_noticed(tmp_path, log):
    columns = {k: np.degrees(v) if k.startswith("q_") else v for k, v in log("q_{}", "dq_{}").items()}
    _, found = proposed(tmp_path, columns)
    assert found["groups"]["joint_pos"]["scale"] == pytest.approx(np.pi / 180, rel=1e-5)
    assert found["groups"]["joint_pos"]["subtract_default"] is True
