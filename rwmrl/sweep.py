"""Many policies from one model: a sweep over lambda and seeds, on local processes or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Generator
from concurrent.futures import as_completed
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.machine import available_threads
from rwmdata.optional import optional_import
from rwmdata.processes import WorkerPool
from rwmdata.progress import Progress, silent
from rwmdata.runs import Checkpoint, Run
from rwmrl.imagination_training import parents_of, train_policy, with_clone
from rwmrl.policy_config import CLONE, PolicyConfig

Engine = Literal["local", "ray"]


class SweepConfig(Frozen):
    """Which policies a sweep trains, and where."""

    lam: tuple[Annotated[float, Field(ge=0)], ...] = Field((0.0, 0.2, 0.5, 1.0, 2.0, 5.0), min_length=1)
    """Penalty weights, each once; or a text of them with commas."""
    seeds: int = Field(3, ge=1)
    """Policies of each weight, seeds 0, 1, ..."""
    workers: int = Field(1, ge=1)
    """Policies trained at the same time."""
    engine: Engine = "local"
    address: str | None = None
    """Of the Ray cluster; None starts one on this machine."""

    @field_validator("lam", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _address_of_ray(self) -> SweepConfig:
        if self.address and self.engine != "ray":
            raise ValueError("an address is that of a Ray cluster; it needs --engine ray")
        return self


def sweep_policies(
    home: Home,
    dataset: Dataset,
    checkpoint: Checkpoint,
    configs: list[PolicyConfig],
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    progress: Progress = silent,
) -> list[Run]:
    """Train a policy with every configuration; finished ones are kept, interrupted ones are resumed.

    A failure does not stop the others; a second call trains only what is missing.

    Args:
        home: Where the runs go; on a cluster a folder all machines see.
        dataset: Where the starts come from.
        checkpoint: The model.
        configs: One for every policy.
        engine: ``local`` for processes of this machine, ``ray`` for a cluster.
        workers: Policies trained at the same time.
        address: Of the Ray cluster; None starts one on this machine.
        progress: Called with the number of finished policies.

    Returns:
        The finished runs in the order of ``configs``.

    Raises:
        RwmError: Ray is missing, or policies failed (the message says which and why, once the others are done).
    """
    finished: dict[int, Run] = {}
    configs = _with_clones(home, dataset, configs, progress)
    for k, config in enumerate(configs):
        run = home.run_of("policy", config, parents_of(dataset, checkpoint, config))
        if run is not None and run.meta.status == "finished":
            finished[k] = run
    missing = [k for k in range(len(configs)) if k not in finished]
    jobs = {k: (str(home.root.resolve()), dataset.name, checkpoint.id, configs[k].model_dump_json()) for k in missing}
    failures: list[str] = []
    progress(len(finished), len(configs), {})
    threads = max(1, available_threads() // workers)
    run_jobs = _on_ray(jobs, workers, threads, address) if engine == "ray" else _locally(jobs, workers, threads)
    with closing(run_jobs):  # An interruption in this block ends the workers too.
        for k, (run_id, error) in run_jobs:
            if run_id is None:
                failures.append(f"lambda {configs[k].imagination.lam:g}, seed {configs[k].seed}: {error}")
            else:
                finished[k] = home.run("policy", run_id)
            progress(len(finished), len(configs), {})
    if failures:
        failed = f"{len(failures)} of {len(configs)} policies failed ({'; '.join(failures)})"
        raise RwmError(f"{failed}; the others are finished.", "the same command again")
    return [finished[k] for k in range(len(configs))]


def _with_clones(home: Home, dataset: Dataset, configs: list[PolicyConfig], progress: Progress) -> list[PolicyConfig]:
    """Return the configurations with the clones they start from, reporting each."""
    cloned: list[PolicyConfig] = []
    for config in configs:
        cloned.append(with_clone(home, dataset, config))
        if config.warm_start == CLONE:
            progress(0, len(configs), {"clones": len({c.warm_start for c in cloned})})
    return cloned


Job = tuple[str, str, str, str]
"""Home, dataset, model and configuration: text only, so that it can be sent anywhere."""
Outcome = tuple[str | None, str]
"""Run id, or None and the error."""
Outcomes = Generator[tuple[int, Outcome], None, None]


def train_one(job: Job, threads: int) -> Outcome:
    """Train or resume one policy of a sweep in this process."""
    root, dataset, model, text = job
    torch.set_num_threads(threads)
    home, config = Home(Path(root)), PolicyConfig.model_validate_json(text)
    source, fitted = home.dataset(dataset), home.model(model)
    broken = home.run_of("policy", config, parents_of(source, fitted, config))
    try:
        run = train_policy(home, source, fitted, config, resume=broken)
    except RwmError as exc:
        return None, str(exc)
    return run.id, ""


def _locally(jobs: dict[int, Job], workers: int, threads: int) -> Outcomes:
    if not jobs:
        return
    with WorkerPool(workers) as pool:
        waiting = {pool.submit(train_one, job, threads): k for k, job in jobs.items()}
        for done in as_completed(waiting):
            error = done.exception()
            yield waiting[done], (None, f"{type(error).__name__}: {error}") if error else done.result()


def _on_ray(jobs: dict[int, Job], workers: int, threads: int, address: str | None) -> Outcomes:
    with optional_import("A sweep on a cluster needs the package ray", extra="ray"):
        import ray
    if not jobs:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cpus, dashboard = (workers, False) if address is None else (None, None)
    ray.init(address=address, num_cpus=cpus, include_dashboard=dashboard, ignore_reinit_error=True, log_to_driver=False)
    try:
        train = ray.remote(num_cpus=1, max_retries=0)(train_one)
        waiting = {train.remote(job, threads): k for k, job in jobs.items()}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            k = waiting.pop(done)
            try:
                yield k, ray.get(done)
            except ray.exceptions.RayError as exc:
                yield k, (None, f"{type(exc).__name__}: {' '.join(str(exc).split())[:500]}")
    finally:
        ray.shutdown()
