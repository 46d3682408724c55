"""From recordings to a robot that walks: a shipped model goes on with them, and a policy is trained inside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from reports.demo.chain import Chain, ChainConfig, StageResult
from reports.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop
from reports.evaluate.falls import FallsConfig, evaluate_falls
from reports.evaluate.policy_score import PolicyScoreConfig, evaluate_policy
from reports.visualize.view import SimulatedViewConfig, visualize_policy
from rwmdata.catalog import Dataset
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary
from rwmdata.formats.convert import convert
from rwmdata.runs import Run
from rwmdata.shipped import SAMPLE
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
from rwmrl.cloning import CloningConfig, clone_behaviour
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig

SHOWN_ERROR = "val/rel_l1_h100"
ASKED_STEPS = 25
"""Half a second, which the first screen of the page asks about."""


class WalkingConfig(ChainConfig):
    """How much of everything the chain does."""

    model: str = "shipped"
    """Model that the fit goes on with."""
    updates: int = 30
    """Of the model."""
    cloning_updates: int = 1500
    iterations: int = 60
    """Of the policy."""
    num_envs: int = 512
    """Robots imagined in parallel."""
    episodes: int = 64
    """Simulated episodes of a score, and so many again with disturbances."""
    film_steps: int = 150
    """Control steps of the animated picture."""


TINY = {
    "updates": 4, "cloning_updates": 20, "iterations": 4, "num_envs": 64, "episodes": 4, "film_steps": 8, "windows": 4,
    "steps": 50,
}  # fmt: skip
"""A version that only shows that everything runs."""


class Walking(Chain[WalkingConfig]):
    """From the sample's CSV files to a walk, beside the walk of a clone of what was recorded."""

    names: ClassVar = (
        "convert", "validate", "fit", "clone", "policy", "score", "twin", "imagined", "falls", "uncertainty", "report",
    )  # fmt: skip

    def run(self) -> list[StageResult]:
        """Run every stage and return them in order; see :meth:`Chain.run`."""
        dataset = self.convert()
        self.validate(dataset)
        model = self.fit(dataset)
        clone = self.clone(dataset)
        policy = self.policy(dataset, model, clone)
        self.score(clone, policy)
        self.twin(policy, model)
        self.imagined(policy, model)
        self.falls(policy, model)
        self.uncertainty(dataset, model)
        self.report(policy)
        return self.stages

    def convert(self) -> Dataset:
        """Read the recordings."""
        with self.stage("convert") as (progress, made):
            name = f"{SAMPLE}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
            dataset = convert(self.home, [Path(SAMPLE)], name, seed=self.config.seed, progress=progress)
            made(f"{dataset.rows:,} rows", f"{len(dataset.episodes)} episodes of CSV", dataset.path)
            return dataset

    def fit(self, dataset: Dataset) -> Run:
        """Let the model go on with the recordings."""
        with self.stage("fit") as (progress, made):
            changes = {"updates": self.config.updates, "warm_start": self.config.model}
            run = fit_model(self.home, dataset, build(FitConfig, "finetune", changes, self.shared), progress)
            before, after = run.series()[SHOWN_ERROR][0], run.meta.summary[SHOWN_ERROR]
            better = f"-> {after:.3f}" if run.meta.summary["best_update"] else "as it was: no update made it better"
            shown = f"error of held-out rows to h = 100: {before:.3f} {better}"
            made(f"model {run.id}", shown, run.path)
            return run

    def clone(self, dataset: Dataset) -> Run:
        """Imitate what was recorded."""
        with self.stage("clone") as (progress, made):
            config = CloningConfig(updates=self.config.cloning_updates, **self.shared)
            run = clone_behaviour(self.home, dataset, config, progress)
            error = run.meta.summary["val_action_mse"]
            made(f"policy {run.id}", f"squared error of its actions: {error:.3f}", run.path)
            return run

    def policy(self, dataset: Dataset, model: Run, clone: Run) -> Run:
        """Train a policy inside the model; it begins with the clone."""
        with self.stage("policy") as (progress, made):
            sizes = self.config.model_dump(include={"iterations", "num_envs"})
            config = build(PolicyConfig, None, sizes, {"warm_start": clone.id}, self.shared)
            run = train_policy(self.home, dataset, model.checkpoint, config, progress)
            first, last = (run.meta.summary[f"imagined_reward_{k}"] for k in ("before", "after"))
            made(f"policy {run.id}", f"imagined reward a step: {first:.4f} -> {last:.4f}", run.path)
            return run

    def score(self, clone: Run, policy: Run) -> None:
        """Let both walk in the simulator, which no model has seen."""
        with self.stage("score") as (progress, made):
            scores = []
            for run in (clone, policy):
                sizes = {"episodes": self.config.episodes, "seed": self.config.seed}
                config = PolicyScoreConfig(policy=str(run.checkpoint.file), **sizes)
                evaluation = evaluate_policy(self.home, config, progress)
                summary = EvaluationSummary.of_run(evaluation)
                score = summary.value("normalized_score", "undisturbed")
                standing = summary.value("share_without_fall", "undisturbed")
                scores.append(f"{score:.2f} ({standing:.0%} do not fall)")
            made(f"evaluation {evaluation.id}", f"walks: clone {scores[0]}, policy {scores[1]}", evaluation.path)

    def twin(self, policy: Run, model: Run) -> None:
        """Draw a walk beside what the model imagines under the same actions."""
        with self.stage("twin") as (progress, made):
            size = {"robots": 2, "steps": self.config.film_steps}
            config = SimulatedViewConfig(policy=str(policy.checkpoint.file), **size, **self.shared)
            run = visualize_policy(self.home, model.checkpoint, config, progress)
            made(f"evaluation {run.id}", "an animated picture: look at it", run.path / "twin.gif")

    def imagined(self, policy: Run, model: Run) -> None:
        """Compare its walks in the simulator with those it imagines."""
        with self.stage("imagined") as (progress, made):
            config = ClosedLoopConfig(policy=str(policy.checkpoint.file), **self.shared)
            run = evaluate_closed_loop(self.home, model.checkpoint, config, progress)
            error = EvaluationSummary.of_run(run).value("rel_l1", "imagined", ASKED_STEPS)
            made(
                f"evaluation {run.id}", f"imagined walk against the simulated one, half a second: {error:.3f}", run.path
            )

    def falls(self, policy: Run, model: Run) -> None:
        """Ask the model, before the policy's falls, what will happen."""
        with self.stage("falls") as (progress, made):
            config = FallsConfig(
                policy=str(policy.checkpoint.file), robots=2 * self.config.episodes, rounds=1, **self.shared
            )
            try:
                run = evaluate_falls(self.home, model.checkpoint, config, progress)
            except RwmError as exc:
                made("nothing to ask about", exc.message, policy.path)
                return
            foreseen = EvaluationSummary.of_run(run).find("foreseen/termination", "recorded_actions", ASKED_STEPS)
            said = "too few falls to say how many were foreseen half a second before"
            if foreseen is not None and foreseen.value is not None:
                said = f"of its falls, foreseen half a second before: {foreseen.value:.0%}"
            made(f"evaluation {run.id}", said, run.path)
