"""LeRobot v3.0 out and in: the same numbers back, frames that follow its convention, foreign features by mapping."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.formats.lerobot import write_lerobot

pd = pytest.importorskip("pandas")  # LeRobot reads with it.


@pytest.fixture
def dataset(make_dataset, episodes):
    rng = np.random.default_rng(0)
    rows = episodes(4, 30)
    for k, episode in enumerate(rows):
        episode[-1, -1] = k % 2
    commands = rng.normal(size=(4, 30, 3)).astype(np.float32)
    return make_dataset(
        [Episode(e, k % 2 == 0, commands[k], np.arange(30.0), f"b{k}") for k, e in enumerate(rows)], "a"
    )


def test_there_and_back_is_the_same(home, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("rwmdata.formats.lerobot.FRAMES_PER_FILE", 50)
    folder = write_lerobot(dataset, tmp_path / "out")
    assert len(list(folder.rglob("data/**/*.parquet"))) == 2
    back = convert(home, [folder], "back")
    assert np.array_equal(back.matrix(), dataset.matrix())
    columns = ["command_lin_vel_x", "reward", "behaviour", "episode", "step", "terminated", "truncated"]
    first, second = (d.scan().select(columns).collect() for d in (dataset, back))
    assert first.drop("reward").equals(second.drop("reward"))
    assert first["reward"].to_list() == second["reward"].to_list()


def test_what_was_not_recorded_comes_back_as_not_recorded(home, make_dataset, episodes, tmp_path):
    plain = make_dataset(episodes(2, 20), "plain")
    back = convert(home, [write_lerobot(plain, tmp_path / "out")], "back")
    unknown = back.scan().select("command_lin_vel_x", "reward").collect()
    assert unknown.null_count().row(0) == (40, 40) and np.array_equal(back.matrix(), plain.matrix())


def test_frames_hold_a_state_and_the_action_taken_in_it(dataset, schema, tmp_path):
    folder = write_lerobot(dataset, tmp_path / "out")
    frame = pd.read_parquet(folder / "data/chunk-000/file-000.parquet")
    rows = dataset.matrix()
    np.testing.assert_array_equal(np.stack(frame["observation.state"]), rows[:, schema.state])
    np.testing.assert_array_equal(np.stack(frame["action"])[:29], rows[1:30, schema.action])
    assert not np.stack(frame["action"])[29].any()
    assert frame["next.done"].to_numpy().nonzero()[0].tolist() == [29, 59, 89, 119]
    assert frame["next.terminated"].to_numpy().nonzero()[0].tolist() == [59, 119]
    assert frame["timestamp"][31] == pytest.approx(0.02) and frame["index"].tolist() == list(range(120))
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 50, 120)
    assert set(info["features"]) == set(frame.columns)
    assert info["features"]["action"]["names"][0] == "action_LF_HAA"
    episodes = pd.read_parquet(folder / "meta/episodes/chunk-000/file-000.parquet")
    assert episodes["dataset_to_index"].tolist() == [30, 60, 90, 120]
    tasks = pd.read_parquet(folder / "meta/tasks.parquet")
    assert tasks.loc["follow the velocity command", "task_index"] == 0
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert len(stats["observation.state"]["mean"]) == 45


def test_foreign_features_need_a_mapping_and_use_it(home, dataset, schema, tmp_path):
    folder = write_lerobot(dataset, tmp_path / "out")
    info = json.loads((folder / "meta/info.json").read_text())
    del info["features"]["observation.last_action"]
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(RwmError, match="not ours; a mapping must say what they hold"):
        convert(home, [folder], "b")
    starts = [schema.group(g) for g in schema.groups[:6]]
    groups = {
        g: {"path": "observation.state", "columns": [s.start, s.stop]}
        for g, s in zip(schema.groups[:6], starts, strict=True)
    }
    groups["action"] = {"path": "action"}
    mapping = tmp_path / "m.yaml"
    mapping.write_text(yaml.safe_dump({"groups": groups, "missing": ["thigh_contact", "foot_contact", "termination"]}))
    rows = convert(home, [folder], "b", mapping=mapping).matrix()
    np.testing.assert_allclose(rows[:, schema.state], dataset.matrix()[:, schema.state], atol=1e-6)
    np.testing.assert_array_equal(rows[:, schema.action], dataset.matrix()[:, schema.action])


def test_columns_by_name_or_number_are_those_of_the_metadata(home, dataset, schema, robot, tmp_path):
    folder = write_lerobot(dataset, tmp_path / "out")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["action"]["names"] = {"motors": [f"{joint}.pos" for joint in robot.joints]}
    (folder / "meta/info.json").write_text(json.dumps(info))
    groups = {
        "base_ang_vel": [f"observation.state[{k}]" for k in (3, 4, 5)],
        "joint_pos": {"columns": "joint_pos_{}"},
        "joint_vel": {"path": "observation.state", "columns": "joint_vel_{}"},
        "action": {"columns": list(reversed([f"{joint}.pos" for joint in robot.joints]))},
        "joint_torque": {"kind": "drive"},
    }
    missing = [group for group in schema.groups if group not in groups]

    def converted(name, **changes):
        mapping = tmp_path / "m.yaml"
        mapping.write_text(yaml.safe_dump({"groups": groups | changes, "missing": missing}))
        return convert(home, [folder], name, mapping=mapping).matrix()

    rows, wanted = converted("b"), dataset.matrix()
    for group in ("base_ang_vel", "joint_pos", "joint_vel"):
        np.testing.assert_allclose(rows[:, schema.group(group)], wanted[:, schema.group(group)], atol=1e-6)
    np.testing.assert_array_equal(rows[:, schema.action], wanted[:, schema.action][:, ::-1])
    with pytest.raises(RwmError, match="meta/info.json names no 'hip'; action: LF_HAA.pos, LH_HAA.pos"):
        converted("c", action={"path": "action", "columns": ["hip"] * 12})
    with pytest.raises(RwmError, match="'action' has 12 numbers, none at 12"):
        converted("d", action=[f"action[{k + 1}]" for k in range(12)])


def test_an_orientation_beside_the_groups_is_read(home, dataset, schema, tmp_path):
    folder = write_lerobot(dataset, tmp_path / "out")
    file = folder / "data/chunk-000/file-000.parquet"
    frames = pd.read_parquet(file)
    frames["quaternion"] = [np.float32([0.5**0.5, 0, 0, 0.5**0.5])] * len(frames)  # A quarter turn to the left.
    frames.to_parquet(file)
    groups = {
        "base_lin_vel": {"path": "observation.state", "columns": [0, 3], "frame": "world"},
        "projected_gravity": {"path": "observation.state", "columns": [6, 9]},
    }
    orientation = {"path": "quaternion", "kind": "quaternion", "order": "wxyz"}
    content = {"groups": groups, "missing": [g for g in schema.groups if g not in groups], "orientation": orientation}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content | {"check": False}))
    rows, world = convert(home, [folder], "b", mapping=tmp_path / "m.yaml").matrix(), dataset.matrix()[:, :3]
    np.testing.assert_allclose(rows[:, :3], np.stack([world[:, 1], -world[:, 0], world[:, 2]], axis=1), atol=1e-5)


def test_what_is_not_readable_is_named(home, dataset, tmp_path):
    folder = write_lerobot(dataset, tmp_path / "out")
    with pytest.raises(RwmError, match="exists already"):
        write_lerobot(dataset, folder)
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text("{")
    with pytest.raises(RwmError, match=r"is not a LeRobot dataset: meta/info.json"):
        convert(home, [folder], "b")
    with pytest.raises(RwmError, match="converted one at a time"):
        convert(home, [folder, folder], "b")
    for change, message in (
        ({"fps": 30}, "has 30 frames a second; ANYmal D runs at 50"),
        ({"codebase_version": "v1.6"}, r"is a LeRobot dataset v1.6; v2.0 and v2.1 and v3.0 are read"),
        ({"features": None}, "info.json cannot be read: features: Input should be an object"),
    ):
        (folder / "meta/info.json").write_text(json.dumps(info | change))
        with pytest.raises(RwmError, match=message):
            convert(home, [folder], "b")
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "data/chunk-000/file-000.parquet").write_bytes(b"no")
    with pytest.raises(RwmError, match="file-000.parquet cannot be read"):
        convert(home, [folder], "b")
    assert [d.name for d in home.datasets()] == ["a"]
