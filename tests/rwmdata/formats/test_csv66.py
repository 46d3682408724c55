from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from rwmdata.errors import RwmError
from rwmdata.formats import csv66
from rwmdata.formats.convert import convert
from rwmdata.formats.csv66 import write_csv
from rwmdata.formats.lerobot import write_lerobot
from rwmdata.schema import Schema


def write(path, rows):
    path.write_text("".join(",".join(repr(float(v)) for v in row) + "\n" for row in rows))
    return path


def cell(path, row, column, text):
    """Replace one cell, both counted from 1."""
    lines = path.read_text().splitlines()
    words = lines[row - 1].split(",")
    words[column - 1] = text
    lines[row - 1] = ",".join(words)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def recording(tmp_path, episodes):
    return write(tmp_path / "state_action_data_0.csv", np.concatenate(episodes(3, 40)))


def test_csv_to_catalog_to_csv_keeps_every_float32(home, tmp_path, make_dataset, episodes, schema):
    parts = episodes(5, 60)
    for rows in parts:
        rows[:, schema.state] *= np.float32(1) / 3
        rows[:, schema.group("joint_torque")] = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32) * 1e-7
    files = write_csv(make_dataset(parts), tmp_path / "out", rows_per_file=120)
    assert [f.name for f in files] == [f"state_action_data_{i}.csv" for i in range(3)]
    back = convert(home, [tmp_path / "out"], "back", episode_ends="none")
    np.testing.assert_array_equal(back.matrix(), np.concatenate(parts))
    again = write_csv(back, tmp_path / "again", rows_per_file=120)
    assert [f.read_bytes() for f in again] == [f.read_bytes() for f in files]


def test_ten_concatenated_episodes_are_separated_and_reported(home, tmp_path, episodes):
    write(tmp_path / "state_action_data_0.csv", np.concatenate(episodes(10, 100)))
    dataset = convert(home, [tmp_path], "ten")
    assert dataset.episodes.length.tolist() == [100] * 10
    (note,) = dataset.manifest.provenance["notes"]
    assert "9 unmarked episode ends found (row 101: an all-zero action" in note


@pytest.mark.parametrize(("ends", "lengths"), [("auto", [30, 30, 30]), ("file", [30, 60]), ("none", [90])])
def test_which_ends_count_is_the_users_choice(home, tmp_path, episodes, ends, lengths):
    first, second, third = episodes(3, 30)
    first[-1, -1] = 1
    file = write(tmp_path / "log.csv", np.concatenate([first, second, third]))
    dataset = convert(home, [file], "chosen", episode_ends=ends)
    assert dataset.episodes.length.tolist() == lengths


def test_files_of_a_folder_are_read_by_number_and_never_joined(home, tmp_path, episodes):
    parts = episodes(11, 10)
    for i, rows in enumerate(parts):
        write(tmp_path / f"state_action_data_{i}.csv", rows)
    dataset = convert(home, [tmp_path], "many", episode_ends="none")
    np.testing.assert_array_equal(dataset.matrix(), np.concatenate(parts))
    assert len(dataset.episodes) == 11


def test_gzip_is_read(home, tmp_path, recording):
    packed = tmp_path / "state_action_data_1.csv.gz"
    packed.write_bytes(gzip.compress(recording.read_bytes()))
    plain, zipped = (convert(home, [f], n).matrix() for f, n in ((recording, "plain"), (packed, "zipped")))
    np.testing.assert_array_equal(plain, zipped)


def drop_column(path):
    path.write_text("\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_column, "row 1 has 65 columns, expected 66"),
        (lambda p: cell(p, 7, 3, "fast"), "row 7, column 3 (base_lin_vel_z) is 'fast', expected a finite number"),
        (lambda p: cell(p, 7, 3, ""), "row 7, column 3 (base_lin_vel_z) is '', expected a finite number"),
        (lambda p: cell(p, 2, 46, "nan"), "row 2, column 46 (action_LF_HAA) is 'nan', expected a finite number"),
        (lambda p: cell(p, 120, 1, "inf"), "row 120, column 1 (base_lin_vel_x) is 'inf'"),
        (lambda p: cell(p, 5, 58, "0.5"), "row 5, column 58 (thigh_contact_LF) is '0.5', expected 0 or 1"),
        (lambda p: cell(p, 5, 66, "2"), "row 5, column 66 (terminated) is '2.0', expected 0 or 1"),
        (lambda p: p.write_text(""), "is empty; expected rows of 66 numbers"),
        (lambda p: cell(p, 9, 66, "0,0"), "row 9 has 67 columns, expected 66"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00" * 50), "state_action_data_0.csv"),
        (Path.unlink, "There is no file or folder"),
    ],
)
def test_bad_files_are_refused_with_file_row_and_column(home, recording, damage, message):
    damage(recording)
    with pytest.raises(RwmError) as caught:
        convert(home, [recording], "bad")
    assert message in caught.value.message and recording.name in caught.value.message
    assert home.datasets() == []


def test_all_faults_of_a_file_are_collected(home, recording):
    for row in (3, 4, 5, 6, 7, 8, 9):
        cell(recording, row, 1, "nan")
    with pytest.raises(RwmError, match=r"row 3.*row 7.*and 2 more"):
        convert(home, [recording], "bad")


def test_a_folder_without_recordings_and_a_used_output_folder_are_refused(home, tmp_path, make_dataset, episodes):
    with pytest.raises(RwmError, match="holds no state_action_data_N.csv"):
        convert(home, [tmp_path], "none")
    dataset = make_dataset(episodes(1, 20))
    write_csv(dataset, tmp_path / "out")
    with pytest.raises(RwmError, match="holds state_action_data files already"):
        write_csv(dataset, tmp_path / "out")


@pytest.mark.parametrize("ends", ["auto", "file", "none"])
@pytest.mark.parametrize("block", [900, 5_000, 70_000])
def test_reading_in_pieces_changes_nothing(home, tmp_path, episodes, monkeypatch, ends, block):
    """Episode ends at, before and behind the border of a piece are the same as in one piece."""
    rows = np.concatenate(episodes(6, 37))
    rows[36, -1] = rows[73, -1] = 1
    file = tmp_path / "state_action_data_0.csv"
    np.savetxt(file, rows, fmt="%.9g", delimiter=",")
    whole = convert(home, [file], "whole", episode_ends=ends)
    monkeypatch.setattr(csv66, "BLOCK_BYTES", block)
    assert len(list(csv66.read_blocks(file, whole.schema))) > (1 if block < 70_000 else 0)
    pieces = convert(home, [file], "pieces", episode_ends=ends)
    assert np.array_equal(pieces.matrix(), whole.matrix())
    assert pieces.episodes.start.tolist() == whole.episodes.start.tolist()
    notes = [note.replace("pieces", "whole") for note in pieces.manifest.provenance["notes"]]
    assert notes == whole.manifest.provenance["notes"]


def test_extension_columns_come_in_and_go_out(home, robot, tmp_path, episodes):
    wide = Schema.from_robot(robot, ["height", "slope"])
    (narrow,) = episodes(1, 30)
    rows = np.insert(narrow, [57, 57], [0.25, -1.5], axis=1)
    file = write(tmp_path / "state_action_data_0.csv", rows)
    with pytest.raises(RwmError, match=r"row 1 has 68 columns, expected 66 .*--extension for additional columns"):
        convert(home, [file], "narrow")
    dataset = convert(home, [file], "wide", extension=["height", "slope"])
    assert dataset.schema == wide and dataset.schema.names[57:59] == ("extension_height", "extension_slope")
    np.testing.assert_array_equal(dataset.matrix()[:, wide.extension], [[0.25, -1.5]] * 30)
    assert write_csv(dataset, tmp_path / "out")[0].read_text().count(",") == 30 * 67
    folder = write_lerobot(dataset, tmp_path / "lerobot")
    np.testing.assert_array_equal(convert(home, [folder], "back").matrix(), rows)


def test_a_header_is_recognised(home, schema, recording):
    recording.write_text(",".join(schema.csv_names) + "\n" + recording.read_text())
    with pytest.raises(RwmError, match=r"row 1 is a header.*--infer"):
        convert(home, [recording], "x")


def test_windows_line_ends_are_read_and_empty_lines_refused(home, recording):
    plain = convert(home, [recording], "plain").matrix()
    text = recording.read_text()
    recording.write_bytes(text.replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(convert(home, [recording], "windows").matrix(), plain)
    recording.write_text(text.replace("\n", "\n\n", 1))
    with pytest.raises(RwmError, match="row 2 has 1 columns, expected 66"):
        convert(home, [recording], "x")


def test_a_fault_in_a_later_piece_is_named_by_its_own_row(home, tmp_path, episodes, monkeypatch):
    rows = np.concatenate(episodes(2, 40))
    rows[70, 60] = 0.5
    file = tmp_path / "state_action_data_0.csv"
    np.savetxt(file, rows, fmt="%.9g", delimiter=",")
    monkeypatch.setattr(csv66, "BLOCK_BYTES", 5_000)
    with pytest.raises(RwmError, match=r"row 71, column 61 \(thigh_contact_RH\) is '0.5', expected 0 or 1"):
        convert(home, [file], "x")
    assert home.datasets() == []


def test_a_damaged_archive_is_named(home, tmp_path, recording):
    packed = tmp_path / "state_action_data_1.csv.xz"
    packed.write_bytes(lzma.compress(recording.read_bytes())[:-200] + bytes(200))
    with pytest.raises(RwmError, match=r"csv\.xz"):
        convert(home, [packed], "x")
