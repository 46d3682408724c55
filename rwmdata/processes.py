"""How work ends early: SIGTERM and SIGHUP as Ctrl-C does, and workers with the process that began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, TypeVar

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What Slurm, Docker and systemd send, and a terminal that closes."""
SAVING_S = 20.0
"""So long after the first of these signals others are ignored: the state is being saved."""
AGAIN_S = 0.05
"""So long after its exception was lost a signal is sent again."""
GRACE_S = 60.0
"""So long a worker may take to save its state."""
REPEATS = 10
"""Times that a worker is told to end, a second apart; all within ``SAVING_S``."""
Result = TypeVar("Result")


class Ended(KeyboardInterrupt):
    """A signal asked the process to end; whatever saves its state on Ctrl-C saves it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


class _Received:
    number: int | None = None
    at = 0.0


def signal_received() -> int | None:
    """Return the number of the signal that asked this process to end; None if none did."""
    return _Received.number


def interruption(exc: BaseException) -> str | None:
    """Return who interrupted the work that an exception ended; None where it is a fault.

    A signal raises :class:`Ended` in the midst of whatever runs, and libraries may turn that into errors of their own.
    """
    if (number := signal_received()) is not None:
        return signal.Signals(number).name
    return "the user" if isinstance(exc, KeyboardInterrupt) else None


def _end(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _Received.number is not None and now - _Received.at < SAVING_S:
        return
    _Received.number, _Received.at = number, now
    raise Ended(number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise :class:`Ended` inside the block, where they would end the process without a word.

    Signals that are handled or ignored already (``nohup``) stay so. Only the main thread can do this; in another
    nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in ENDING if main and signal.getsignal(number) is signal.SIG_DFL]
    if ours:
        _Received.number = None
    for number in ours:
        signal.signal(number, _end)
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_once_more, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _once_more(hook: Callable[[Any], object], unraisable: Any) -> None:
    """Send the signal again whose exception was lost because it came where Python cannot raise one."""
    if not isinstance(unraisable.exc_value, Ended):
        hook(unraisable)
        return
    number, _Received.number = _Received.number, None
    if number is not None:
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()


class HeldBack:
    """A signal that came in a :func:`held_back` block and waits until the state is whole."""

    number: int | None = None

    @property
    def asked(self) -> bool:
        """Whether the work is to end."""
        return self.number is not None

    def end(self) -> None:
        """Raise what the signal would have raised at once; nothing without one."""
        number, self.number = self.number, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            _end(number, None)


@contextmanager
def held_back() -> Iterator[HeldBack]:
    """Hold back Ctrl-C, SIGTERM and SIGHUP inside the block, for work whose state is whole only now and then.

    The work looks at ``asked`` when its state is whole, saves it and calls ``end``; the end of the block does too. A
    second Ctrl-C is not held back. Signals are left alone that others handle or ignore.
    """
    waiting = HeldBack()

    def hold(number: int, frame: FrameType | None) -> None:
        if waiting.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        waiting.number = waiting.number or number

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    interrupting = (signal.default_int_handler, _end, _end_worker)
    ours = {n: handler for n, handler in before.items() if main and handler in interrupting}
    for number in ours:
        signal.signal(number, hold)
    try:
        yield waiting
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    waiting.end()


class WorkerPool:
    """Processes that end with this one, however it ends: their state is saved as on SIGTERM.

    Leaving the block by an exception ends them too; otherwise it waits for them. They are spawned, because a fork
    would inherit torch's thread pool in a state it cannot use.

    Args:
        workers: How many work at the same time.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        # A worker sees the end of this process as the end of the pipe, whose other end nobody else holds.
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(workers, context, _end_with, (self._theirs,))

    def __enter__(self) -> WorkerPool:
        return self

    def submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Let a worker call a function."""
        return self._pool.submit(_call, function, *arguments)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is not None:
                self._ours.close()
            self._pool.shutdown(cancel_futures=kind is not None)
        finally:  # A signal may interrupt the wait for idle workers; they end when our end is closed.
            self._theirs.close()
            self._ours.close()


class _Worker:
    busy = False


def _call(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a worker; one that is told to end meanwhile takes no other job."""
    _Worker.busy = True
    try:
        return function(*arguments)
    except BaseException as exc:
        if interruption(exc) is None:
            raise
        os._exit(128 + (signal_received() or signal.SIGINT))
    finally:
        _Worker.busy = False


def _end_worker(number: int, frame: FrameType | None) -> None:
    """End a worker: at once between two jobs, where the pool's own code would go on after an exception."""
    if not _Worker.busy:
        os._exit(128 + number)
    _end(number, frame)


def _end_with(parent: Connection) -> None:
    """Prepare a worker: it ends as by SIGTERM when the other end of the pipe is closed."""
    for number in ENDING:
        signal.signal(number, _end_worker)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    main = threading.main_thread().ident
    assert main is not None
    for _ in range(REPEATS):  # One that comes just before the main thread begins to wait would not wake it.
        signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(1.0)
    time.sleep(GRACE_S)
    os._exit(128 + signal.SIGTERM)
