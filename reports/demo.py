"""The whole chain in one call: export, validate, fit, policy, evaluation, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from reports.evaluate.uncertainty import UncertaintyConfig, evaluate_uncertainty
from reports.page.report import build_report
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen, build
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.runs import Run
from rwmdata.text import quoted
from rwmdata.validate import validate
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
from rwmrl.export import ExportConfig, export_dataset
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig

STAGES = ("export", "validate", "fit", "policy", "uncertainty", "report")


class DemoConfig(Frozen):
    """How much of everything the demo does."""

    transitions: int = 200_000
    preset: str = "demo"
    """Preset of the fit and of the policy."""
    windows: int = 32
    steps: int = 200
    seed: int = 0
    device: str = "auto"


SMOKE = {"transitions": 20_000, "preset": "smoke", "windows": 8, "steps": 50}
"""A tiny version that only shows that everything runs."""


@dataclass(frozen=True)
class StageResult:
    """What one stage made, where it is, its key number, and how long it took."""

    name: str
    made: str
    key_number: str
    seconds: float
    path: Path


class Demo:
    """Runs the chain, stage after stage; ``bar`` gives a context manager with each stage's progress callback."""

    def __init__(self, home: Home, config: DemoConfig, bar: Callable[[str], AbstractContextManager[Progress]]) -> None:
        self.home, self.config, self.bar = home, config, bar
        self.shared = {"seed": config.seed, "device": config.device}
        self.stages: list[StageResult] = []

    def run(self) -> list[StageResult]:
        """Run every stage and return them in order.

        Raises:
            RwmError: A stage failed, or the exported dataset is not valid.
        """
        dataset = self.export()
        self.validate(dataset)
        model = self.fit(dataset)
        policy = self.policy(dataset, model)
        self.uncertainty(dataset, model)
        self.report(policy)
        return self.stages

    @contextmanager
    def _stage(self, name: str) -> Iterator[tuple[Progress, Callable[[str, str, Path], None]]]:
        """Give a stage its progress callback and a callback that takes what it made, its key number and where."""
        started = time.perf_counter()

        def made(what: str, key_number: str, path: Path) -> None:
            self.stages.append(StageResult(name, what, key_number, time.perf_counter() - started, path))

        with self.bar(f"{STAGES.index(name) + 1}/{len(STAGES)} {name:<12}") as progress:
            yield progress, made

    def export(self) -> Dataset:
        """Simulate and write the dataset."""
        with self._stage("export") as (progress, made):
            config = ExportConfig(transitions=self.config.transitions, seed=self.config.seed)
            dataset = export_dataset(self.home, config, progress)
            falls = int(dataset.episodes.terminated.sum())
            made(f"{dataset.rows:,} rows", f"{len(dataset.episodes)} episodes, {falls} falls", dataset.path)
            return dataset

    def validate(self, dataset: Dataset) -> None:
        """Check the dataset."""
        with self._stage("validate") as (progress, made):
            faults = validate(dataset)
            progress(1, 1, {})
            errors = [f for f in faults if f.severity == "error"]
            if errors:
                text = f"The exported dataset is not valid: {errors[0].message}."
                raise RwmError(text, f"rwm data validate {quoted(dataset.name)}")
            made("a verdict", f"0 errors, {len(faults)} warnings", dataset.path)

    def fit(self, dataset: Dataset) -> Run:
        """Fit the ensemble."""
        with self._stage("fit") as (progress, made):
            config = build(FitConfig, self.config.preset, self.shared)
            run = fit_model(self.home, dataset, config, progress)
            error = run.meta.summary["val/rel_l1_h32"]
            made(f"model {run.id}", f"held-out relative L1 up to h = 32: {error:.3f}", run.path)
            return run

    def policy(self, dataset: Dataset, model: Run) -> Run:
        """Train the policy inside the model."""
        with self._stage("policy") as (progress, made):
            config = build(PolicyConfig, self.config.preset, {"lam": 1.0}, self.shared)
            run = train_policy(self.home, dataset, model.checkpoint, config, progress)
            first, last = (run.meta.summary[f"imagined_reward_{k}"] for k in ("before", "after"))
            made(f"policy {run.id}", f"imagined reward a step: {first:.4f} -> {last:.4f}", run.path)
            return run

    def uncertainty(self, dataset: Dataset, model: Run) -> None:
        """Relate uncertainty and error."""
        with self._stage("uncertainty") as (progress, made):
            config = UncertaintyConfig(**self.config.model_dump(include={"windows", "steps", "seed", "device"}))
            run = evaluate_uncertainty(self.home, dataset, model.checkpoint, config, progress)
            pooled = EvaluationSummary.of_run(run).value("pearson_pooled", "mean")
            text = "undefined" if pooled is None else f"{pooled:.2f}"
            made(f"evaluation {run.id}", f"Pearson of uncertainty and error: {text}", run.path)

    def report(self, policy: Run) -> None:
        """Write the page about all of it."""
        with self._stage("report") as (progress, made):
            written = build_report(self.home, [policy.id])
            progress(1, 1, {})
            count = len(written["evaluations"])
            shown = f"{count} evaluation{'s' if count != 1 else ''}; open it in a browser"
            made("a page", shown, Path(written["page"]))
