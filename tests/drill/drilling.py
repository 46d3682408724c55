"""Commands of ``rwm`` in processes that cost little to start, ended at a chosen operation on their home's files."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["cli.main", "rwmdata.edit", "rwmdata.formats.convert", "rwmdata.formats.lerobot", "rwmdata.fsck",
             "rwmmodel.fit", "rwmrl.cloning", "rwmrl.deploy", "rwmrl.envs.mujoco", "rwmrl.export",
             "rwmrl.imagination_training", "rwmrl.simulator_training", "rwmrl.sweep", "reports.evaluate.calibration",
             "torch.utils.tensorboard", "minari", "minari.data_collector", "gymnasium.spaces"]  # fmt: skip
"""Imported once, in the server that processes are forked from; what is not there is left out."""
BY_COSTLY = ["reports.page.report", "torch.onnx._internal.exporter._core", "onnxruntime", "onnxscript"]
CONTEXT.set_forkserver_preload(PRELOADED + (BY_COSTLY if os.environ.get("RWM_DRILL") else []))
COUNTED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.rmtree", "os.listdir",
           "os.scandir")  # fmt: skip
"""Audit events of operations on files."""
ROWS_PER_SHARD = 200
LATER_S = 0.02
"""At most so long after the operation a process is ended, where not exactly then."""
PATIENCE_S = 300
SAID = "said.txt"


@dataclass(frozen=True)
class Ending:
    """How and when a process is to end.

    Attributes:
        number: The signal.
        at: Number of the operation on the home's files it comes at, from 1.
        later_s: So long after it.
    """

    number: int
    at: int
    later_s: float


def run_command(root: Path, *words: str) -> int:
    """Run a command to its end; return how many operations on files of the home it needed."""
    process, told = _started(root, words, None)
    operations = 0
    while process.is_alive() or told.poll():
        wait([told, process.sentinel], PATIENCE_S)
        if told.poll():
            try:
                operations = told.recv()
            except EOFError:
                break
    process.join()
    assert process.exitcode == 0, (words, process.exitcode, (root / SAID).read_text()[-3000:])
    return operations


def end_command(root: Path, ending: Ending, *words: str) -> int | None:
    """Run a command and end it; return its exit code, minus the signal's number where that ended it at once."""
    process, told = _started(root, words, ending)
    wait([told, process.sentinel], PATIENCE_S)
    if told.poll() and process.is_alive():
        process.join(ending.later_s)
        with suppress(ProcessLookupError):  # It has come to its end meanwhile.
            os.kill(process.pid, ending.number)
    process.join(PATIENCE_S)
    assert process.exitcode is not None, f"{words} went on after {signal.Signals(ending.number).name}"
    return process.exitcode


def endings(count: int, operations: int, rng: random.Random, numbers: tuple[int, ...]) -> list[Ending]:
    """Return ``count`` endings by each signal, spread over a command's operations; half of them exactly at one."""
    chosen = []
    for number in numbers:
        for k in range(count):
            at = min(operations, 1 + int((k + rng.random()) / count * operations))
            chosen.append(Ending(number, at, rng.choice((0.0, rng.uniform(0, LATER_S)))))
    return chosen


def _started(
    root: Path, words: tuple[str, ...], ending: Ending | None
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    told, tell = CONTEXT.Pipe(duplex=False)
    forkserver.ensure_running()
    address = forkserver._forkserver._forkserver_address
    process = CONTEXT.Process(target=_work, args=(str(root), words, ending, tell, address))
    process.start()
    tell.close()
    return process, told


def _work(root: str, words: tuple[str, ...], ending: Ending | None, tell: Connection, address: str) -> None:
    """Run a command line in this process, counting operations on files under ``root``."""
    import torch

    from cli.main import run
    from rwmdata import processes
    from rwmdata.writer import DatasetWriter

    said = os.open(f"{root}/{SAID}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    for number in (signal.SIGINT, *processes.ENDING):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    torch.set_num_threads(1)
    DatasetWriter.__init__.__defaults__ = (0, ROWS_PER_SHARD)
    # Workers are forked from the same server, which has everything imported.
    forkserver._forkserver._forkserver_address = address
    forkserver._forkserver.ensure_running = lambda: None
    processes.multiprocessing.get_context = lambda name: multiprocessing.context._concrete_contexts["forkserver"]
    counter, last = itertools.count(1), 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal last
        path = arguments[0] if event in COUNTED and arguments else None
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith((f"{root}/", "out")):
            return
        last = next(counter)
        if ending and last == ending.at:
            if ending.number == signal.SIGKILL and not ending.later_s:
                os.kill(os.getpid(), signal.SIGKILL)
            tell.send(last)

    sys.addaudithook(count)
    sys.argv = ["rwm", *words, "--home", f"{root}/home"]
    os.environ["RWM_HOME"] = f"{root}/home"
    os.chdir(root)
    try:
        run()
    finally:
        tell.send(last)


def wait_for(condition: object, seconds: float = 30.0) -> bool:
    """Wait until a function returns true, at most so long; return whether it did."""
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
