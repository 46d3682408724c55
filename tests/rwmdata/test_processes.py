"""Signals end work as Ctrl-C does, and workers end with the process that began them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rwmdata import processes
from rwmdata.machine import alive
from rwmdata.processes import Ended, WorkerPool, ended_by_signals, held_back
from rwmdata.runs import Run

PARENT = """
import os, time
from rwmdata.processes import WorkerPool, ended_by_signals

if __name__ == "__main__":
    with ended_by_signals(), WorkerPool(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 300).result()
"""


def ended(process):
    """Wait until a process is gone; return whether it is."""
    until = time.monotonic() + 30
    while alive(process) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(process)


pytestmark = pytest.mark.usefixtures("usual_signals")


@pytest.mark.parametrize("number", processes.ENDING)
def test_a_run_that_is_told_to_end_is_marked_interrupted_by_that_signal(home, number):
    run = Run.create(home, "model", {}, {}, 0)
    with pytest.raises(KeyboardInterrupt), run.running():
        assert signal.getsignal(number) is not signal.SIG_DFL  # or the next line would end the tests
        os.kill(os.getpid(), number)
        time.sleep(5)
    meta = Run.open(run.path).meta
    assert (meta.status, meta.error) == ("interrupted", f"interrupted by {signal.Signals(number).name}")
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_while_a_run_is_being_marked_leaves_none_that_says_running(home, monkeypatch):
    run, update = Run.create(home, "model", {}, {}, 0), Run.update

    def told_to_end(self, **changes):
        update(self, **changes)
        if changes["status"] == "running":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    monkeypatch.setattr(Run, "update", told_to_end)
    with pytest.raises(KeyboardInterrupt), run.running():
        raise AssertionError
    assert Run.open(run.path).meta.status == "interrupted"


def test_a_signal_after_a_run_is_finished_leaves_it_finished(home):
    run = Run.create(home, "model", {}, {}, 0)
    with pytest.raises(KeyboardInterrupt), run.running():
        run.finish({"loss": 1.0})
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert Run.open(run.path).meta.status == "finished"


def test_a_signal_while_a_run_is_being_finished_leaves_it_finished(home, monkeypatch):
    """It comes before the record is written: what the run says of itself and what its file says stay the same."""
    run, save = Run.create(home, "model", {}, {}, 0), Run.save

    def told(self):
        if self.meta.status == "finished":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        save(self)

    monkeypatch.setattr(Run, "save", told)
    with pytest.raises(Ended), run.running():
        run.finish({"a": 1})
    assert Run.open(run.path).meta.status == run.meta.status == "finished"


def test_a_signal_that_a_library_makes_an_error_of_is_an_interruption(home):
    run = Run.create(home, "model", {}, {}, 0)
    with pytest.raises(ValueError, match="swallowed"), run.running():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            raise ValueError("swallowed") from None
    meta = Run.open(run.path).meta
    assert (meta.status, meta.error) == ("interrupted", "interrupted by SIGTERM (ValueError: swallowed)")
    with pytest.raises(ValueError, match="fault"), run.running():
        raise ValueError("a fault of a later work")
    assert Run.open(run.path).meta.status == "failed"


def test_a_signal_whose_exception_is_lost_is_sent_again(capfd):
    """It comes in a finaliser, where Python prints exceptions and goes on."""

    class Finalised:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with pytest.raises(Ended), ended_by_signals():
        it = Finalised()
        del it
        time.sleep(5)
    assert capfd.readouterr().err == ""


def test_a_second_signal_does_not_disturb_what_saves_the_state():
    saved = []
    with pytest.raises(Ended, match="SIGTERM"), ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            saved.append(True)
    assert saved == [True]


def test_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_workers_end_when_the_wait_for_them_is_interrupted(monkeypatch):
    """All work is done, and the pool is told to end while it lets its workers go."""

    def interrupted(*args, **options):
        raise Ended(signal.SIGTERM)

    with pytest.raises(Ended), WorkerPool(1) as pool:
        number = pool.submit(os.getpid).result(60)
        monkeypatch.setattr(pool._pool, "shutdown", interrupted)
    assert ended(number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_began_them_however_it_ends(tmp_path, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.send_signal(number)
    parent.wait(30)
    assert ended(worker)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_held_back_until_the_state_is_whole(number):
    done = []
    with pytest.raises(KeyboardInterrupt), ended_by_signals(), held_back() as signals:
        os.kill(os.getpid(), number)
        done.append(signals.asked)
        signals.end()
        done.append("more")
    assert done == [True]


def test_a_second_interruption_is_not_held_back():
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        raise AssertionError


def test_what_never_looks_ends_with_its_block_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
