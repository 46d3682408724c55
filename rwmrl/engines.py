"""Many jobs at the same time: on processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import as_completed
from typing import Literal, TypeVar

from rwmdata.machine import available_threads
from rwmdata.optional import optional_import
from rwmdata.processes import WorkerPool

Engine = Literal["local", "ray"]
Job = TypeVar("Job")
"""Texts and numbers only, so that it can be sent anywhere."""
Outcome = tuple[str | None, str]
"""What a job made, or None and the error."""
Outcomes = Generator[tuple[int, Outcome], None, None]
"""Of each job by number; closing it ends the workers."""
LONGEST_ERROR = 500


def run_jobs(
    function: Callable[[Job, int], Outcome],
    jobs: Mapping[int, Job],
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
) -> Outcomes:
    """Call a function with every job and yield what comes of it, in the order in which they end.

    Args:
        function: Takes a job and the threads it may use; a fault of the user is an outcome, not an exception.
        jobs: The jobs by number.
        engine: ``local`` for processes of this machine, ``ray`` for a cluster.
        workers: Jobs at the same time; on a cluster elsewhere as many as it has processors.
        address: Of the Ray cluster; None starts one on this machine.

    Raises:
        RwmError: Ray is missing.
    """
    threads = max(1, available_threads() // workers)
    if engine == "ray":
        yield from _on_ray(function, jobs, workers, threads, address)
    elif jobs:
        with WorkerPool(workers) as pool:
            waiting = {pool.submit(function, job, threads): k for k, job in jobs.items()}
            for done in as_completed(waiting):
                error = done.exception()
                yield waiting[done], (None, f"{type(error).__name__}: {error}") if error else done.result()


def _on_ray(
    function: Callable[[Job, int], Outcome], jobs: Mapping[int, Job], workers: int, threads: int, address: str | None
) -> Outcomes:
    with optional_import("Work on a cluster needs the package ray", extra="ray"):
        import ray
    if not jobs:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cpus, dashboard = (workers, False) if address is None else (None, None)
    ray.init(address=address, num_cpus=cpus, include_dashboard=dashboard, ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(function)
        waiting = {remote.remote(job, threads): k for k, job in jobs.items()}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            k = waiting.pop(done)
            try:
                yield k, ray.get(done)
            except ray.exceptions.RayError as exc:
                yield k, (None, f"{type(exc).__name__}: {' '.join(str(exc).split())[:LONGEST_ERROR]}")
    finally:
        ray.shutdown()
