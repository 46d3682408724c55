from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from rwmdata import atomic, catalog, mapped_rows
from rwmdata import writer as writer_module
from rwmdata.catalog import Dataset, checksum
from rwmdata.episodes import Episode, read_episodes
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.machine import place
from rwmdata.manifest import RunningStatistics, split_episodes
from rwmdata.validate import validate
from rwmdata.writer import DatasetWriter


def random_rows(schema, count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, schema.width)).astype(np.float32)
    rows[:, schema.contact] = rows[:, schema.contact] > 0
    rows[:, -1] = 0
    return rows


def writer_of(home, schema, name="set", **options):
    return DatasetWriter(home.data_dir, name, "anymal_d", schema, 50.0, {"source": "test"}, **options)


@pytest.fixture
def rows(schema):
    rows = random_rows(schema, 100)
    rows[29, -1] = 1
    return rows


@pytest.fixture
def dataset(home, schema, rows):
    with writer_of(home, schema, rows_per_shard=40) as writer:
        writer.append(Episode(rows[:30], truncated=False, command=np.ones((30, 3)), behaviour="trot"))
        writer.append(Episode(rows[30:90], truncated=True, reward=np.arange(60)))
        writer.append(Episode(rows[90:], truncated=True, behaviour="random"))
        return writer.commit()


def test_rows_come_back_bit_for_bit_across_shards(dataset, rows):
    assert len(dataset.shard_paths) == 2
    np.testing.assert_array_equal(dataset.matrix(), rows)


def test_manifest_bounds_episodes_and_checksums(dataset):
    np.testing.assert_array_equal(dataset.episodes.start, [0, 30, 90])
    np.testing.assert_array_equal(dataset.episodes.length, [30, 60, 10])
    np.testing.assert_array_equal(dataset.episodes.terminated, [True, False, False])
    for path, shard in zip(dataset.shard_paths, dataset.manifest.shards, strict=True):
        assert checksum(path) == shard.sha256


def test_anyone_can_read_the_parquet(dataset):
    frame = dataset.scan().collect()
    assert frame["episode"].to_list() == [0] * 30 + [1] * 60 + [2] * 10
    assert frame["step"].to_list() == [*range(30), *range(60), *range(10)]
    assert frame.filter(pl.col("terminated"))["step"].to_list() == [29]
    assert frame.filter(pl.col("truncated")).select("episode", "step").rows() == [(1, 59), (2, 9)]
    assert frame["command_lin_vel_x"].null_count() == 70
    assert frame["reward"][30:90].to_list() == list(range(60))
    assert set(frame["behaviour"].to_list()) == {"trot", None, "random"}


def test_statistics_equal_numpy(dataset, rows):
    np.testing.assert_allclose([c.mean for c in dataset.manifest.columns], rows[:, :-1].mean(0, np.float64), atol=1e-12)
    np.testing.assert_allclose([c.std for c in dataset.manifest.columns], rows[:, :-1].std(0, np.float64), atol=1e-12)
    assert dataset.manifest.columns[0].max == rows[:, 0].max()


def test_running_statistics_of_uneven_parts_equal_one_pass():
    x = np.random.default_rng(1).normal(3, 2, size=(1000, 4))
    stats = RunningStatistics(4)
    for part in np.split(x, [1, 7, 500]):
        stats.update(part)
    np.testing.assert_allclose(stats.mean, x.mean(0))
    np.testing.assert_allclose(stats.std, x.std(0))


def test_fitted_normalizer_never_divides_by_zero(home, schema, rows):
    rows[:, 3] = 7.0
    with writer_of(home, schema) as writer:
        writer.append(Episode(rows, truncated=True))
        dataset = writer.commit()
    mean, std = dataset.normalizer("fitted")
    assert mean[3] == 7.0 and std[3] == 1.0
    assert std[0] == pytest.approx(rows[:, 0].std(), rel=1e-5)
    assert dataset.normalizer("auto")[1][0] == pytest.approx(0.5)


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (100, (80, 10, 10))])
def test_splits_are_whole_disjoint_episodes(count, sizes):
    splits = split_episodes(count, seed=3)
    assert tuple(len(splits[s]) for s in ("train", "val", "test")) == sizes
    assert sorted(i for ids in splits.values() for i in ids) == list(range(count))


def test_an_uncommitted_dataset_is_invisible_and_leaves_nothing(home, schema, rows):
    with pytest.raises(ZeroDivisionError), writer_of(home, schema, rows_per_shard=10) as writer:
        writer.append(Episode(rows, truncated=True))
        raise ZeroDivisionError
    assert home.datasets() == []
    assert list(home.data_dir.iterdir()) == []


def test_a_taken_name_is_refused(home, schema, dataset):
    with pytest.raises(RwmError, match="'set' exists already"):
        writer_of(home, schema)


def test_a_name_that_is_being_written_is_refused_until_its_writer_is_done(home, schema, rows):
    with writer_of(home, schema) as first:
        first.append(Episode(rows[:10], truncated=True))
        with pytest.raises(RwmError, match=rf"'set' is being written by .* \(number {os.getpid()} on .+\)"):
            writer_of(home, schema).__enter__()
    with writer_of(home, schema) as second:
        second.append(Episode(rows, truncated=True))
        second.commit()
    assert home.dataset("set").rows == len(rows)
    assert [p.name for p in home.data_dir.iterdir()] == ["set"]


def test_without_locks_the_first_to_commit_wins(home, schema, rows, monkeypatch):
    monkeypatch.setattr(atomic, "exclusive", lambda *_: nullcontext())
    with writer_of(home, schema) as first:
        monkeypatch.setattr(atomic, "place", lambda: "01234567")
        second = writer_of(home, schema).__enter__()
        first.append(Episode(rows[:10], truncated=True))
        second.append(Episode(rows, truncated=True))
        first.commit()
        with pytest.raises(RwmError, match="exists already"):
            second.commit()
        second.__exit__()
    assert home.dataset("set").rows == 10


def write_after(gate, answers, root, schema, rows, number):
    gate.wait()
    try:
        with writer_of(Home(root), schema, rows_per_shard=10) as writer:
            for part in np.split(rows + np.float32(number), 10):
                writer.append(Episode(part, truncated=True))
            writer.commit()
        answers.put((number, "won"))
    except RwmError as exc:
        answers.put((number, exc.message))


def test_of_many_processes_one_writes_a_name_and_readers_see_it_whole_or_not_at_all(home, schema, rows):
    """Four writers of one name at once, while this process reads all the time."""
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(5), context.Queue()
    arguments = [(gate, answers, home.root, schema, rows, number) for number in range(4)]
    writers = [context.Process(target=write_after, args=a) for a in arguments]
    for process in writers:
        process.start()
    gate.wait()
    seen = 0
    while seen == 0 or any(process.is_alive() for process in writers):
        for found in home.datasets():
            seen += 1
            difference = (found.matrix() - rows)[:, :45]
            assert np.ptp(difference) < 1e-5 and round(float(difference.mean())) in range(4)
    said = dict(answers.get() for _ in writers)
    assert sorted(said.values()).count("won") == 1, said
    assert all(a == "won" or "is being written" in a or "exists already" in a for a in said.values())
    winner = next(number for number, answer in said.items() if answer == "won")
    np.testing.assert_allclose((home.dataset("set").matrix() - rows)[:, :45], winner, atol=1e-5)


def write_and_die(home, schema, rows):
    with writer_of(home, schema, "doomed", rows_per_shard=10) as writer:
        writer.append(Episode(rows, truncated=True))
        os.kill(os.getpid(), signal.SIGKILL)


def test_kill_while_writing_leaves_committed_data_alone(home, schema, rows, dataset):
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(home, schema, rows))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [d.name for d in home.datasets()] == ["set"]
    np.testing.assert_array_equal(home.dataset().matrix(), rows)


def test_non_finite_rows_are_refused_with_their_place(home, schema, rows):
    rows[4, 11] = np.nan
    with (
        writer_of(home, schema) as writer,
        pytest.raises(RwmError, match="Episode 0, row 4, column 'joint_pos_RF_HAA'"),
    ):
        writer.append(Episode(rows, truncated=True))


def test_half_written_shard_is_named(dataset):
    path = dataset.shard_paths[1]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RwmError, match="shard-00001.parquet is damaged or half-written"):
        dataset.matrix()


def test_missing_shard_is_named(dataset):
    dataset.shard_paths[0].unlink()
    with pytest.raises(RwmError, match="shard-00000.parquet is missing"):
        dataset.matrix()


def test_shard_of_other_length_is_named(dataset):
    dataset.shard_paths[1].write_bytes(dataset.shard_paths[0].read_bytes())
    with pytest.raises(RwmError, match="the manifest says 10"):
        dataset.matrix()


def test_damaged_manifest_is_named(dataset):
    (dataset.path / "dataset.json").write_text("{")
    with pytest.raises(RwmError, match="dataset.json is not a valid manifest"):
        Dataset.open(dataset.path)


def test_bad_names_and_empty_datasets_are_refused(home, schema):
    with pytest.raises(RwmError, match="not a dataset name"):
        writer_of(home, schema, "../evil")
    with writer_of(home, schema) as writer, pytest.raises(RwmError, match="no rows"):
        writer.commit()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 40, 59), (50, 50)])
def test_rows_of_any_memory_order_and_length_are_the_same_at_rest(home, schema, rows, order, lengths):
    whole = np.asarray(rows, order=order)
    with writer_of(home, schema, "any") as writer:
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            writer.append(Episode(whole[end - length : end], truncated=True))
        dataset = writer.commit()
    np.testing.assert_array_equal(dataset.matrix(), rows[: sum(lengths)])


def test_a_writer_clears_what_a_dead_one_left_of_its_own_name_only(home, schema, rows):
    gone = 2**22 + 1  # above the largest process number
    for name in ("set", "other-set"):
        (home.data_dir / f".tmp-{gone}-{place()}-{name}").mkdir(parents=True)
    with writer_of(home, schema) as writer:
        writer.append(Episode(rows, truncated=True))
        writer.commit()
    assert sorted(p.name for p in home.data_dir.iterdir()) == [f".tmp-{gone}-{place()}-other-set", "set"]


def change_a_byte(path):
    raw = bytearray(path.read_bytes())
    raw[50] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("spoil", [Path.unlink, change_a_byte])
def test_a_dataset_whose_shards_were_spoilt_while_it_was_made_is_not_committed(home, schema, rows, spoil):
    with writer_of(home, schema, rows_per_shard=10) as writer:
        for part in np.split(rows, 10):
            writer.append(Episode(part, truncated=True))
        for done in writer._writing:
            done.result()
        (building,) = home.data_dir.glob(".tmp-*")
        spoil(building / "shard-00003.parquet")
        with pytest.raises(RwmError, match=r"shard-00003.parquet is missing or changed .* 'set' was not committed"):
            writer.commit()
    assert list(home.data_dir.iterdir()) == []


def test_a_dataset_whose_folder_was_removed_while_it_was_made_does_not_make_it_anew(home, schema, rows):
    with writer_of(home, schema, rows_per_shard=10) as writer:
        (building,) = home.data_dir.glob(".tmp-*")
        shutil.rmtree(building)
        writer.append(Episode(rows, truncated=True))
        with pytest.raises(RwmError, match=r"Cannot write .*shard-00000.parquet: No such file"):
            writer.commit()
    assert list(home.data_dir.iterdir()) == []


def test_a_flipped_bit_in_a_shard_is_noticed_when_rows_are_read(home, schema, rows):
    with writer_of(home, schema) as writer:
        writer.append(Episode(rows, truncated=True))
        path = writer.commit().shard_paths[0]
    raw = path.read_bytes()
    for at in range(100, len(raw), len(raw) // 20):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        for read in (Dataset.matrix, Dataset.mapped_matrix, lambda dataset: list(read_episodes(dataset))):
            with pytest.raises(RwmError, match="shard-00000.parquet"):
                read(Dataset.open(path.parent))
    path.write_bytes(raw)
    np.testing.assert_array_equal(Dataset.open(path.parent).matrix(), rows)


def test_mapped_rows_that_were_damaged_are_made_again(dataset, rows, monkeypatch):
    monkeypatch.setattr(mapped_rows, "BLOCK_BYTES", 1024)
    dataset.mapped_matrix()
    file = dataset.path / "rows.f32"
    raw = bytearray(file.read_bytes())
    raw[5000] ^= 1
    file.write_bytes(raw)
    np.testing.assert_array_equal(dataset.mapped_matrix(), rows)
    made = file.stat().st_ino
    dataset.mapped_matrix()
    assert file.stat().st_ino == made


def test_mapped_rows_ask_for_their_room_before_they_are_written(dataset, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RwmError, match=r"Cannot write .*rows.f32: No space left"):
        dataset.mapped_matrix()
    assert not list(dataset.path.glob("*rows.f32*"))


def test_a_changed_number_in_a_manifest_is_noticed_when_rows_are_read(dataset, rows):
    file = dataset.path / "dataset.json"
    text = file.read_text()
    at = text.index('"control_hz": 50')
    file.write_text(text[:at] + text[at:].replace("50", "51", 1))
    changed = Dataset.open(dataset.path)
    for read in (Dataset.matrix, Dataset.mapped_matrix, lambda dataset: list(read_episodes(dataset))):
        with pytest.raises(RwmError, match="dataset.json has another checksum"):
            read(changed)
    assert [f.check for f in validate(changed)] == ["checksum"]
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if '"checksum"' not in line))
    np.testing.assert_array_equal(Dataset.open(dataset.path).matrix(), rows)


@pytest.fixture
def many_shards(home, schema, rows):
    with writer_of(home, schema, rows_per_shard=2) as writer:
        for at in range(0, 60, 2):
            writer.append(Episode(rows[at : at + 2], truncated=True))
        return writer.commit()


@pytest.mark.parametrize("read", [Dataset.matrix, lambda dataset: list(read_episodes(dataset))])
def test_every_shard_is_opened_once(many_shards, monkeypatch, read):
    """So the time to read a dataset is proportional to its shards: it is opened, parsed and named once."""
    calls = {"open": 0, "ParquetFile": 0, "__truediv__": 0}

    def counted(owner, name):
        usual = getattr(owner, name)

        def call(*words, **options):
            calls[name] += 1
            return usual(*words, **options)

        monkeypatch.setattr(owner, name, call)

    counted(Path, "open")
    counted(Path, "__truediv__")
    counted(pq, "ParquetFile")
    read(many_shards)
    assert calls["ParquetFile"] == 30
    assert 30 <= calls["open"] <= 33 and 30 <= calls["__truediv__"] <= 33  # The manifest is looked at too.


def test_rows_of_large_shards_are_read_group_by_group_and_the_same(many_shards, monkeypatch):
    expected = many_shards.matrix()
    monkeypatch.setattr(catalog, "SMALL_BYTES", 0)
    assert np.array_equal(Dataset.open(many_shards.path).matrix(), expected)


def test_a_long_episode_is_written_in_row_groups_and_is_the_same(home, schema, rows, monkeypatch):
    command, reward = np.arange(300, dtype=np.float32).reshape(100, 3), np.arange(100, dtype=np.float32)
    first = Episode(rows[:45], truncated=True, behaviour="a")
    parts = [first, Episode(rows, False, command, reward, "b"), Episode(rows[:7], True, behaviour="c")]
    frames = {}
    for group in (65_536, 20):
        monkeypatch.setattr(writer_module, "ROW_GROUP_ROWS", group)
        with writer_of(home, schema, f"groups-of-{group}") as writer:
            for part in parts:
                writer.append(part)
            made = writer.commit()
        frames[group] = made.scan().collect()
        whole = group > 152
        assert pq.read_metadata(made.shard_paths[0]).num_row_groups == (1 if whole else 8)
    assert frames[20].equals(frames[65_536])
    assert frames[20]["truncated"].arg_true().to_list() == [44, 151]
    assert frames[20]["step"].to_list() == [*range(45), *range(100), *range(7)]
    assert frames[20]["command_lin_vel_x"].to_list() == [None] * 45 + command[:, 0].tolist() + [None] * 7
