"""Of the files named, recordings are read, each once; leftovers of other programs are not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil

import numpy as np
import polars as pl
import pytest

from rwmdata.edit import merge, split_anew
from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.formats.files import HEAD_BYTES, without_copies, without_leftovers

LEFT = ("._state_action_data_1.csv", ".~lock.a.csv#", "a.csv~", "a.csv.part", ".DS_Store", "~$a.csv", ".a.csv.swp")


@pytest.fixture
def folder(tmp_path, episodes):
    """Two recordings of 30 rows."""
    inside = tmp_path / "recordings [1]"
    inside.mkdir()
    for k, rows in enumerate(episodes(2, 30)):
        pl.DataFrame(rows).write_csv(inside / f"state_action_data_{k}.csv", include_header=False)
    return inside


@pytest.fixture
def rows(home, folder):
    return convert(home, [folder], "plain").matrix()


def notes_of(dataset):
    return " | ".join(dataset.manifest.provenance["notes"])


def test_a_folder_from_elsewhere_gives_its_recordings_once(home, folder, rows):
    for name in ("old_state_action_data_1.csv", "state_action_data_1.csv.bak", "state_action_data_1 (1).csv", *LEFT):
        (folder / name).write_bytes(b"\0\5\26\7")
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "state_action_data_0.csv", folder / ".ipynb_checkpoints" / "state_action_data_7.csv")
    (folder / "state_action_data_9.csv").mkdir()
    packed = gzip.compress((folder / "state_action_data_1.csv").read_bytes())
    (folder / "state_action_data_1.csv.gz").write_bytes(packed)
    dataset = convert(home, [folder], "a")
    np.testing.assert_array_equal(dataset.matrix(), rows)
    assert dataset.manifest.provenance["files"] == ["state_action_data_0.csv", "state_action_data_1.csv"]
    notes = notes_of(dataset)
    assert "state_action_data_1.csv.gz is not read: it has the content of state_action_data_1.csv" in notes
    assert "recordings [1]: not read: .DS_Store, ._state_action_data_1.csv, .a.csv.swp" in notes and "5 more" in notes


def test_one_number_with_two_contents_is_refused(home, folder):
    (folder / "state_action_data_1.csv.gz").write_bytes(gzip.compress(b"1,2\n"))
    with pytest.raises(RwmError, match=r"data_1.csv and .*data_1.csv.gz have one number and different contents"):
        convert(home, [folder], "a")


def test_files_that_are_named_are_read_once_and_without_leftovers(home, folder, rows, tmp_path):
    first, second = folder / "state_action_data_0.csv", folder / "state_action_data_1.csv"
    copy, left = tmp_path / "old.csv", folder / "._state_action_data_0.csv"
    shutil.copy(first, copy)
    left.write_bytes(b"\0\5\26\7")
    dataset = convert(home, [first, left, second, copy, second], "a")
    np.testing.assert_array_equal(dataset.matrix(), rows)
    notes = notes_of(dataset)
    assert "not read, left by another program: ._state_action_data_0.csv" in notes
    assert "old.csv is not read: it has the content of state_action_data_0.csv" in notes
    with pytest.raises(RwmError, match="no recording among the files named"):
        convert(home, [left], "b")


def test_names_of_leftovers(tmp_path):
    kept, notes = without_leftovers([tmp_path / name for name in (*LEFT, "a.csv", ".walk.csv", "a~b.csv", "temp.csv")])
    assert [file.name for file in kept] == ["a.csv", ".walk.csv", "a~b.csv", "temp.csv"]
    assert notes[0].endswith("and 2 more")


def test_files_with_the_same_beginning_are_no_copies(tmp_path):
    files = [tmp_path / str(k) for k in range(3)]
    for file, end in zip(files, (b"x", b"y", b"x"), strict=True):
        file.write_bytes(b"a" * HEAD_BYTES + end)
    missing, unreadable = tmp_path / "missing", tmp_path / "a.gz"
    unreadable.write_bytes(b"no")
    kept, notes = without_copies([*files, missing, unreadable])
    assert kept == [*files[:2], missing, unreadable] and notes == ["2 is not read: it has the content of 0"]


def test_datasets_with_the_same_rows_are_not_merged(home, make_dataset, episodes):
    first, other = make_dataset(episodes(4, 30), "a"), make_dataset(episodes(3, 20), "b")
    again = split_anew(home, first, "again", {"train": 0.5, "val": 0.5})
    for sources in ([first, other, first], [other, first, again]):
        with pytest.raises(RwmError, match="hold the same rows"):
            merge(home, sources, "c")
    assert merge(home, [first, other], "c").rows == 180


def test_a_packed_copy_is_a_copy_however_packed(tmp_path):
    files = [tmp_path / "a.csv", tmp_path / "a.csv.xz", tmp_path / "b.csv.bz2"]
    for file, pack in zip(files, (bytes, lzma.compress, bz2.compress), strict=True):
        file.write_bytes(pack(b"a,b\n1,2\n"))
    assert without_copies(files)[0] == files[:1]
