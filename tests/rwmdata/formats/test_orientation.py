"""Orientations as robots log them become gravity and velocities in the base frame, or contradictions are named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.formats.names import frame_told
from rwmdata.formats.orientation import ORDERS, axes_of, gravity_from_accelerometer, rotation, rotation_of_angles

T = 200
MISSING = ["joint_torque", "thigh_contact", "foot_contact", "termination"]


@pytest.fixture
def motion(robot):
    """Angles of a swaying base, quaternion (w, x, y, z), gyroscope, and velocity in the base and the world frame."""
    stamps = np.arange(T) * 0.02
    angles = np.stack((0.3 * np.sin(3 * stamps), 0.2 * np.cos(2 * stamps), 0.8 * stamps), axis=1)
    rates = np.stack((0.9 * np.cos(3 * stamps), -0.4 * np.sin(2 * stamps), np.full(T, 0.8)), axis=1)
    (sr, sp, _), (cr, cp, _) = np.sin(angles).T, np.cos(angles).T
    roll, pitch, yaw = rates.T
    gyro = np.stack((roll - sp * yaw, cr * pitch + sr * cp * yaw, cr * cp * yaw - sr * pitch), axis=1)
    axes = rotation_of_angles(angles)
    w = 0.5 * np.sqrt(1 + np.trace(axes, axis1=1, axis2=2))
    skew = axes - axes.transpose(0, 2, 1)
    quaternion = np.column_stack((w, *(np.stack((skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0])) / (4 * w))))
    base = np.stack((np.full(T, 0.6), 0.1 * np.sin(stamps), np.zeros(T)), axis=1)
    world = np.einsum("nij,nj->ni", axes, base)
    return {"t": stamps, "angles": angles, "q": quaternion, "gyro": gyro, "base": base, "world": world, "axes": axes}


@pytest.fixture
def rows_of(home, robot, schema, motion, tmp_path):
    """Convert a log of the motion with groups of a mapping on top; gives its rows and notes."""

    def run(columns, **changes):
        joints = {f"{g}_{j}": np.zeros(T) for g in ("q", "dq", "act") for j in robot.joints}
        log = {
            "t": motion["t"],
            **{f"gyro_{a}": motion["gyro"][:, k] for k, a in enumerate("xyz")},
            **joints,
            **columns,
        }
        pl.DataFrame(log).write_csv(tmp_path / "a.csv")
        groups = {"base_lin_vel": "v_{}", "base_ang_vel": "gyro_{}", "joint_pos": "q_{}", "joint_vel": "dq_{}"}
        groups |= {"action": "act_{}"} | changes.pop("groups")
        (tmp_path / "m.yaml").write_text(yaml.safe_dump({"groups": groups, "missing": MISSING, "time": "t"} | changes))
        dataset = convert(home, [tmp_path / "a.csv"], f"d{len(home.datasets())}", mapping=tmp_path / "m.yaml")
        return dataset.matrix(), dataset.manifest.provenance["notes"]

    return run


def named(values, names):
    return {name: values[:, k] for k, name in enumerate(names)}


def velocity(motion, name="v"):
    return named(motion["base" if name == "v" else "world"], [f"{name}_{a}" for a in "xyz"])


def test_a_quarter_turn_by_hand():
    axes = rotation(np.array([[0.5**0.5, 0, 0, 0.5**0.5], [0.5**0.5, 0.5**0.5, 0, 0]]))
    np.testing.assert_allclose(axes[0] @ [1, 0, 0], [0, 1, 0], atol=1e-9)  # yaw by 90 degrees: forward is left
    np.testing.assert_allclose(-axes[1][2], [0, -1, 0], atol=1e-9)  # rolled to its right side: gravity to the right
    np.testing.assert_allclose(rotation_of_angles(np.array([[np.pi / 2, 0, 0]]))[0], axes[1], atol=1e-9)
    assert rotation_of_angles(np.array([[0, 0.1, 0]]))[0][2, 0] == pytest.approx(-np.sin(0.1))  # nose down


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_gravity_and_velocity_come_from_a_quaternion(rows_of, motion, schema, order):
    columns = named(motion["q"][:, [ORDERS["wxyz"]["wxyz".index(c)] for c in order]], [f"q{c}" for c in order])
    groups = {"base_lin_vel": "vel_world_{}", "projected_gravity": {"columns": list(columns), "kind": "quaternion"}}
    rows, notes = rows_of(columns | velocity(motion, "vel_world"), groups=groups)
    np.testing.assert_allclose(rows[:, schema.group("projected_gravity")], -motion["axes"][:, 2], atol=1e-5)
    np.testing.assert_allclose(rows[:, :3], motion["base"], atol=1e-5)
    assert "base_lin_vel is in the world frame by its name ('world'); it was rotated into the base frame" in notes
    assert f"quaternion taken as {order}, which turns as the gyroscope does" in " ".join(notes)


def test_four_columns_named_so_are_a_quaternion_and_others_are_asked_for(rows_of, motion, schema):
    columns = named(motion["q"], ["qw", "qx", "qy", "qz"]) | velocity(motion)
    rows, notes = rows_of(columns, groups={"projected_gravity": ["qw", "qx", "qy", "qz"]})
    np.testing.assert_allclose(rows[:, schema.group("projected_gravity")], -motion["axes"][:, 2], atol=1e-5)
    assert "projected_gravity is a quaternion by the names of its columns, qw, qx, qy, qz" in notes
    unnamed = [f"o{k}" for k in range(4)]
    columns = named(motion["q"], unnamed) | velocity(motion)
    with pytest.raises(RwmError, match="four columns, o0, o1, o2, o3; gravity has three"):
        rows_of(columns, groups={"projected_gravity": unnamed})
    with pytest.raises(RwmError, match="do not say in which order the quaternion is"):
        rows_of(columns, groups={"projected_gravity": {"columns": unnamed, "kind": "quaternion"}})


def test_a_wrong_order_or_the_inverse_is_found_by_the_gyroscope(rows_of, motion, schema):
    names = [f"o{k}" for k in range(4)]
    columns = named(motion["q"], names) | velocity(motion)
    source = {"columns": names, "kind": "quaternion", "order": "xyzw"}
    with pytest.raises(RwmError, match="as xyzw, the quaternion turns otherwise than the gyro.* with 'order: wxyz'"):
        rows_of(columns, groups={"projected_gravity": source})
    columns |= named(motion["q"] * [1, -1, -1, -1], names)
    source["order"] = "wxyz"
    with pytest.raises(RwmError, match=r"with 'order: wxyz, scale: \[1, -1, -1, -1\]' it agrees"):
        rows_of(columns, groups={"projected_gravity": source})
    rows, _ = rows_of(columns, groups={"projected_gravity": source | {"scale": [1, -1, -1, -1]}})
    np.testing.assert_allclose(rows[:, schema.group("projected_gravity")], -motion["axes"][:, 2], atol=1e-5)
    assert len(rows_of(columns, groups={"projected_gravity": source}, check=False)[0]) == T


def test_roll_and_pitch_are_enough_for_gravity_and_degrees_are_noticed(rows_of, motion, schema):
    source = {"columns": ["roll", "pitch"], "kind": "roll_pitch_yaw"}
    columns = named(motion["angles"], ["roll", "pitch"]) | velocity(motion)
    rows, _ = rows_of(columns, groups={"projected_gravity": source})
    np.testing.assert_allclose(rows[:, schema.group("projected_gravity")], -motion["axes"][:, 2], atol=1e-5)
    source["columns"], columns = [*source["columns"], "yaw"], columns | {"yaw": motion["angles"][:, 2]}
    _, notes = rows_of(columns, groups={"projected_gravity": source})
    assert "the orientation by its angles turns as the gyroscope does" in " ".join(notes)
    columns |= named(np.degrees(motion["angles"]), ["roll", "pitch"])
    with pytest.raises(RwmError, match="roll and pitch reach .*, which are no radians"):
        rows_of(columns, groups={"projected_gravity": source})


def test_gravity_is_estimated_from_an_accelerometer_and_said_so(rows_of, motion, schema):
    bounce = 5 * np.sin(2 * np.pi * 4 * motion["t"])[:, None] * [0.5, 0.2, 1.0]
    up = np.einsum("nji,j->ni", motion["axes"], [0, 0, 9.81])
    columns = named(up + bounce, ["acc_x", "acc_y", "acc_z"]) | velocity(motion)
    rows, notes = rows_of(columns, groups={"projected_gravity": {"columns": "acc_{}", "kind": "accelerometer"}})
    error = rows[:, schema.group("projected_gravity")] + motion["axes"][:, 2]
    assert np.sqrt((error**2).sum(axis=1).mean()) < 0.05
    assert "projected_gravity is an estimate: the accelerometer averaged over a second before and after" in notes
    still = gravity_from_accelerometer(np.tile([0.0, 0.0, 9.81], (50, 1)), None, np.arange(50) * 0.02)
    np.testing.assert_allclose(still, np.tile([0, 0, -1], (50, 1)), atol=1e-9)


def test_gravity_upside_down_is_refused_unless_told(rows_of, motion):
    columns = named(motion["axes"][:, 2], ["g_x", "g_y", "g_z"]) | velocity(motion)
    with pytest.raises(RwmError, match="projected_gravity z is 0.9. on average, as on the robot's back; level is -1"):
        rows_of(columns, groups={"projected_gravity": "g_{}"})
    assert len(rows_of(columns, groups={"projected_gravity": "g_{}"}, check=False)[0]) == T


def test_a_velocity_in_the_world_needs_an_orientation(rows_of, motion):
    gravity = named(-motion["axes"][:, 2], ["g_x", "g_y", "g_z"])
    columns = gravity | velocity(motion, "map_v") | named(motion["q"], ["qw", "qx", "qy", "qz"])
    groups = {"base_lin_vel": "map_v_{}", "projected_gravity": "g_{}"}
    with pytest.raises(RwmError, match="'base_lin_vel' is in the world frame; no orientation is mapped"):
        rows_of(columns, groups=groups)
    orientation = {"columns": ["qw", "qx", "qy", "qz"], "kind": "quaternion"}
    rows, _ = rows_of(columns, groups=groups, orientation=orientation)
    np.testing.assert_allclose(rows[:, :3], motion["base"], atol=1e-5)
    groups["base_lin_vel"] = {"columns": "map_v_{}", "frame": "base"}
    np.testing.assert_allclose(rows_of(columns, groups=groups)[0][:, :3], motion["world"], atol=1e-5)


def test_the_twist_of_an_odometry_is_in_the_base_frame_and_other_odometry_is_asked_about(rows_of, motion):
    gravity = named(-motion["axes"][:, 2], ["g_x", "g_y", "g_z"])
    groups = {"base_lin_vel": "odom.twist.twist.linear.{}", "projected_gravity": "g_{}"}
    twist = gravity | {f"odom.twist.twist.linear.{axis}": motion["base"][:, k] for k, axis in enumerate("xyz")}
    rows, notes = rows_of(twist, groups=groups)
    np.testing.assert_allclose(rows[:, :3], motion["base"], atol=1e-5)
    assert "base_lin_vel is the twist of an odometry, taken to be in the base frame; frame: world, if not" in notes
    unclear = gravity | velocity(motion, "odom_v")
    with pytest.raises(RwmError, match="may be in the frame of the odometry or in the base's; odom_v_x does not tell"):
        rows_of(unclear, groups=groups | {"base_lin_vel": "odom_v_{}"})


@pytest.mark.parametrize(
    ("columns", "frame"),
    [
        (["/odom/twist/twist/linear/x"], "base"),
        (["odometry_vx"], "unclear"),
        (["v_world_x"], "world"),
        (["inertial_gyro_x"], None),
        (["imu_world_wx"], None),
        (["vx"], None),
    ],
)
def test_frames_of_velocities_by_their_names(columns, frame):
    assert frame_told(columns)[0] == frame


def test_values_that_are_no_quaternion_are_named():
    with pytest.raises(RwmError, match="row 2 has length 2, expected 1.* Try: scale: 0.5 beside its columns"):
        axes_of(np.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0]]), "quaternion", "wxyz", "log")
