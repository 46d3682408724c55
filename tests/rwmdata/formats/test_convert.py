"""Sources of any format become a dataset; which format it is shows in the sources themselves."""

from __future__ import annotations

import numpy as np
import pytest

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.formats import convert as convert_module
from rwmdata.formats.base import Format
from rwmdata.formats.convert import convert


class NumpyFormat(Format):
    """Arrays of rows, an episode a file: all it takes to add a format."""

    label = "NumPy"

    @classmethod
    def sniff(cls, source, mapped):
        return source.suffix == ".npy"

    def read(self, file):
        self.notes.append(f"read {file.name}")
        yield Episode(np.load(file), truncated=True, behaviour="trot")


@pytest.fixture
def files(tmp_path, episodes, monkeypatch):
    monkeypatch.setattr(convert_module, "FORMATS", [NumpyFormat, *convert_module.FORMATS])
    paths = [tmp_path / f"{k}.npy" for k in range(2)]
    for path, rows in zip(paths, episodes(2, 30), strict=True):
        np.save(path, rows)
    return paths


def test_a_new_format_takes_one_class(home, files):
    seen = []
    dataset = convert(home, files, "a", progress=lambda *news: seen.append(news))
    np.testing.assert_array_equal(dataset.matrix(), np.concatenate([np.load(f) for f in files]))
    assert dataset.episodes.behaviour == ["trot", "trot"]
    origin = dataset.manifest.provenance
    assert (origin["source"], origin["files"]) == ("rwm data convert", ["0.npy", "1.npy"])
    assert origin["notes"][:2] == ["read 0.npy", "read 1.npy"] and "training window" in origin["notes"][2]
    assert seen == [(1, 2, {"rows": 30.0}), (2, 2, {"rows": 60.0})]


def test_sources_of_several_formats_are_refused(home, files, tmp_path):
    with pytest.raises(RwmError, match="CSV and NumPy files cannot be mixed in one dataset"):
        convert(home, [*files, tmp_path / "a.csv"], "a")
    with pytest.raises(RwmError, match="CSV and HDF5 files cannot be mixed"):
        convert(home, [tmp_path / "a.csv", tmp_path / "a.hdf5"], "a")
    assert home.datasets() == []
