"""What a crash leaves behind is recognised, repaired or named, and what is whole is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from rwmdata import atomic
from rwmdata.atomic import TMP_MARK, commit_file
from rwmdata.episodes import Episode
from rwmdata.fsck import check_home, repair
from rwmdata.locks import exclusive
from rwmdata.machine import alive, place
from rwmdata.runs import Run
from rwmdata.writer import DatasetWriter
from rwmmodel.described_file import save_described


@pytest.fixture
def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def what(troubles):
    return [(t.path.name, t.what, bool(t.repair)) for t in troubles]


def test_a_whole_home_has_no_trouble(home, make_dataset, episodes):
    make_dataset(episodes(3, 20))
    Run.create(home, "model", {}, {}, 0).finish({})
    assert check_home(home) == []


def test_leftovers_of_dead_writers_are_removed_and_those_of_living_ones_kept(home, make_dataset, episodes, dead_pid):
    dataset = make_dataset(episodes(2, 20))
    for pid in (dead_pid, os.getpid()):
        (home.data_dir / f"{TMP_MARK}{pid}-{place()}-other").mkdir()
        (home.data_dir / f"{TMP_MARK}{pid}-{place()}-other" / "shard-00000.parquet").write_text("half")
    (dataset.path / f"{TMP_MARK}{dead_pid}-{place()}-dataset.json").write_text("half")
    troubles = check_home(home)
    assert len(troubles) == 2 and all("cut off" in t.what for t in troubles)
    assert len(repair(home, troubles)) == 2 and check_home(home) == []
    assert (home.data_dir / f"{TMP_MARK}{os.getpid()}-{place()}-other").is_dir() and dataset.matrix().shape[0] == 40


@pytest.fixture
def elsewhere(monkeypatch):
    """Let this process look at a home from another container: its process numbers mean nothing, its locks do."""
    monkeypatch.setattr(atomic, "place", lambda: "0e15e0e1")
    monkeypatch.setattr(atomic, "alive", lambda pid: False)


def aged(path, seconds):
    for part in (*path.rglob("*"), path):
        os.utime(part, (time.time() - seconds,) * 2)


def test_an_export_that_runs_in_another_container_is_left_alone(home, schema, episodes, monkeypatch):
    rows = episodes(3, 20)
    with DatasetWriter(home.data_dir, "set", "anymal_d", schema, 50.0, {}, rows_per_shard=20) as writer:
        for part in rows:
            writer.append(Episode(part, truncated=True))
            with monkeypatch.context() as seen:
                seen.setattr(atomic, "alive", lambda pid: False)  # Were its lock not enough, it would count as dead.
                (building,) = home.data_dir.glob(f"{TMP_MARK}*")
                aged(building, 5000)
                assert check_home(home) == [] and not atomic.abandoned(building)
        writer.commit()
    np.testing.assert_array_equal(home.dataset("set").matrix(), np.concatenate(rows))


@pytest.mark.parametrize(("seconds", "removed"), [(30, False), (2 * atomic.QUIET_S, True)])
def test_what_no_lock_guards_is_removed_from_elsewhere_only_when_old(home, elsewhere, seconds, removed):
    folder = home.data_dir / f"{TMP_MARK}1-01234567-set"
    (folder / "inner").mkdir(parents=True)
    aged(folder, seconds)
    assert [t.path for t in repair_all(home)] == [folder] * removed and folder.exists() is not removed


def repair_all(home):
    troubles = check_home(home)
    repair(home, troubles)
    return troubles


def test_files_that_are_being_written_elsewhere_are_left_alone(home, elsewhere):
    def write(path):
        path.write_text("half")
        aged(path, 5000)
        assert check_home(home) == []

    commit_file(home.data_dir / "rows.f32", write)
    assert (home.data_dir / "rows.f32").read_text() == "half"


def test_the_folder_of_a_user_is_no_leftover_whatever_it_is_called(home):
    for name in (f"{TMP_MARK}notes", f"{TMP_MARK}2024-walks", f"{TMP_MARK}1-walks"):
        (home.data_dir / name).mkdir(parents=True)
        aged(home.data_dir / name, 5000)
    assert check_home(home) == []


def test_a_dataset_with_the_mark_inside_its_name_is_listed(home, make_dataset, episodes):
    make_dataset(episodes(1, 20), name=f"walk{TMP_MARK}1")
    assert [d.name for d in home.datasets()] == [f"walk{TMP_MARK}1"]


def test_the_lock_of_a_dead_writer_is_removed_and_that_of_a_living_one_kept(home):
    home.data_dir.mkdir(parents=True)
    (home.data_dir / ".lock-dead").write_text("1 on another")
    with exclusive(home.data_dir / ".lock-living", "it", ""):
        assert [t.path.name for t in repair_all(home)] == [".lock-dead"]
        assert [p.name for p in home.data_dir.iterdir()] == [".lock-living"]


def test_damage_is_named_and_not_touched(home, make_dataset, episodes):
    broken, short, empty = (make_dataset(episodes(2, 20), name=n) for n in ("broken", "short", "empty"))
    data = bytearray(broken.shard_paths[0].read_bytes())
    data[100] ^= 1
    broken.shard_paths[0].write_bytes(data)
    short.shard_paths[0].unlink()
    (empty.path / "dataset.json").unlink()
    troubles = check_home(home)
    assert what(troubles) == [
        ("shard-00000.parquet", "has another checksum than when it was written", False),
        ("empty", "has no dataset.json, so it is not a dataset", False),
        ("shard-00000.parquet", "is missing", False),
    ]
    assert repair(home, troubles) == [] and len(check_home(home, deep=False)) == 2


def test_runs_whose_process_is_gone_are_marked_interrupted(home, dead_pid):
    dead, living, elsewhere = (Run.create(home, "model", {}, {}, 0) for _ in range(3))
    machine = dead.meta.machine
    dead.update(status="running", pid=dead_pid, place=place())
    living.update(status="running", pid=os.getpid(), place=place())
    elsewhere.update(status="running", pid=dead_pid, machine={**machine, "host": "another"})
    assert [r.status for r in (dead, living, elsewhere)] == ["gone", "running", "running"]
    troubles = check_home(home)
    assert what(troubles) == [("run.json", "says running, but its process is gone", True)]
    repair(home, troubles)
    assert Run.open(dead.path).meta.status == "interrupted" and Run.open(living.path).meta.status == "running"
    assert check_home(home) == []


def test_a_running_block_names_its_process(home):
    run = Run.create(home, "model", {}, {}, 0)
    with run.running():
        assert Run.open(run.path).meta.pid == os.getpid() and alive(os.getpid())
        run.finish({})


def test_a_run_that_is_silent_elsewhere_is_gone_unless_its_lock_is_held(home):
    run = Run.create(home, "model", {}, {}, 0)
    run.update(status="running", pid=1, place="01234567")
    assert not run.gone
    aged(run.path, 2 * atomic.QUIET_S)
    assert run.gone
    with exclusive(run.path / ".lock", "it", ""):
        aged(run.path, 2 * atomic.QUIET_S)
        assert not run.gone


def test_a_run_whose_process_is_gone_is_listed_as_such(home, rwm, dead_pid):
    Run.create(home, "model", {}, {}, 0).update(status="running", pid=dead_pid, place=place())
    assert json.loads(rwm("runs", "ls", "--json"))["runs"][0]["status"] == "gone" and " gone " in rwm("runs", "ls")
    assert json.loads(rwm("sql", "select status from runs", "--json"))["rows"] == [{"status": "gone"}]


def test_a_damaged_checkpoint_is_named_and_whole_ones_are_not(home):
    run = Run.create(home, "model", {}, {}, 0)
    save_described(run.model_file, torch.nn.Linear(4, 2), "about", {"format": "x"})
    save_described(run.policy_file, torch.nn.Linear(4, 2), "about", {"format": "x"})
    torch.save({"w": torch.arange(100.0)}, run.state_file)
    run.finish({})
    assert check_home(home) == []
    for path in (run.policy_file, run.state_file):
        raw = bytearray(path.read_bytes())
        raw[raw.index(torch.arange(100.0).numpy().tobytes()) + 9 if path == run.state_file else -1] ^= 1
        path.write_bytes(raw)
    troubles = check_home(home)
    assert [t.path for t in troubles] == [run.policy_file, run.state_file] and check_home(home, deep=False) == []
    assert all("has another checksum than when it was written" in t.what and not t.repair for t in troubles)


def test_damaged_mapped_rows_are_removed_and_made_again(home, make_dataset, episodes):
    dataset = make_dataset(episodes(2, 20))
    rows = np.array(dataset.mapped_matrix())
    assert check_home(home) == []
    raw = bytearray((dataset.path / "rows.f32").read_bytes())
    raw[77] ^= 1
    (dataset.path / "rows.f32").write_bytes(raw)
    (trouble,) = repair_all(home)
    assert trouble.path.name == "rows.f32" and check_home(home) == []
    np.testing.assert_array_equal(dataset.mapped_matrix(), rows)


def test_the_replay_of_a_training_is_looked_at_too(home, schema, episodes):
    run = Run.create(home, "train", {}, {}, 0)
    with DatasetWriter(run.path / "replay", "part-000002", "anymal_d", schema, 50.0, {}) as writer:
        writer.append(Episode(episodes(1, 20)[0], truncated=True))
        shard = writer.commit().shard_paths[0]
    assert check_home(home) == []
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert [t.path for t in check_home(home)] == [shard]


@pytest.mark.parametrize("there", [False, True])
def test_a_replacement_that_was_cut_off_is_undone_or_ended(home, make_dataset, episodes, there):
    rows = make_dataset(episodes(1, 20)).matrix()
    os.rename(home.data_dir / "set", home.data_dir / ".old-set")
    if there:
        os.rename(make_dataset(episodes(2, 20), name="new").path, home.data_dir / "set")
    (trouble,) = check_home(home)
    assert (trouble.path.name, trouble.repair) == (".old-set", "remove it" if there else "put it back")
    with exclusive(home.data_dir / ".lock-set", "it", ""):
        assert check_home(home) == []
        repair(home, [trouble])
        assert trouble.path.exists()  # It is being replaced again by now.
    repair_all(home)
    assert check_home(home) == [] and [p.name for p in home.data_dir.iterdir()] == ["set"]
    np.testing.assert_array_equal(home.dataset("set").matrix()[:20], rows)
    assert home.dataset("set").rows == (40 if there else 20)


def test_parts_of_an_export_wait_until_it_is_whole(home, make_dataset, episodes):
    part = home.data_dir / ".parts-set" / "data" / "part-00000"
    part.mkdir(parents=True)
    assert check_home(home) == []
    make_dataset(episodes(1, 20))
    with exclusive(home.data_dir / ".lock-parts-set", "it", ""):
        assert check_home(home) == []
    (trouble,) = repair_all(home)
    assert trouble.path.name == ".parts-set" and [p.name for p in home.data_dir.iterdir()] == ["set"]


def test_a_record_that_was_cut_off_is_named_once_and_removed(home, dead_pid):
    run = Run.create(home, "model", {}, {}, 0)
    (run.path / f"{TMP_MARK}{dead_pid}-{place()}-run.json").write_text("{")
    assert [bool(t.repair) for t in repair_all(home)] == [True] and check_home(home) == []
