from __future__ import annotations

import threading
import time

import pytest

from rwmrl.interleave import AHEAD, interleave


def slow(name, count, seconds=0.0):
    for k in range(count):
        time.sleep(seconds)
        yield f"{name}{k}"


@pytest.mark.parametrize("seconds", [(0.0, 0.01), (0.01, 0.0)])
def test_items_come_in_turn_whoever_is_faster(seconds):
    found = list(interleave([slow("a", 3, seconds[0]), slow("b", 5, seconds[1])]))
    assert found == ["a0", "b0", "a1", "b1", "a2", "b2", "b3", "b4"]
    assert list(interleave([slow("a", 2)])) == ["a0", "a1"]


def test_both_run_at_the_same_time():
    """Each waits for the other: one after the other they would never end."""
    barrier = threading.Barrier(2, timeout=10)

    def meeting():
        for k in range(5):
            barrier.wait()
            yield k

    assert list(interleave([meeting(), meeting()])) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_an_exception_is_raised_where_items_are_taken_and_nothing_is_left_running():
    def broken():
        yield "x"
        raise ValueError("torn")

    before = threading.active_count()
    with pytest.raises(ValueError, match="torn"):
        list(interleave([broken(), slow("b", 10**9, 0.001)]))
    assert threading.active_count() == before


def test_who_stops_taking_stops_the_threads_and_nobody_runs_far_ahead():
    made = []

    def count():
        for k in range(10**9):
            made.append(k)
            yield k

    before, items = threading.active_count(), interleave([count(), slow("b", 10**9, 0.001)])
    assert next(items) == 0
    time.sleep(0.05)
    items.close()
    assert threading.active_count() == before and len(made) < 3 * AHEAD
