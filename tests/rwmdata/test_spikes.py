"""One impossible value is named by column and row, and cut out of a dataset; a robot that rarely moves has none."""

from __future__ import annotations

import numpy as np
import pytest

from rwmdata.edit import filter_episodes, split_anew
from rwmdata.episodes import Episode
from rwmdata.spikes import far_spikes
from rwmdata.validate import glance, validate
from rwmdata.writer import DatasetWriter

ROW = 250
"""Row 50 of the second of four episodes."""


@pytest.fixture
def spiked(make_dataset, schema, episodes):
    """Make a dataset in which ``column`` of row ``ROW`` has another value."""

    def make(column, value, name="set"):
        parts = episodes(4, 200)
        for rows in parts:
            rows[:, schema.group("joint_torque")] = np.random.default_rng(0).normal(size=(200, 12))
        parts[1][50, schema.names.index(column)] = value
        return make_dataset(parts, name)

    return make


def spikes(dataset):
    return [(f.severity, f.where) for f in validate(dataset) if f.check == "spike"]


@pytest.mark.parametrize("value", [65535, -32768, 1e30, -3.4e38])
@pytest.mark.parametrize("column", ["joint_vel_LF_HAA", "base_lin_vel_x", "action_RH_KFE"])
def test_a_value_of_another_world_is_an_error_and_nothing_else(spiked, column, value):
    dataset = spiked(column, value)
    (far,) = far_spikes(dataset)
    assert (far.column, far.rows.tolist(), far.value) == (column, [ROW], pytest.approx(value))
    assert str(far) == str(far_spikes(dataset, dataset.matrix())[0])
    assert spikes(dataset) == [("error", f"row {ROW}, column {column}")]
    assert not [f for f in validate(dataset) if f.check in ("splice", "integral", "alignment")]
    assert [f.where for f in glance(dataset) if f.check == "spike"] == [f"row {ROW}, column {column}"]


def test_a_row_that_stands_out_from_its_neighbours_is_warned_of(spiked):
    assert spikes(spiked("base_lin_vel_x", 2.0)) == [("warning", f"row {ROW}, column base_lin_vel_x")]
    assert spikes(spiked("joint_pos_LF_HAA", 3.0, "b")) == [("warning", f"row {ROW}, column joint_pos_LF_HAA")]


def test_sound_data_has_no_spikes_and_is_not_read(spiked, monkeypatch):
    dataset = spiked("base_lin_vel_x", 0.01)
    assert spikes(dataset) == [] == glance(dataset)
    monkeypatch.setattr("rwmdata.spikes._read_column", None)
    assert far_spikes(dataset) == []


def test_a_robot_that_stands_and_once_walks_has_no_spikes(make_dataset, schema):
    rows = np.zeros((3000, schema.width), np.float32)
    rows[:, 8] = -1
    walk = np.sin(np.arange(25) / 4)
    rows[100:125, 0], rows[100:125, schema.group("joint_vel").start] = walk, 8 * walk
    assert far_spikes(make_dataset([rows])) == []


def test_spikes_are_cut_out(home, spiked):
    source = spiked("joint_vel_LF_HAA", 65535)
    cut = filter_episodes(home, source, "true", "cut", cut_spikes=True)
    assert cut.episodes.length.tolist() == [200, 50, 149, 200, 200] and far_spikes(cut) == []
    np.testing.assert_array_equal(cut.matrix(), np.delete(source.matrix(), ROW, axis=0))
    (note,) = cut.manifest.provenance["notes"]
    assert note.startswith(
        "1 rows were left out, episodes cut there: joint_vel_LF_HAA is 6.554e+04, and usually between"
    )


def test_groups_that_were_not_recorded_stay_known(home, schema, episodes):
    with DatasetWriter(home.data_dir, "set", "anymal_d", schema, 50.0, {"missing_groups": ["termination"]}) as writer:
        for rows in episodes(4, 60):
            writer.append(Episode(rows, truncated=True))
        source = writer.commit()
    made = [filter_episodes(home, source, "true", "kept"), split_anew(home, source, "anew", {"train": 1.0})]
    assert [d.manifest.provenance["missing_groups"] for d in made] == [["termination"]] * 2


def test_noise_of_an_accelerometer_is_no_episode(make_dataset, schema, episodes):
    rng, parts = np.random.default_rng(0), episodes(4, 200)
    for rows in parts:
        noisy = rows[:, 6:9] + rng.normal(0, 0.15, (200, 3))
        rows[:, 6:9] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    faults = [f for f in validate(make_dataset(parts)) if f.check in ("splice", "gravity")]
    assert [(f.severity, "noise, or an accelerometer" in f.message) for f in faults] == [("warning", True)]
