"""What a crash leaves behind is recognised, repaired or named, and what is whole is left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rwmdata.atomic import TMP_MARK
from rwmdata.fsck import check_home, repair
from rwmdata.machine import alive
from rwmdata.runs import Run


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
        (home.data_dir / f"{TMP_MARK}{pid}-other").mkdir()
        (home.data_dir / f"{TMP_MARK}{pid}-other" / "shard-00000.parquet").write_text("half")
    (dataset.path / f"{TMP_MARK}{dead_pid}-dataset.json").write_text("half")
    troubles = check_home(home)
    assert len(troubles) == 2 and all("cut off" in t.what for t in troubles)
    assert len(repair(home, troubles)) == 2 and check_home(home) == []
    assert (home.data_dir / f"{TMP_MARK}{os.getpid()}-other").is_dir() and dataset.matrix().shape[0] == 40


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
    dead.update(status="running", pid=dead_pid)
    living.update(status="running", pid=os.getpid())
    elsewhere.update(status="running", pid=dead_pid, machine={**machine, "host": "another"})
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
