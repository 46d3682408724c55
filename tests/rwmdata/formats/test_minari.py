"""Minari out: what the minari package loads is what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.formats import minari as minari_format
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
