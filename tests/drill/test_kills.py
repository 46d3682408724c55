"""Every command that makes something is ended at any moment: what was committed stays whole, what is left behind is
found and repaired, and the command run again, or the run resumed, ends as an undisturbed one.

``RWM_DRILL=50`` ends each of them a hundred times, fifty by SIGKILL and fifty by SIGTERM.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import zlib
from dataclasses import replace

import pytest

from rwmdata.atomic import TMP_MARK
from rwmdata.fsck import check_home, repair
from rwmdata.home import Home
from rwmdata.machine import alive
from tests.drill.commands import COMMANDS, COSTLY, prepare, prepare_all
from tests.drill.drilling import end_command, endings, run_command, wait_for

ENDINGS = int(os.environ.get("RWM_DRILL", "0"))
"""Of each command by each signal; 0 for a single one of each command, by the one signal or the other."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
CHEAP = [name for name in COMMANDS if name not in COSTLY]
"""What is ended where ``RWM_DRILL`` is not given, in one test, so that one process prepares it all."""
TABLE = "RWM_DRILL_TABLE"
"""Names a file that a line for each command is added to."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    prepare_all(root)
    return root


def plan(name, operations):
    """Return the endings of a command; the same ones each time."""
    rng = random.Random(zlib.crc32(name.encode()))
    if ENDINGS:
        return endings(ENDINGS, operations, rng, SIGNALS)
    return endings(1, operations, rng, (SIGNALS[[*COMMANDS].index(name) % 2],))


@pytest.mark.parametrize("names", [[name] for name in COMMANDS] if ENDINGS else [CHEAP], ids="-".join)
def test_a_command_that_is_ended_loses_nothing_and_ends_the_same_when_run_again(base, tmp_path, names):
    for name in names:
        drill(name, base, tmp_path / name)


def drill(name, base, tmp_path):
    command, outcomes = COMMANDS[name], collections.Counter()
    prepare(tmp_path / "whole", base, command)
    operations = run_command(tmp_path / "whole", *command.words)
    expected = command.made(tmp_path / "whole")
    assert expected is not None
    for number, ending in enumerate(plan(name, operations)):
        root = tmp_path / str(number)
        prepare(root, base, command)
        home, before = Home(root / "home"), kept(root)
        code = end_command(root, ending, *command.words)
        where = f"{name}, {ending}"
        assert kept(root) >= before, where
        made = command.made(root)
        assert made in (None, expected), where
        outcomes[signal.Signals(ending.number).name, "done" if made else "cut off"] += 1
        check_code(code, ending, made, where, root)
        runs = [r for r in home.runs(command.kind) if command.kind and not r.path.is_symlink()]
        assert wait_for(lambda runs=runs: not any(r.meta.pid and alive(r.meta.pid) for r in runs)), where
        if ending.number == signal.SIGTERM and code == 128 + signal.SIGTERM:
            assert {r.status for r in home.runs(command.kind)} <= {"created", "interrupted", "finished"}, where
        mend(home, where)
        if command.resumed and unfinished(home, command):
            outcomes["resumed", ""] += 1
            if number % 2:  # Ended once more on its way.
                end_command(root, replace(ending, at=max(1, (operations - ending.at) // 2)), "runs", "resume")
                mend(home, where)
            if unfinished(home, command):
                run_command(root, "runs", "resume")
        elif made is None:
            run_command(root, *command.words)
        assert command.made(root) == expected, where
        assert check_home(home) == [], where
        left = [p for p in root.rglob(f"{TMP_MARK}*") if "home" not in p.relative_to(root).parts]
        assert not left, (where, left)
    tell(name, operations, outcomes)


def mend(home, where):
    """Repair a home; all that is wrong with it has to be what a command that was cut off left behind."""
    troubles = check_home(home)
    assert all(t.repair for t in troubles), (where, troubles)
    repair(home, troubles)
    assert check_home(home) == [], where


def unfinished(home, command):
    return any(r.meta.status != "finished" for r in home.runs(command.kind))


def kept(root):
    """Return the committed datasets and runs."""
    home = Home(root / "home")
    return {d.name for d in home.datasets()} | {r.id for r in home.runs()}


def check_code(code, ending, made, where, root):
    """A command that was told to end says so by its exit code, unless all was done by then."""
    if ending.number == signal.SIGKILL:
        assert code in (-signal.SIGKILL, 0), where
    else:
        told = (root / "said.txt").read_text()
        assert code == 128 + signal.SIGTERM or (made is not None and code in (0, -signal.SIGTERM)), (where, code, told)
        assert "Traceback" not in told, (where, told)


def tell(name, operations, outcomes):
    if file := os.environ.get(TABLE):
        counts = ", ".join(f"{' '.join(key).strip()} {count}" for key, count in sorted(outcomes.items()))
        with open(file, "a") as table:
            table.write(f"{name}: {operations} operations; {counts}\n")
