"""How many cores are taken."""

from __future__ import annotations

import os

import pytest

from rwmdata.machine import available_threads


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("0", None), ("two", None), ("", None), ("100000", None)])
def test_no_more_threads_than_asked_for_and_than_there_are_cores(monkeypatch, asked, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert available_threads() == (expected or cores)
