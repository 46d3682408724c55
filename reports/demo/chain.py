"""Stages that run one after the other, and what each of them made."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from reports.evaluate.uncertainty import UncertaintyConfig, evaluate_uncertainty
from reports.page.report import build_report
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.runs import Run
from rwmdata.text import quoted
from rwmdata.validate import validate


class ChainConfig(Frozen):
    """Options of every chain."""

    windows: int = 32
    """Held-out trajectories of the evaluation of uncertainty."""
    steps: int = 200
    """Steps of each."""
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class StageResult:
    """What one stage made, where it is, its key number, and how long it took."""

    name: str
    made: str
    key_number: str
    seconds: float
    path: Path


ConfigT = TypeVar("ConfigT", bound=ChainConfig)


class Chain(ABC, Generic[ConfigT]):
    """Runs stage after stage; ``bar`` gives a context manager with each stage's progress callback."""

    names: ClassVar[tuple[str, ...]]
    """Names of the stages, in order."""

    def __init__(self, home: Home, config: ConfigT, bar: Callable[[str], AbstractContextManager[Progress]]) -> None:
        self.home, self.config, self.bar = home, config, bar
        self.shared = {"seed": config.seed, "device": config.device}
        self.stages: list[StageResult] = []

    @abstractmethod
    def run(self) -> list[StageResult]:
        """Run every stage and return them in order.

        Raises:
            RwmError: A stage failed, or the dataset is not valid.
        """

    @contextmanager
    def stage(self, name: str) -> Iterator[tuple[Progress, Callable[[str, str, Path], None]]]:
        """Give a stage its progress callback and a callback that takes what it made, its key number and where."""
        started = time.perf_counter()

        def made(what: str, key_number: str, path: Path) -> None:
            self.stages.append(StageResult(name, what, key_number, time.perf_counter() - started, path))

        with self.bar(f"{self.names.index(name) + 1}/{len(self.names)} {name:<12}") as progress:
            yield progress, made

    def validate(self, dataset: Dataset) -> None:
        """Check the dataset."""
        with self.stage("validate") as (progress, made):
            faults = validate(dataset)
            progress(1, 1, {})
            errors = [f for f in faults if f.severity == "error"]
            if errors:
                text = f"The dataset is not valid: {errors[0].message}."
                raise RwmError(text, f"rwm data validate {quoted(dataset.name)}")
            made("a verdict", f"0 errors, {len(faults)} warnings", dataset.path)

    def uncertainty(self, dataset: Dataset, model: Run) -> None:
        """Relate uncertainty and error."""
        with self.stage("uncertainty") as (progress, made):
            config = UncertaintyConfig(**self.config.model_dump(include={"windows", "steps", "seed", "device"}))
            run = evaluate_uncertainty(self.home, dataset, model.checkpoint, config, progress)
            pooled = EvaluationSummary.of_run(run).value("pearson_pooled", "mean")
            text = "undefined" if pooled is None else f"{pooled:.2f}"
            made(f"evaluation {run.id}", f"Pearson of uncertainty and error: {text}", run.path)

    def report(self, policy: Run) -> None:
        """Write the page about all of it."""
        with self.stage("report") as (progress, made):
            written = build_report(self.home, [policy.id])
            progress(1, 1, {})
            count = len(written["evaluations"])
            shown = f"{count} evaluation{'s' if count != 1 else ''}; open it in a browser"
            made("a page", shown, Path(written["page"]))
