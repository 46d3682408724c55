"""Many policies from one model: a sweep over lambda and seeds, on local processes or on a Ray cluster."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, field_validator, model_validator

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Checkpoint, Run
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmrl.engines import Engine, Outcome, run_jobs
from rwmrl.imagination_training import parents_of, train_policy, with_clone, with_precision
from rwmrl.policy_config import CLONE, PolicyConfig


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
    model = load_model(checkpoint.file).config
    configs = [with_precision(config, model, resolve_device(config.device)) for config in configs]
    configs = _with_clones(home, dataset, configs, progress)
    for k, config in enumerate(configs):
        run = home.run_of("policy", config, parents_of(home, dataset, checkpoint, config))
        if run is not None and run.meta.status == "finished":
            finished[k] = run
    missing = [k for k in range(len(configs)) if k not in finished]
    own = (str(home.root.resolve()), home.name_of(dataset), checkpoint.id)
    jobs = {k: (*own, configs[k].model_dump_json()) for k in missing}
    failures: list[str] = []
    progress(len(finished), len(configs), {})
    with closing(run_jobs(train_one, jobs, engine, workers, address)) as outcomes:
        for k, (run_id, error) in outcomes:
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


def train_one(job: Job, threads: int) -> Outcome:
    """Train or resume one policy of a sweep in this process; return its run's id."""
    root, dataset, model, text = job
    torch.set_num_threads(threads)
    home, config = Home(Path(root)), PolicyConfig.model_validate_json(text)
    source, fitted = home.dataset(dataset), home.model(model)
    broken = home.run_of("policy", config, parents_of(home, source, fitted, config))
    try:
        run = train_policy(home, source, fitted, config, resume=broken)
    except RwmError as exc:
        return None, str(exc)
    return run.id, ""
