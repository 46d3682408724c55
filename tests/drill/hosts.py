"""What one host does to a home that it shares with another: export, also killed, repair, read; until the time is up.

``python -m tests.drill.hosts HOME LABEL SECONDS`` makes processes for these and writes ``LABEL.json`` beside the home.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rwmdata import atomic, machine
from rwmdata.catalog import Dataset
from rwmdata.edit import remove
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.fsck import check_home, repair
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter

EPISODES, ROWS = 4, 10
KEPT = 4
"""Datasets of an exporter that stay; older ones are removed, after a look whether they are whole."""
FAKE = "RWM_FAKE_HOST"
"""Names this host where the kernel allows no PID namespace."""
SCHEMA = Schema.from_robot(load_robot("anymal_d"))


def rows_of(name: str) -> np.ndarray:
    """Return the rows of a dataset, ``(EPISODES, ROWS, width)``, which follow from its name."""
    rng = np.random.default_rng([*name.encode()])
    rows = rng.normal(0, 0.1, (EPISODES, ROWS, SCHEMA.width)).astype(np.float32)
    rows[..., -1] = 0
    return rows


def is_whole(dataset: Dataset) -> bool:
    return bool(np.array_equal(dataset.matrix().reshape(EPISODES, ROWS, -1), rows_of(dataset.name)))


def write(home: Home, name: str) -> None:
    with DatasetWriter(home.data_dir, name, "anymal_d", SCHEMA, 50.0, {}, rows_per_shard=ROWS) as writer:
        for part in rows_of(name):
            writer.append(Episode(part, truncated=True))
            time.sleep(0.002)
        writer.commit()


def export(home: Home, label: str, counts: Counter[str], over: Callable[[], bool]) -> None:
    """Write datasets, one after the other; each has to be there, whole, until it is removed."""
    made: list[str] = []
    while not over():
        name = f"{label}-{counts['exports']}"
        write(home, name)
        counts["exports"] += 1
        made.append(name)
        if len(made) > KEPT:
            oldest = home.dataset(made.pop(0))
            assert is_whole(oldest), oldest.name
            remove(home, oldest)
    assert all(is_whole(home.dataset(name)) for name in made)


def be_killed(home: Home, label: str, counts: Counter[str], over: Callable[[], bool]) -> None:
    """Let processes write a dataset and kill them meanwhile; the name has to be free or the dataset whole."""
    rng = random.Random(label)
    while not over():
        name = f"{label}-killed"
        child = os.fork()
        if child == 0:
            write(home, name)
            os._exit(0)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts["kills"] += 1
        if (home.data_dir / name).exists():
            assert is_whole(home.dataset(name))
            remove(home, home.dataset(name))


def mend(home: Home, label: str, counts: Counter[str], over: Callable[[], bool]) -> None:
    """Look for what dead processes left, and remove it."""
    while not over():
        counts["repaired"] += len(repair(home, check_home(home)))
        counts["looks"] += 1


def read(home: Home, label: str, counts: Counter[str], over: Callable[[], bool]) -> None:
    """Read whatever is there; it is whole, or gone by then."""
    while not over():
        for dataset in home.datasets():
            try:
                assert is_whole(dataset), dataset.name
                counts["reads"] += 1
            except RwmError:
                assert not dataset.path.exists(), dataset.name


ROLES = {"export": export, "be_killed": be_killed, "mend": mend, "read": read}


def act(role: str, home: Home, label: str, until: float) -> int:
    """Play a role in a process of its own; return its number."""
    child = os.fork()
    if child:
        return child
    counts: Counter[str] = Counter()
    fault = ""
    try:
        ROLES[role](home, label, counts, lambda: time.time() > until)
    except BaseException:
        fault = traceback.format_exc()
    (home.root.parent / f"{label}.{role}.json").write_text(json.dumps({"counts": counts, "fault": fault}))
    os._exit(0)


def main(root: str, label: str, seconds: str) -> None:
    """Play all roles until the time is up, then remove what the killed ones left."""
    if host := os.environ.get(FAKE):
        platform.node = lambda: host
        own = os.getpid()
        # Process numbers of the other host mean nothing here.
        atomic.alive = lambda pid: machine.alive(pid) and os.getpgid(pid) == own
        os.setpgid(0, 0)
    home, until = Home(Path(root)), time.time() + float(seconds)
    for child in [act(role, home, label, until) for role in ROLES]:
        os.waitpid(child, 0)
    repair(home, check_home(home))


if __name__ == "__main__":
    main(*sys.argv[1:])
