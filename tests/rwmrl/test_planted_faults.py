"""Faults of imports, planted into rollouts of the embedded simulator, are found; the rollouts themselves have none."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from rwmdata.consistency import Recording, contradictions, suspicions
from rwmdata.formats.isaaclab import rotation
from rwmdata.home import Home
from rwmdata.joint_order import joint_orders
from rwmdata.robots import load_robot
from rwmdata.validate import validate
from rwmrl.export import ExportConfig, export_dataset

DEGREES = 180 / np.pi


@pytest.fixture(scope="module", params=["anymal_d", "go2"])
def exported(request, tmp_path_factory):
    options = {"transitions": 1600, "num_envs": 8, "episode_length_s": 4.0, "name": "set", "seed": 3}
    config = ExportConfig(robot=request.param, policy="expert", **options)
    return export_dataset(Home.resolve(tmp_path_factory.mktemp("planted")), config)


@pytest.fixture
def recording(exported):
    start, length = exported.episodes.start, exported.episodes.length
    return Recording(exported.matrix(), exported.schema, start, length, 50.0, (), load_robot(exported.robot))


@pytest.fixture
def found(recording):
    """Give what is found when ``change(values)`` replaces the columns of groups."""

    def find(change, *groups, **options):
        rows = recording.rows
        for group in groups:
            rows[:, recording.schema.group(group)] = change(rows[:, recording.schema.group(group)])
        changed = replace(recording, rows=rows, **options)
        return [*contradictions(changed), *suspicions(changed)]

    return find


@pytest.fixture
def by_leg(recording):
    """Columns of joints as a recording leg by leg has them."""
    return [recording.robot.joints.index(joint) for joint in joint_orders(recording.robot)["legs"]]


def test_a_rollout_has_no_fault(exported):
    assert validate(exported) == []


@pytest.mark.parametrize(
    ("group", "change", "check", "message"),
    [
        ("projected_gravity", lambda v: -v, "gravity", "gravity points up in 100% of the rows"),
        ("base_ang_vel", lambda v: -v, "gravity", r"does not turn as the angular velocity says \(cosine -0.9"),
        ("base_ang_vel", lambda v: v[:, [1, 0, 2]], "gravity", "does not turn as the angular velocity says"),
        ("base_ang_vel", lambda v: v * DEGREES, "gravity", r"off by a factor of 5\d.* \(rates in degrees\?\)"),
        ("joint_vel", lambda v: v * DEGREES, "integral", r"factor of 5\d.* \(rates in degrees\?\).*: all joints"),
        ("joint_pos", lambda v: v * DEGREES, "integral", r"factor of 0.01\d+ \(positions in degrees\?\)"),
        ("joint_vel", lambda v: -v, "integral", r"not the integral.*\(the opposite sign\)"),
    ],
)
def test_signs_axes_and_units(found, group, change, check, message):
    findings = found(change, group)
    assert [f[0] for f in findings if f[0] != "order"] == [check]
    assert re.search(message, findings[0][2]), findings


def test_another_rate(found):
    (message,) = [message for check, _, message in found(None, hz=12.5) if check == "integral"]
    assert re.search(r"off by a factor of 3.\d+ \(recorded at 4\d.* Hz, not 12.5 Hz", message), message


def test_quaternions_in_the_wrong_order(recording):
    rows, start = recording.rows, set(recording.start.tolist())
    wrong, yaw = rows.copy(), 0.0
    for k, row in enumerate(rows.astype(np.float64)):
        gravity, rates = row[6:9], row[3:6]
        roll, pitch = np.arctan2(-gravity[1], -gravity[2]), np.arcsin(gravity[0].clip(-1, 1))
        turning = (rates[1] * np.sin(roll) + rates[2] * np.cos(roll)) / np.cos(pitch)
        yaw = 1.3 if k in start else yaw + 0.02 * turning
        (a, b), (c, d), (e, f) = ((np.cos(x / 2), np.sin(x / 2)) for x in (roll, pitch, yaw))
        q = [a * c * e + b * d * f, b * c * e - a * d * f, a * d * e + b * c * f, a * c * f - b * d * e]
        right, misread = rotation(np.array([q]))[0], rotation(np.array([q])[:, [3, 0, 1, 2]])[0]
        np.testing.assert_allclose(-right[2], gravity, atol=2e-2)
        wrong[k, 3:6], wrong[k, 6:9] = misread.T @ (right @ rates), -misread[2]
    findings = list(contradictions(replace(recording, rows=wrong)))
    assert any("does not turn as the angular velocity says" in message for _, _, message in findings)


def test_joints_and_actions_in_another_order(found, recording, by_leg):
    order = ", ".join(joint_orders(recording.robot)["legs"])
    default, original = np.array(recording.robot.default_joint_pos), recording.rows.copy()
    ((check, where, message),) = found(lambda v: v[:, by_leg], "action")
    assert (check, where) == ("order", "action columns") and message.endswith(order)
    recording.rows[:] = original
    assert "not the integral of the velocities" in found(lambda v: v[:, by_leg], "joint_pos")[0][2]
    recording.rows[:] = original
    found(lambda v: v[:, by_leg], "joint_vel", "joint_torque", "action")
    ((check, where, message),) = found(lambda v: (v + default)[:, by_leg] - default, "joint_pos")
    assert (check, where) == ("order", "joint columns") and message.endswith(order)
