from __future__ import annotations

import errno
import os
from importlib import import_module

import numpy as np
import pytest

from rwmdata.alignment import check_alignment
from rwmdata.catalog import Dataset
from rwmdata.motion import agreement, agreements
from rwmdata.validate import validate

checks = import_module("rwmdata.validate")  # The package has a function of that name.


@pytest.fixture
def parts(episodes):
    return episodes(6, 200)


def found(dataset):
    return {(f.severity, f.check) for f in validate(dataset)}


def errors(dataset):
    return [f for f in validate(dataset) if f.severity == "error"]


def test_a_sound_dataset_has_no_error(make_dataset, parts):
    assert errors(make_dataset(parts)) == []


def test_every_fault_is_told_at_once(make_dataset, parts, schema):
    parts[0][5, schema.group("projected_gravity")] *= 1.1
    parts[1][7, schema.contact.start] = 0.5
    parts[2][9, -1] = 1
    parts[3][100:] = parts[4][:100]
    faults = errors(make_dataset(parts))
    by_check = {f.check: f for f in faults}
    assert by_check["gravity"].where == "row 5" and "1.1000" in by_check["gravity"].message
    assert by_check["contact"].where == "row 207, column thigh_contact_LF"
    assert by_check["termination"].where == "row 409"
    assert {f.where for f in faults if f.check == "splice"} == {"row 410", "row 700"}


def test_a_changed_truncated_or_missing_shard_is_named(make_dataset, parts):
    dataset = make_dataset(parts)
    shard = dataset.shard_paths[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert ("error", "checksum") in found(dataset)
    shard.write_bytes(whole[: len(whole) // 2])
    assert found(dataset) == {("error", "checksum"), ("error", "shard")}
    shard.unlink()
    (fault,) = validate(dataset)
    assert (fault.where, fault.message) == ("shard-00000.parquet", "the file is missing")


def test_a_shard_that_cannot_be_read_is_named(make_dataset, parts, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    dataset = make_dataset(parts)
    monkeypatch.setattr(checks, "checksum", refused)
    (fault,) = validate(dataset)
    assert (fault.where, fault.message) == ("shard-00000.parquet", "cannot be read: Permission denied")


def test_a_manifest_that_disagrees_is_an_error(make_dataset, parts):
    dataset = make_dataset(parts)
    wrong = dataset.manifest.model_copy(deep=True)
    wrong.episodes.length[0], wrong.episodes.length[1], wrong.episodes.start[1] = 150, 250, 150
    wrong.splits["train"] = wrong.splits["train"][1:]
    checks = found(Dataset(dataset.path, wrong))
    assert {("error", "episodes"), ("error", "splits")} <= checks


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shifted_action_column_is_caught_with_its_fix(make_dataset, parts, schema, shift):
    for rows in parts:
        rows[1:-1, schema.action] = np.roll(rows[:, schema.action], shift, axis=0)[1:-1]
    (fault,) = [f for f in validate(make_dataset(parts)) if f.check == "alignment"]
    assert fault.severity == "warning" and f"shift the action columns by {-shift}" in fault.message
    assert f"action_index: {'previous' if shift > 0 else 'next'} in its mapping" in fault.message


def test_the_right_alignment_explains_most(make_dataset, parts):
    dataset = make_dataset(parts)
    result = check_alignment(dataset, dataset.matrix())
    assert result.best == 0 and result.aligned
    assert result.explained[0] > max(result.explained[1], result.explained[-1]) + 0.1


def test_alignment_says_nothing_without_actions(make_dataset, parts, schema):
    for rows in parts:
        rows[:, schema.action] = 0
    dataset = make_dataset(parts)
    assert check_alignment(dataset, dataset.matrix()) is None


def test_a_long_episode_is_checked_in_pieces_from_all_over_it(make_dataset, episodes, schema, monkeypatch):
    dataset = make_dataset(episodes(1, 1000))
    matrix = dataset.matrix()
    monkeypatch.setattr(checks, "PIECE_ROWS", 40)
    ((rows, length),) = checks._examples(dataset, matrix)
    assert np.array_equal(rows, matrix) and length.tolist() == [40] * 25
    monkeypatch.setattr(checks, "EXAMPLE_ROWS", 200)
    ((rows, length),) = checks._examples(dataset, matrix)
    assert np.array_equal(rows, np.concatenate([matrix[k : k + 40] for k in range(0, 1000, 200)]))
    assert length.tolist() == [40] * 5


def test_episodes_that_are_short_are_checked_whole(make_dataset, episodes):
    dataset = make_dataset(episodes(3, 30))
    ((rows, length),) = checks._examples(dataset, dataset.matrix())
    assert len(rows) == 90 and length.tolist() == [30] * 3


def test_agreements_are_those_of_each_column():
    change, rate = np.random.default_rng(0).normal(size=(2, 300, 3)) + 1
    for j, found in enumerate(agreements(change, rate, 0.5)):
        alone = agreement(change[:, [j]], rate[:, [j]], 0.5)
        assert vars(found) == pytest.approx(vars(alone), rel=1e-12)
