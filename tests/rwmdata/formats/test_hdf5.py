"""Recorder files in: the layouts Isaac Lab writes, made by hand here, and whatever a mapping says."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert

T = 6


def write(path, demos):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, content in demos.items():
            for key, values in content.items():
                data.create_dataset(f"{name}/{key}", data=values)
    return path


def stock_demo(robot, steps=T, seed=0):
    """A base turned 90 degrees to the left that drives along its own x axis, so along the world's y axis."""
    rng, turn = np.random.default_rng(seed), np.sqrt(0.5)
    default = np.array(robot.default_joint_pos)
    states = {
        "root_pose": np.tile([3.0, 4.0, 0.6, turn, 0, 0, turn], (steps + 1, 1)),
        "root_velocity": np.tile([0.0, 2.0, 0.0, 0.5, 0.0, 0.1], (steps + 1, 1)),
        "joint_position": default + rng.normal(0, 0.1, (steps + 1, 12)),
        "joint_velocity": rng.normal(0, 1, (steps + 1, 12)),
    }
    demo = {"actions": rng.normal(0, 0.3, (steps, 12))}
    demo |= {f"initial_state/articulation/robot/{k}": v[:1] for k, v in states.items()}
    demo |= {f"states/articulation/robot/{k}": v[1:] for k, v in states.items()}
    return demo, states


def test_the_stock_recorder_becomes_rows_of_state_and_the_action_before(home, robot, schema, tmp_path):
    demo, states = stock_demo(robot)
    file = write(tmp_path / "a.hdf5", {"demo_0": demo})
    dataset = convert(home, [file], "a")
    rows = dataset.matrix()
    assert rows.shape == (T + 1, 66)
    np.testing.assert_allclose(rows[:, schema.group("base_lin_vel")], np.tile([2.0, 0, 0], (T + 1, 1)), atol=1e-6)
    np.testing.assert_allclose(rows[:, schema.group("base_ang_vel")], np.tile([0, -0.5, 0.1], (T + 1, 1)), atol=1e-6)
    np.testing.assert_allclose(rows[:, schema.group("projected_gravity")], np.tile([0, 0, -1], (T + 1, 1)), atol=1e-6)
    relative = states["joint_position"] - np.array(robot.default_joint_pos)
    np.testing.assert_allclose(rows[:, schema.group("joint_pos")], relative, atol=1e-6)
    assert not rows[0, schema.action].any()
    np.testing.assert_allclose(rows[1:, schema.action], demo["actions"], atol=1e-6)
    k = 3
    torque = 80 * (0.5 * demo["actions"][k - 1] - relative[k]) - 2 * states["joint_velocity"][k]
    np.testing.assert_allclose(rows[k, schema.group("joint_torque")], torque.clip(-80, 80), atol=1e-3)
    origin = dataset.manifest.provenance
    assert origin["computed_groups"] == ["joint_torque"]
    assert origin["missing_groups"] == ["foot_contact", "termination", "thigh_contact"]
    assert "termination was not recorded and is zero" in origin["notes"]


def test_every_demo_is_an_episode_in_the_order_of_its_number(home, robot, tmp_path):
    demos = {f"demo_{k}": stock_demo(robot, steps=k + 1, seed=k)[0] for k in (10, 2, 0)}
    dataset = convert(home, [write(tmp_path / "a.h5", demos)], "a")
    assert dataset.episodes.length.tolist() == [2, 4, 12] and not dataset.episodes.terminated.any()


@pytest.mark.parametrize("name", ["episode_{}", "traj{}", "demo{}"])
def test_numbered_groups_of_another_name_are_demos(home, robot, tmp_path, name):
    parts = {name.format(k): stock_demo(robot, 5 + k, seed=k)[0] for k in (10, 2)}
    dataset = convert(home, [write(tmp_path / "a.hdf5", parts)], "a")
    assert dataset.episodes.length.tolist() == [8, 16]
    with pytest.raises(RwmError, match="in data: data/a_1, data/b_1"):
        convert(home, [write(tmp_path / "b.hdf5", dict(zip(("a_1", "b_1"), parts.values(), strict=True)))], "b")


def test_system_groups_are_taken_as_they_are(home, schema, tmp_path):
    rows = np.random.default_rng(0).normal(size=(T, 66)).astype(np.float32)
    rows[:, schema.contact] = 1
    rows[:, -1] = [0, 0, 0, 0, 0, 1]
    demo = {"obs/system_state": rows[:, :45], "obs/system_action": rows[:, 45:57],
            "obs/system_contact": rows[:, 57:65], "obs/system_termination": rows[:, 65:]}  # fmt: skip
    dataset = convert(home, [write(tmp_path / "a.hdf5", {"demo_0": demo})], "a")
    assert np.array_equal(dataset.matrix(), rows) and dataset.episodes.terminated.tolist() == [True]


def mapping_file(path, robot, **changes):
    groups = {
        "base_lin_vel": {"path": "obs/flat", "columns": [0, 3], "scale": 0.5},
        "base_ang_vel": {"path": "obs/flat", "columns": [3, 6]},
        "projected_gravity": {"path": "obs/gravity"},
        "joint_pos": {"path": "obs/q", "subtract_default": True},
        "joint_vel": {"path": "obs/dq"},
        "action": {"path": "actions"},
        "termination": {"path": "obs/fell"},
    }
    missing = ["joint_torque", "thigh_contact", "foot_contact"]
    spec = {"groups": groups, "missing": missing, "joints": robot.joints[::-1]} | changes
    path.write_text(yaml.safe_dump(spec))
    return path


def odd_demo():
    rng = np.random.default_rng(1)
    fell = np.zeros(T)
    fell[-1] = 1
    return {"obs/flat": rng.normal(size=(T, 6)), "obs/gravity": np.tile([0.0, 0, -1], (T, 1)),
            "obs/q": rng.normal(size=(T, 12)), "obs/dq": rng.normal(size=(T, 12)),
            "actions": rng.normal(size=(T, 12)), "obs/fell": fell}  # fmt: skip


@pytest.mark.parametrize("index", ["next", "previous"])
def test_a_mapping_slices_scales_reorders_and_shifts(home, robot, schema, tmp_path, index):
    demo = odd_demo()
    mapping = mapping_file(tmp_path / "m.yaml", robot, action_index=index)
    dataset = convert(home, [write(tmp_path / "a.hdf5", {"demo_0": demo})], "a", mapping=mapping)
    rows = dataset.matrix()
    np.testing.assert_allclose(rows[:, :3], demo["obs/flat"][:, :3] / 2, rtol=1e-6)
    np.testing.assert_allclose(rows[:, 3:6], demo["obs/flat"][:, 3:], rtol=1e-6)
    joint_pos = demo["obs/q"][:, ::-1] - np.array(robot.default_joint_pos)
    np.testing.assert_allclose(rows[:, schema.group("joint_pos")], joint_pos, rtol=1e-5, atol=1e-6)
    actions = demo["actions"][:, ::-1]
    expected = np.concatenate((np.zeros((1, 12)), actions[:-1])) if index == "next" else actions
    np.testing.assert_allclose(rows[:, schema.action], expected, rtol=1e-6)
    assert dataset.episodes.terminated.tolist() == [True]
    assert dataset.manifest.provenance["missing_groups"] == ["foot_contact", "joint_torque", "thigh_contact"]


def test_faults_name_file_demo_and_dataset_and_leave_nothing(home, robot, tmp_path):
    demo, _ = stock_demo(robot)
    cases = [
        (
            {k: v for k, v in demo.items() if k != "actions"},
            "demo_0 has a layout of its own, .*datasets: initial_state/",
        ),
        (demo | {"actions": np.zeros((T, 11))}, r"'actions' has shape \(6, 11\), expected \(T, 12\)"),
        (demo | {"actions": np.full((T, 12), np.nan)}, "demo_0: row 0, column 'joint_torque|demo_0: row 1, column"),
    ]
    for content, message in cases:
        with pytest.raises(RwmError, match=message):
            convert(home, [write(tmp_path / "bad.hdf5", {"demo_0": content})], "a")
    with pytest.raises(RwmError, match="holds no data/demo_N, nor other numbered groups of one name in data: data"):
        convert(home, [write(tmp_path / "empty.hdf5", {})], "a")
    (tmp_path / "text.hdf5").write_text("no")
    with pytest.raises(RwmError, match=r"text.hdf5 cannot be read as HDF5"):
        convert(home, [tmp_path / "text.hdf5"], "a")
    with pytest.raises(RwmError, match="There is no file"):
        convert(home, [tmp_path / "none.hdf5"], "a")
    assert home.datasets() == [] and list(home.data_dir.iterdir()) == []


def test_a_mapping_that_forgets_or_invents_a_group_is_refused(home, robot, tmp_path):
    file = write(tmp_path / "a.hdf5", {"demo_0": odd_demo()})
    cases = [
        ({"missing": ["joint_torque"]}, "says nothing of thigh_contact, foot_contact"),
        ({"missing": ["joint_torque", "thigh_contact", "foot_contact", "tail"]}, "does not know tail"),
        ({"joints": ["a"]}, "mapping's joints are a; the robot's are LF_HAA"),
        ({"groups": {"action": {"paht": "actions"}}}, "groups.action.paht: Extra inputs are not permitted"),
    ]
    for changes, message in cases:
        mapping = mapping_file(tmp_path / "m.yaml", robot, **changes)
        with pytest.raises(RwmError, match=message):
            convert(home, [file], "a", mapping=mapping)
    with pytest.raises(RwmError, match="There is no mapping file"):
        convert(home, [file], "a", mapping=tmp_path / "none.yaml")


def test_gravity_from_an_accelerometer_is_taken_at_the_rate_of_the_recording(home, robot, schema, tmp_path):
    t = np.arange(1600) / 200
    roll = 0.3 * np.sin(2 * np.pi * 0.3 * t)
    up = np.stack((0 * t, np.sin(roll), np.cos(roll)), axis=1)
    turning = np.stack((0.3 * 2 * np.pi * 0.3 * np.cos(2 * np.pi * 0.3 * t), 0 * t, 0 * t), axis=1)
    still = np.zeros((len(t), 12))
    demo = {"obs/flat": np.concatenate((0 * up, turning), axis=1), "obs/acc": 9.81 * up}
    demo |= {"obs/q": still, "obs/dq": still, "actions": still, "obs/fell": 0 * t}
    file = mapping_file(tmp_path / "m.yaml", robot)
    spec = yaml.safe_load(file.read_text())
    spec["groups"]["projected_gravity"] = {"path": "obs/acc", "kind": "accelerometer"}
    file.write_text(yaml.safe_dump(spec))
    dataset = convert(home, [write(tmp_path / "a.hdf5", {"demo_0": demo})], "a", mapping=file, rate_hz=200)
    gravity = dataset.matrix()[:, schema.group("projected_gravity")]
    assert len(gravity) == 400
    np.testing.assert_allclose(gravity[60:-60], -up[::4][60:-60], atol=0.06)
