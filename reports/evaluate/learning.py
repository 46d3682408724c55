"""Which training is better? Return, falls and the model's error over simulated steps and over training time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from reports.evaluate.learning_figures import draw_learning
from reports.evaluate.learning_groups import labels_of
from reports.evaluate.policy_score import (
    SCENARIOS,
    PolicyScoreConfig,
    Scenario,
    normalized,
    reference_returns,
    score_policy,
)
from reports.evaluate.statistics import Interval, seeds_interval
from reports.evaluate.summary import finish_evaluation, start_evaluation
from reports.stages import Stage, minutes_of, own_stages, steps_per_iteration, training_of
from rwmdata.atomic import commit_file
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Run
from rwmrl.behaviours import untrained_policy
from rwmrl.policy_file import load_policy, save_policy

HORIZONS = (1, 32, 100)
"""Forecast steps whose held-out error is shown; the last one is the main one."""
KEPT = ("return", "normalized_score", "share_without_fall", "falls_per_minute", "lin_vel_error", "yaw_rate_error")
"""Numbers of a policy's score that are kept."""
ERRORS = {"rel_l1": "model", "hold_last": "hold_last"}
"""Held-out errors among a run's metrics (``val/<name>_h<horizon>``), and the mode they stand under in the table."""
SCHEMA: dict[str, Any] = {
    "label": pl.String, "run": pl.String, "seed": pl.Int64, "iteration": pl.Int64, "steps": pl.Int64,
    "minutes": pl.Float64, "metric": pl.String, "mode": pl.String, "horizon": pl.Int64, "value": pl.Float64,
}  # fmt: skip
UNITS = (
    "return: sum of an episode's rewards; normalized_score: 0 is random, 1 expert; lin_vel_error: m/s; "
    "yaw_rate_error: rad/s; steps: control steps of simulated robots; minutes: of training; the mode is the training"
)


class LearningConfig(Frozen):
    """Options of :func:`evaluate_learning`."""

    runs: tuple[str, ...] = Field(min_length=1)
    """Train runs: ids, unique prefixes or paths."""
    labels: tuple[str, ...] = ()
    """A label for every run, in their order; those with the same one are one curve. Made from what differs if empty."""
    episodes: int = Field(64, ge=2)
    """Episodes per stage and scenario."""
    stages: int = Field(10, ge=1)
    """Stages of a run that are scored, evenly spread; the last one is among them."""
    disturbed: bool = False
    """Score disturbed episodes too."""
    mark: float = 0.95
    """Normalised score whose first passing is reported."""
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """A run of a curve, and the policies of it that are scored."""

    run: Run
    label: str
    stages: list[Stage]

    @property
    def about(self) -> dict[str, object]:
        """Columns that all rows of the run have in common."""
        return {"label": self.label, "run": self.run.id, "seed": self.run.meta.seed}


def evaluate_learning(home: Home, config: LearningConfig, progress: Progress = silent) -> Run:
    """Score the stages of train runs in the simulator and relate scores and model errors to steps and minutes.

    Runs that are alike but for their seed (or have the same label) are one curve: its points are those iterations at
    which all of them kept a policy. Steps are control steps of the run's simulated robots (imagined ones are not
    counted), minutes its time of collecting and learning; both begin at 0 with the policy that the run began with.

    Writes into the new ``eval`` run: ``summary.json``, ``learning.parquet`` (one row per run, iteration and number;
    scores of the mean action by scenario, held-out relative L1 errors of the model, and of the last state held, from
    the run's own metrics), ``learning_by_steps.png`` and ``learning_by_minutes.png``.

    Raises:
        RwmError: A run is not a train run or has no stages, the robots differ, or runs and labels do not match.
    """
    runs = open_runs(home, config)
    robot = common_robot(runs)
    config = config.model_copy(update={"runs": tuple(_name(home, run) for run in runs)})
    trainings = trainings_of(runs, config.labels or labels_of(runs), config.stages)
    run = start_evaluation(home, "learning", config, {"policy": runs[0].id if len(runs) == 1 else None}, config.seed)
    with run.running(), TemporaryDirectory() as folder:
        references = reference_returns(robot, "undisturbed")
        missing = [] if references else [f"normalised scores: {robot.name} has no random and expert policy"]
        missing += _left_out(trainings)
        trainings = [_with_beginning(t, robot, Path(folder), missing) for t in trainings]
        table = pl.DataFrame([*score_rows(trainings, robot, config, progress), *model_rows(trainings)], schema=SCHEMA)
        missing += _errors_not_recorded(trainings, table)
        commit_file(run.path / "learning.parquet", table.write_parquet)
        for x in ("steps", "minutes"):
            title = f"{robot.title}: the mean action, {config.episodes} episodes a point"
            draw_learning(run.path / f"learning_by_{x}.png", table, x, title, config.mark, references)
        compared = equal_budgets(table)
        more: dict[str, object] = {"episodes": config.episodes, "mark": config.mark}
        more["trainings"] = {t.label: [u.run.id for u in trainings if u.label == t.label] for t in trainings}
        more |= {"equal_steps": compared.steps, "equal_minutes": compared.minutes, "verdict": compared.verdict}
        scalars = scalars_of_learning(table, config) + compared.scalars
        finish_evaluation(run, robot.name, scalars, UNITS, **more, not_computed=missing)
    return run


def open_runs(home: Home, config: LearningConfig) -> list[Run]:
    """Return the runs to be evaluated.

    Raises:
        RwmError: There is no such train run, it has no stages or is named twice, or labels are missing.
    """
    runs = [home.run("train", name) for name in config.runs]
    for run in runs:
        if not run.stage_files():
            raise RwmError(f"Run {run.id} has no training stages ({run.meta.status}).", "rwm runs ls --kind train")
    twice = sorted({run.id for run in runs if sum(other.path == run.path for other in runs) > 1})
    if twice:
        raise RwmError(f"Named more than once: {', '.join(twice)}.", "rwm eval learning RUN OTHER_RUN")
    if config.labels and len(config.labels) != len(runs):
        raise RwmError(f"{len(config.labels)} labels for {len(runs)} runs.", "--label NAME for every run, in order")
    return runs


def common_robot(runs: Sequence[Run]) -> RobotSpec:
    """Return the robot of the runs.

    Raises:
        RwmError: They are of several.
    """
    robots = {run.id: training_of(run).robot for run in runs}
    if len(set(robots.values())) > 1:
        named = ", ".join(f"{robot} ({run})" for run, robot in robots.items())
        raise RwmError(f"Trainings of different robots cannot be compared: {named}.", "rwm eval learning RUN")
    return load_robot(next(iter(robots.values())))


def trainings_of(runs: Sequence[Run], labels: Sequence[str], most: int) -> list[Training]:
    """Return the runs with their labels and up to ``most`` stages, at the same iterations for all of a label.

    Raises:
        RwmError: Runs of one label have no iteration in common.
    """
    kept = {run.path: {stage.own_iteration: stage for stage in own_stages(run)} for run in runs}
    chosen: dict[str, list[int]] = {}
    for label in dict.fromkeys(labels):
        mine = [kept[run.path] for run, of_run in zip(runs, labels, strict=True) if of_run == label]
        common = sorted(set.intersection(*(set(stages) for stages in mine)))
        if not common:
            raise RwmError(f"The runs of '{label}' kept no policies at the same iteration.", "--label for each")
        chosen[label] = spread(common, most)
    return [Training(r, la, [kept[r.path][k] for k in chosen[la]]) for r, la in zip(runs, labels, strict=True)]


def spread(iterations: list[int], most: int) -> list[int]:
    """Return up to ``most`` of sorted iterations, spread as evenly as they allow; the last one is among them."""
    wanted = np.linspace(iterations[0], iterations[-1], most) if most > 1 else [iterations[-1]]
    return sorted({min(iterations, key=lambda k, w=w: abs(k - w)) for w in wanted})  # type: ignore[misc]


def _with_beginning(training: Training, robot: RobotSpec, folder: Path, missing: list[str]) -> Training:
    """Put the policy that a run began with before its stages; where it is gone, say so in ``missing``."""
    run, name = training.run, training.run.meta.parents.get("policy")
    try:
        file = Home(run.path.resolve().parents[2]).policy(name).file if name else None
        policy = load_policy(file, robot.name) if file else untrained_policy(robot, run.meta.seed)
    except RwmError as exc:
        missing.append(f"what run {run.id} began with: {exc.message}")
        return training
    if file is None or policy.info.noise_std:
        policy.info = policy.info.model_copy(update={"noise_std": 0.0})
        file = folder / f"{'beginning' if name else 'untrained'}-{run.id if name else run.meta.seed}.safetensors"
        save_policy(policy, file)
    return Training(run, training.label, [Stage(file, run, 0, 0, 0, 0.0), *training.stages])


def score_rows(
    trainings: Sequence[Training], robot: RobotSpec, config: LearningConfig, progress: Progress
) -> list[dict[str, object]]:
    """Return a row for every number of every stage's score; a file that several runs began with is scored once."""
    scenarios: tuple[Scenario, ...] = tuple(SCENARIOS) if config.disturbed else ("undisturbed",)
    files = dict.fromkeys(stage.file for training in trainings for stage in training.stages)
    scores: dict[Path, list[Scalar]] = {}
    name = training_of(trainings[0].run).robot
    for k, file in enumerate(files):
        options = PolicyScoreConfig(policy=str(file), robot=name, episodes=config.episodes, seed=config.seed)
        scores[file] = score_policy(options, scenarios=scenarios)
        for scenario in scenarios:
            scores[file] += normalized(scores[file], scenario, reference_returns(robot, scenario))
        progress(k + 1, len(files), {"return": next(s.value or 0.0 for s in scores[file] if s.metric == "return")})
    return [
        {**training.about, "iteration": stage.iteration, "steps": stage.steps, "minutes": stage.minutes,
         "metric": scalar.metric, "mode": scalar.mode, "horizon": None, "value": scalar.value}
        for training in trainings for stage in training.stages for scalar in scores[stage.file]
        if scalar.metric in KEPT
    ]  # fmt: skip


def model_rows(trainings: Sequence[Training]) -> list[dict[str, object]]:
    """Return a row for every held-out error of the model that the runs recorded, and of the last state held."""
    rows: list[dict[str, object]] = []
    for training in trainings:
        steps, minutes = steps_per_iteration(training_of(training.run)), minutes_of(training.run)
        for row in training.run.metrics():
            match = re.fullmatch(rf"val/({'|'.join(ERRORS)})_h(\d+)", row["metric"])
            if match and int(match[2]) in HORIZONS:
                k, what = int(row["step"]), {"metric": "rel_l1", "mode": ERRORS[match[1]], "horizon": int(match[2])}
                place = {"iteration": k, "steps": k * steps, "minutes": float(minutes[k - 1])}
                rows.append({**training.about, **place, **what, "value": row["value"]})
    return rows


def _left_out(trainings: Sequence[Training]) -> list[str]:
    """Return which runs went on after the last iteration that all runs of their curve have."""
    last = [(t, own_stages(t.run)[-1].own_iteration) for t in trainings]
    return [
        f"iterations {t.stages[-1].own_iteration + 1} to {end} of run {t.run.id}: another run of '{t.label}' has none"
        for t, end in last
        if end > t.stages[-1].own_iteration
    ]


def _errors_not_recorded(trainings: Sequence[Training], table: pl.DataFrame) -> list[str]:
    """Return what there is to say of runs with a model whose error at the main horizon was never measured."""
    measured = table.filter(metric="rel_l1", horizon=HORIZONS[-1])["run"].unique().to_list()
    return [
        f"held-out error at {HORIZONS[-1]} steps of run {t.run.id}: its metrics have none"
        for t in trainings
        if "fit" in t.run.meta.config and t.run.id not in measured
    ]


def scalars_of_learning(table: pl.DataFrame, config: LearningConfig) -> list[Scalar]:
    """Return, for every training, the numbers at its end and the steps and minutes to the mark.

    Numbers at the end are means over runs with a 95 % interval (Student's t over seeds); ``steps_to_mark`` and
    ``minutes_to_mark`` are medians over runs, of each run alone under its id after a slash.
    """
    scalars = []
    for (label,), part in table.group_by("label", maintain_order=True):
        ends = part.filter(pl.col("iteration") == pl.col("iteration").max().over("run", "metric", "mode", "horizon"))
        for (metric, mode, horizon), of_runs in ends.group_by("metric", "mode", "horizon", maintain_order=True):
            values = of_runs["value"].to_list()
            name = metric if mode in ("undisturbed", "model") else f"{metric}_{mode}"
            end = Interval(None) if None in values else seeds_interval(values)
            scalars.append(end.scalar(str(name), str(label), None if horizon is None else int(str(horizon))))
        passed = marks_of(part, config.mark)
        for k, name in enumerate(("steps_to_mark", "minutes_to_mark")):
            scalars.append(Interval(median_of([p and p[k] for p in passed.values()])).scalar(name, str(label)))
            scalars += [Interval(p and p[k]).scalar(f"{name}/{run}", str(label)) for run, p in passed.items()]
    return scalars


def marks_of(table: pl.DataFrame, mark: float) -> dict[str, tuple[float, float] | None]:
    """Return steps and minutes of each run's first stage that scores ``mark`` or more; None where none does."""
    passed: dict[str, tuple[float, float] | None] = {}
    for (run,), part in table.group_by("run", maintain_order=True):
        scores = part.filter(metric="normalized_score", mode="undisturbed").sort("iteration")
        over = scores.filter(pl.col("value") >= mark)
        passed[str(run)] = (float(over["steps"][0]), float(over["minutes"][0])) if len(over) else None
    return passed


def median_of(values: Sequence[float | None]) -> float | None:
    """Return the median, None counting as later than every number; None where that is the median."""
    middle = median(np.inf if v is None else v for v in values)
    return float(middle) if np.isfinite(middle) else None


@dataclass(frozen=True)
class Comparison:
    """Scores after as many steps, and as many minutes, as the shortest training took; empty for one training."""

    steps: float | None
    minutes: float | None
    scalars: list[Scalar]
    verdict: str


def equal_budgets(table: pl.DataFrame) -> Comparison:
    """Compare trainings at equal steps and at equal minutes, interpolated linearly between the stages of each run."""
    metrics = table["metric"].unique().to_list()
    metric = "normalized_score" if "normalized_score" in metrics else "return"
    scores = table.filter(metric=metric, mode="undisturbed").sort("iteration")
    if scores["label"].n_unique() < 2:
        return Comparison(None, None, [], "one training: nothing to compare")
    scalars, words, budgets = [], [], {}
    for x, unit in (("steps", "simulated steps"), ("minutes", "minutes")):
        budget = float(scores.group_by("run").agg(pl.col(x).max())[x].min())  # type: ignore[arg-type]
        at_budget: dict[str, list[float]] = {}
        for (label, _), part in scores.group_by("label", "run", maintain_order=True):
            at_budget.setdefault(str(label), []).append(float(np.interp(budget, part[x], part["value"])))
        intervals = {label: seeds_interval(values) for label, values in at_budget.items()}
        scalars += [i.scalar(f"{metric}_at_equal_{x}", label) for label, i in intervals.items()]
        amount = f"{budget:,.0f} {unit}" if x == "steps" else f"{budget:.3g} {unit}"
        words.append(f"after {amount} {judge(intervals)}")
        budgets[x] = budget
    return Comparison(budgets["steps"], budgets["minutes"], scalars, "; ".join(words))


def judge(scores: dict[str, Interval]) -> str:
    """Return in words which of several trainings scores highest, and whether the intervals of their seeds tell."""
    value = {label: interval.value or 0.0 for label, interval in scores.items()}
    best, second = sorted(value, key=lambda label: value[label], reverse=True)[:2]
    numbers = f"({value[best]:.3g}; {second} {value[second]:.3g})"
    if any(interval.low is None for interval in scores.values()):
        return f"{best} scores highest {numbers}, but with one seed nothing can be told"
    rivals = max(interval.high or 0.0 for label, interval in scores.items() if label != best)
    if (scores[best].low or 0.0) > rivals:
        return f"{best} scores highest {numbers}"
    return f"{best} scores highest {numbers}, but the intervals overlap: the seeds cannot tell"


def _name(home: Home, run: Run) -> str:
    """Return the name under which a run is found again: its id, or its path where it lies in another home."""
    mine = run.path.resolve().parent.parent == home.runs_dir.resolve()
    return run.id if mine else str(run.path.resolve())
