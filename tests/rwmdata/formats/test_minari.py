"""Minari out and in: what the minari package loads is what was recorded, and what it wrote is read."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.formats import minari as minari_format
from rwmdata.formats.convert import convert
from rwmdata.formats.minari import datasets_root, write_minari

minari = pytest.importorskip("minari")


@pytest.fixture
def dataset(make_dataset, episodes):
    rows = episodes(4, 20)
    for k, episode in enumerate(rows):
        episode[-1, -1] = k % 2
    whole = [Episode(e, k % 2 == 0, e[:, :3], np.arange(20.0), "expert") for k, e in enumerate(rows)]
    return make_dataset([*whole, Episode(rows[-1][:1], True)], "a.b")


@pytest.mark.parametrize("at_once", [2, 64])
def test_minari_loads_every_step(dataset, schema, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(minari_format, "EPISODES_AT_ONCE", at_once)
    name = write_minari(dataset, tmp_path / "minari")
    assert name == "anymal_d-a-b-v0" and [p.name for p in (tmp_path / "minari").iterdir()] == [name]
    with datasets_root(tmp_path / "minari"):
        loaded = minari.load_dataset(name)
    assert (loaded.total_episodes, loaded.total_steps) == (4, 4 * 19)
    sizes = {key: space.shape for key, space in loaded.observation_space.items()}
    assert sizes == {"state": (45,), "command": (3,), "contact": (8,)} and loaded.action_space.shape == (12,)
    assert loaded.storage.metadata["algorithm_name"] == "expert"
    rows = dataset.matrix()[:80].reshape(4, 20, -1)
    for k, episode in enumerate(loaded.iterate_episodes()):
        np.testing.assert_array_equal(episode.observations["state"], rows[k, :, schema.state])
        np.testing.assert_array_equal(episode.observations["contact"], rows[k, :, schema.contact])
        np.testing.assert_array_equal(episode.observations["command"], rows[k, :, :3])
        np.testing.assert_array_equal(episode.actions, rows[k, 1:, schema.action])
        assert episode.rewards.tolist() == list(range(1, 20))
        assert episode.terminations.tolist() == [False] * 18 + [k % 2 == 1]
        assert episode.truncations.tolist() == [False] * 18 + [k % 2 == 0]


def test_what_was_not_recorded_comes_back_as_not_recorded(home, make_dataset, episodes, tmp_path):
    plain = make_dataset(episodes(2, 20), "plain")
    back = convert(home, [tmp_path / "minari" / write_minari(plain, tmp_path / "minari")], "back")
    unknown = back.scan().select("command_lin_vel_x", "reward").collect()
    assert unknown.null_count().row(0) == (40, 40)


def test_a_folder_may_be_named_from_where_one_is(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = write_minari(dataset, Path("minari"))
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("minari/*/*")] == [f"minari/{name}/data"]


def test_what_is_there_is_not_replaced_and_nothing_is_left_of_a_failure(dataset, tmp_path, monkeypatch):
    write_minari(dataset, tmp_path / "minari")
    with pytest.raises(RwmError, match="exists already"):
        write_minari(dataset, tmp_path / "minari")

    def full(*_, **__):
        raise OSError(28, "No space left")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", full)
    with pytest.raises(RwmError, match="No space left"):
        write_minari(dataset, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.fixture
def folder(dataset, tmp_path):
    return tmp_path / "minari" / write_minari(dataset, tmp_path / "minari")


@pytest.fixture
def mapping(schema, tmp_path):
    """Write a mapping of the parts that other datasets might have, with changes."""

    def write(**changes):
        groups = {
            name: {"path": "observations/state", "columns": [schema.group(name).start, schema.group(name).stop]}
            for name in schema.groups[:6]
        }
        groups |= {"action": {"path": "actions"}, "termination": {"path": "terminations"}}
        said = {"groups": groups | changes.pop("groups", {}), "missing": ["thigh_contact", "foot_contact"], **changes}
        (tmp_path / "map.yaml").write_text(yaml.safe_dump(said))
        return tmp_path / "map.yaml"

    return write


def test_there_and_back_is_the_same_but_for_the_action_before_the_first_step(home, dataset, schema, folder):
    back = convert(home, [folder], "back")
    expected = dataset.matrix()[:80].copy()
    expected[::20, schema.action] = 0  # The last episode has one row, and no step.
    np.testing.assert_array_equal(back.matrix(), expected)
    names = ["command_lin_vel_x", "behaviour", "episode", "step", "terminated", "truncated"]
    first, second = (d.scan().select([*names, "reward"]).collect()[:80] for d in (dataset, back))
    assert first.select(names).equals(second.select(names)) and first["reward"].equals(second["reward"])
    assert "the action before the first step" in back.manifest.provenance["notes"][0]
    assert back.manifest.provenance["minari"]["dataset_id"] == "anymal_d-a-b-v0"


@pytest.mark.parametrize("action_index", ["next", "previous"])
def test_other_datasets_are_read_through_a_mapping(home, dataset, schema, folder, mapping, action_index):
    metadata = folder / "data" / "metadata.json"
    about = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(about | {"description": "walks"}))
    with pytest.raises(RwmError, match="does not come from rwm data write-minari; a mapping must say what it holds"):
        convert(home, [folder], "b")
    rows = convert(home, [folder], "b", mapping=mapping(action_index=action_index)).matrix()
    expected = dataset.matrix()[:80].copy()
    expected[::20, schema.action] = 0
    np.testing.assert_allclose(rows[:, schema.state], expected[:, schema.state], atol=1e-6)
    np.testing.assert_array_equal(rows[:, schema.action], expected[:, schema.action])
    np.testing.assert_array_equal(rows[:, -1], expected[:, -1])
    halved = convert(home, [folder], "c", mapping=mapping(rate_hz=100))
    assert halved.episodes.length.tolist() == [10] * 4


@pytest.mark.parametrize(("hz", "taken"), [(25, [0, 0, 1, 1, 2, 2]), (100, [0, 2, 4, 6, 8]), (75, [0, 1, 3, 4])])
def test_at_another_rate_actions_are_those_applied_from_the_row_before_on(home, schema, folder, mapping, hz, taken):
    """Step k is of the observation k and the action k, taken in it; so a row's action is that of the row before."""
    metadata = folder / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"description": "walks"}))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as content:
        for episode in content.values():
            episode["actions"][:] = np.arange(19)[:, None]
    rows = convert(home, [folder], "b", mapping=mapping(rate_hz=hz, check=False)).matrix()[:, schema.action.start]
    assert rows[: len(taken) + 1].tolist() == [0, *taken]


def test_a_rate_other_than_the_dataset_says_is_refused(home, folder, mapping):
    with pytest.raises(RwmError, match=r"rate_hz is 100, but data/metadata.json says 50 Hz") as caught:
        convert(home, [folder], "b", mapping=mapping(rate_hz=100))
    assert "check: false" in caught.value.hint
    assert convert(home, [folder], "b", mapping=mapping(rate_hz=100, check=False)).rows == 40


def test_what_is_not_readable_is_named(home, folder, mapping):
    metadata, data = folder / "data" / "metadata.json", folder / "data" / "main_data.hdf5"
    about = json.loads(metadata.read_text())
    with pytest.raises(RwmError, match="holds anymal_d at 50 Hz, not go2 at 50 Hz"):
        convert(home, [folder], "b", robot="go2")
    with pytest.raises(RwmError, match="'actions' of 'joint_pos' has 19 rows, expected 20, one an observation"):
        convert(home, [folder], "b", mapping=mapping(groups={"joint_pos": {"path": "actions"}}))
    for change, message in (({"total_episodes": 5}, "holds 4 episodes, data/metadata.json counts 5"),
                            ({"data_format": "arrow"}, "the data are arrow, expected hdf5")):  # fmt: skip
        metadata.write_text(json.dumps(about | change))
        with pytest.raises(RwmError, match=message):
            convert(home, [folder], "b")
    metadata.write_text(json.dumps(about))
    with h5py.File(data, "a") as content:
        del content["episode_2/rewards"]
    with pytest.raises(RwmError, match=r"main_data.hdf5, episode 2 has no array 'rewards'; it has actions, obs"):
        convert(home, [folder], "b")
    data.write_bytes(b"no")
    with pytest.raises(RwmError, match="cannot be read as HDF5"):
        convert(home, [folder], "b")
    metadata.write_text("[")
    with pytest.raises(RwmError, match=r"metadata.json cannot be read"):
        convert(home, [folder], "b")


def test_the_environment_a_dataset_names_is_not_made(home, folder, tmp_path):
    """With the package itself, reading a dataset without spaces imports and calls what the metadata name."""
    metadata = folder / "data" / "metadata.json"
    about = json.loads(metadata.read_text())
    for key in ("observation_space", "action_space"):
        del about[key]
    about["env_spec"] = json.dumps({"id": "x-v0", "entry_point": "pathlib:Path.touch"})
    metadata.write_text(json.dumps(about))
    assert convert(home, [folder], "b").rows == 80
