"""How long until a policy is good? Its normalised score in the simulator over the minutes of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from reports.bench.curves import Curve, Panel, draw_over_minutes
from reports.bench.measure import BenchRow, content_of
from reports.evaluate.policy_score import PolicyScoreConfig, normalized, reference_returns, score_policy
from reports.stages import minutes_of
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmrl.policy_file import load_policy


class BenchTimeToScoreConfig(Frozen):
    """Options of :func:`bench_time_to_score`."""

    runs: tuple[str, ...] = Field(min_length=1)
    """Policy or train runs: ids or unique prefixes."""
    mark: float = 0.8
    """Normalised score to pass."""
    stages: int = Field(8, ge=1)
    """Stages of a run that are scored, evenly spread; the last one is among them."""
    episodes: int = Field(64, ge=2)
    """Undisturbed episodes of a stage."""
    seed: int = 0


def bench_time_to_score(
    home: Home, config: BenchTimeToScoreConfig, path: Path | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Score the stages that policies were kept at, and say after how many minutes of training each passed the mark.

    The clock runs in collecting and learning alone, as the run recorded it. A clone that it began with, and the model's
    own fit, are not counted.

    Args:
        home: Where the runs are.
        config: Which runs, and how they are scored.
        path: Where the curves are drawn, PNG; None draws none.
        progress: Called after every stage.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...], "points": [{run, iteration, minutes, score}, ...]}``.
        The baseline is the first run; minutes are None where the mark was not passed.

    Raises:
        RwmError: A run has no stages, or its robot no random and expert policy to normalise by.
    """
    staged = [stages_of_run(home, name, config.stages) for name in dict.fromkeys(config.runs)]
    points: list[dict[str, Any]] = []
    curves = []
    for run, iterations in staged:
        minutes = minutes_of(run)[iterations - 1]
        for k, time in zip(iterations, minutes, strict=True):
            score = score_of(run.stage_file(int(k)), config)
            points.append({"run": run.id, "iteration": int(k), "minutes": float(time), "score": score})
            progress(len(points), sum(len(own) for _, own in staged), {"score": score})
        own = points[-len(iterations) :]
        curves.append(Curve(run.id, tuple(p["minutes"] for p in own), tuple(p["score"] for p in own)))
    if path:
        title = f"{config.episodes} undisturbed episodes a point"
        draw_over_minutes(path, title, [Panel("in the simulator", "normalised score", config.mark, curves)])
    rows, first = [], curves[0]
    for curve in curves:
        beside = first if curve is not first else None
        passed = (curve.until(config.mark, rising=True), beside.until(config.mark, rising=True) if beside else None)
        rows.append(BenchRow(f"{curve.name}: until {config.mark:g} is passed", passed[0], "min", passed[1]))
        last = (curve.values[-1], beside.values[-1] if beside else None)
        rows.append(BenchRow(f"{curve.name}: score after {curve.minutes[-1]:.1f} min", last[0], "1", last[1]))
    return {**content_of("time-to-score", rows), "points": points}


def stages_of_run(home: Home, name: str, count: int) -> tuple[Run, np.ndarray]:
    """Return a run, and after which iterations it kept the policies to score: ``count``, evenly spread, the last too.

    Raises:
        RwmError: There is no such run, or it kept none on its way.
    """
    run = home.policy(name).run
    files = run.stage_files() if run else []
    if not run or not files:
        raise RwmError(f"'{name}' has kept no policies on its way.", "a run of rwm policy or rwm train")
    chosen = np.unique(np.linspace(len(files) - 1, 0, min(count, len(files))).round().astype(int))
    return run, np.array([int(files[k].stem.split("-")[-1]) for k in chosen])


def score_of(file: Path, config: BenchTimeToScoreConfig) -> float:
    """Return a policy's normalised score, undisturbed: 0 is random, 1 the expert.

    Raises:
        RwmError: Its robot has no policies to normalise by.
    """
    robot = load_robot(load_policy(file).info.robot)
    scoring = PolicyScoreConfig(policy=str(file), robot=robot.name, episodes=config.episodes, seed=config.seed)
    scalars = score_policy(scoring, scenarios=("undisturbed",))
    scores = normalized(scalars, "undisturbed", reference_returns(robot, "undisturbed"))
    if not scores or scores[0].value is None:
        raise RwmError(f"{robot.name} has no random and expert policy to normalise a score by.", "rwm eval policy")
    return scores[0].value
