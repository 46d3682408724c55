"""What a command says on standard error while it works: sentences, a bar in a terminal, lines in a log file."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from rwmdata import progress as rwm_progress
from rwmdata.text import shown

RUNS = logging.getLogger("rwmdata.runs")
"""Says which run begins, and in which folder."""


class PlainConsole(Console):
    """A console on which every text stands for itself: no markup, no highlights, and nothing that commands it."""

    def render_str(self, text: str, *, style: Any = "", **options: Any) -> Text:
        """Return a text as it is shown, in one line."""
        options |= {"markup": False, "highlight": False, "emoji": False}
        return super().render_str(shown(text), style=style, **options)


err = PlainConsole(stderr=True, soft_wrap=True)

FIRST = os.environ.get("RANK", "0") == "0"
"""Of the processes that torchrun starts, the first one speaks; errors are everyone's own."""
LINE_EVERY_S = 30.0
"""Time between two lines of progress where no terminal shows a bar."""


def say(text: str, quiet: bool = False) -> None:
    """Say something to the person on standard error, so that standard output stays machine-readable."""
    if FIRST and not quiet:
        err.print(text)


@contextmanager
def progress_bar(label: str, quiet: bool = False) -> Iterator[rwm_progress.Progress]:
    """Give a progress callback that shows on standard error how far the work is.

    In a terminal it draws a bar, which appears with its first news. Elsewhere (a log file) it prints a line every
    ``LINE_EVERY_S`` and a last one at the end, and every run's id and folder as it begins.

    Within the block standard output goes to standard error too: simulators print, and it is for results.
    """
    with results_only():
        if quiet or not FIRST:
            yield rwm_progress.silent
        elif err.is_terminal:
            with _bar(label) as update:
                yield update
        else:
            lines = ProgressLines(label.strip())
            with _announced_runs():
                try:
                    yield lines.update
                finally:
                    lines.print_newest()


@contextmanager
def _bar(label: str) -> Iterator[rwm_progress.Progress]:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
        console=err,
    )
    task = bar.add_task(label, total=None, numbers="", start=False)

    def update(done: int, total: int, numbers: dict[str, float]) -> None:
        if not bar.live.is_started:
            bar.start()
            bar.start_task(task)
        bar.update(task, completed=done, total=total, numbers=_in_words(numbers))

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()


class ProgressLines:
    """Progress as plain lines: ``train 120 of 500, return 4.21 (3.1 min so far, 9.8 min left)``."""

    def __init__(self, label: str) -> None:
        self.label, self.newest = label, ""
        self._begun = self._printed = time.monotonic()
        self._since, self._from, self._done = self._begun, 0, math.inf

    def update(self, done: int, total: int, numbers: dict[str, float]) -> None:
        """Take news; print a line where the last one is ``LINE_EVERY_S`` old."""
        now = time.monotonic()
        if done < self._done:  # At first, where a resumed run begins in the middle; and where another part begins.
            self._since, self._from = now, done
        self._done = done
        times = f"{(now - self._begun) / 60:.1f} min so far"
        if done > self._from:
            left = (total - done) * (now - self._since) / (done - self._from)
            times += f", {left / 60:.1f} min left"
        words = ", ".join(filter(None, (f"{self.label} {done:,} of {total:,}", _in_words(numbers, ", "))))
        self.newest = f"{words} ({times})"
        if now - self._printed >= LINE_EVERY_S:
            self.print_newest()

    def print_newest(self) -> None:
        """Print the newest line, unless it is printed already."""
        if self.newest:
            say(self.newest)
        self.newest, self._printed = "", time.monotonic()


def _in_words(numbers: dict[str, float], between: str = "  ") -> str:
    return between.join(f"{k} {v:.4g}" for k, v in numbers.items())


@contextmanager
def _announced_runs() -> Iterator[None]:
    """Say where every run that begins within the block writes."""
    handler, level = logging.Handler(), RUNS.level
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    RUNS.addHandler(handler)
    RUNS.setLevel(logging.INFO)
    try:
        yield
    finally:
        RUNS.removeHandler(handler)
        RUNS.setLevel(level)


@contextmanager
def results_only() -> Iterator[None]:
    """Send what is written to standard output to standard error, that of libraries below Python included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
