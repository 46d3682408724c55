"""Iterators that run in parallel threads, with their results in an order that does not depend on timing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD = 32
"""Items an iterator may produce before they are consumed."""


class _Runner(Thread, Generic[T]):
    """Runs one iterator into a queue: its items, then None or the exception it raised."""

    def __init__(self, items: Iterator[T]) -> None:
        super().__init__(daemon=True)
        self.items, self.stopped = items, Event()
        self.queue: Queue[tuple[T] | BaseException | None] = Queue(AHEAD)

    def run(self) -> None:
        """Fill the queue until the iterator ends or is stopped."""
        try:
            for item in self.items:
                self.queue.put((item,))
                if self.stopped.is_set():
                    return
            self.queue.put(None)
        except BaseException as exc:  # Raised again in the consumer.
            self.queue.put(exc)

    def stop(self) -> None:
        """Wait until the thread has ended and discard what it still produces."""
        self.stopped.set()
        while self.is_alive():
            with suppress(Empty):
                self.queue.get_nowait()
            self.join(0.01)


def interleave(iterators: list[Iterator[T]]) -> Iterator[T]:
    """Yield the iterators' items in turn: the first of each, the second of each, and so on until all have ended.

    An exception in one of them is raised here after all have been stopped. A single iterator needs no thread.
    """
    if len(iterators) == 1:
        yield from iterators[0]
        return
    runners = [_Runner(items) for items in iterators]
    for runner in runners:
        runner.start()
    try:
        running = list(runners)
        while running:
            for runner in list(running):
                item = runner.queue.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    running.remove(runner)
                else:
                    yield item[0]
    finally:
        for runner in runners:
            runner.stop()
