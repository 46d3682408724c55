"""The whole chain without anything that was trained before: export, validate, fit, policy, evaluation, report."""

from __future__ import annotations

from typing import ClassVar

from reports.demo.chain import Chain, ChainConfig, StageResult
from rwmdata.catalog import Dataset
from rwmdata.config import build
from rwmdata.runs import Run
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
from rwmrl.export import ExportConfig, export_dataset
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig


class FromScratchConfig(ChainConfig):
    """How much of everything the chain does."""

    transitions: int = 200_000
    preset: str = "demo"
    """Preset of the fit and of the policy."""


SMOKE = {"transitions": 20_000, "preset": "smoke", "windows": 8, "steps": 50}
"""A tiny version that only shows that everything runs."""


class FromScratch(Chain[FromScratchConfig]):
    """From physics to a page of evidence."""

    names: ClassVar = ("export", "validate", "fit", "policy", "uncertainty", "report")

    def run(self) -> list[StageResult]:
        """Run every stage and return them in order; see :meth:`Chain.run`."""
        dataset = self.export()
        self.validate(dataset)
        model = self.fit(dataset)
        policy = self.policy(dataset, model)
        self.uncertainty(dataset, model)
        self.report(policy)
        return self.stages

    def export(self) -> Dataset:
        """Simulate and write the dataset."""
        with self.stage("export") as (progress, made):
            config = ExportConfig(transitions=self.config.transitions, seed=self.config.seed)
            dataset = export_dataset(self.home, config, progress)
            falls = int(dataset.episodes.terminated.sum())
            made(f"{dataset.rows:,} rows", f"{len(dataset.episodes)} episodes, {falls} falls", dataset.path)
            return dataset

    def fit(self, dataset: Dataset) -> Run:
        """Fit the ensemble."""
        with self.stage("fit") as (progress, made):
            config = build(FitConfig, self.config.preset, self.shared)
            run = fit_model(self.home, dataset, config, progress)
            error = run.meta.summary["val/rel_l1_h32"]
            made(f"model {run.id}", f"held-out relative L1 up to h = 32: {error:.3f}", run.path)
            return run

    def policy(self, dataset: Dataset, model: Run) -> Run:
        """Train the policy inside the model."""
        with self.stage("policy") as (progress, made):
            config = build(PolicyConfig, self.config.preset, {"lam": 1.0}, self.shared)
            run = train_policy(self.home, dataset, model.checkpoint, config, progress)
            first, last = (run.meta.summary[f"imagined_reward_{k}"] for k in ("before", "after"))
            made(f"policy {run.id}", f"imagined reward a step: {first:.4f} -> {last:.4f}", run.path)
            return run
