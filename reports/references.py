"""Reference policies of a robot: a training run's stages are scored, and random, medium and expert are picked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from reports.figures import BLUE, GREY, ORANGE, figure
from reports.policy_score import SCENARIOS, PolicyScoreConfig, Scenario, score_policy
from rwmdata.atomic import temporary_name, write_json
from rwmdata.errors import RwmError
from rwmdata.progress import Progress
from rwmdata.robots import Frozen, RobotSpec, load_robot
from rwmdata.runs import Run
from rwmrl.behaviours import RANDOM, STAGES, untrained_policy
from rwmrl.policy_file import MlpPolicy, load_policy, save_policy
from rwmrl.ppo import series

KEPT = ("return", "lin_vel_error", "yaw_rate_error", "falls_per_minute", "share_without_fall")
"""Numbers a shipped policy's file states of it, per scenario."""
SCORES = "scores.json"
"""Marks a folder of reference policies; only such a folder, or an empty one, is replaced."""
EXPERT_SHARE = 0.8
"""The learning curve says when this share of the expert's return is reached."""


class ReferenceConfig(Frozen):
    """Options of :func:`build_references`."""

    episodes: int = Field(512, ge=2)
    """Episodes per scenario for the policies that are picked."""
    stage_episodes: int = Field(64, ge=2)
    """Undisturbed episodes for every stage of the run."""
    curve: int = Field(16, ge=3)
    """Stages that are scored, evenly spread over the run."""
    stages: int = Field(6, ge=2)
    """Stages that are kept for ``--policy mixed``: returns spread as evenly as the run allows."""
    seed: int = 0


def build_references(
    run: Run, out: Path, config: ReferenceConfig | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Score a training run's stages and write a robot's reference policies.

    Writes ``random``, ``medium`` and ``expert.safetensors`` into ``out``, each stating how it was made and what it
    scores, the stages for ``mixed`` into ``out/stages``, ``scores.json`` and the learning curve ``curve.png``.
    Expert is the run's last stage. Medium is the stage whose return lies nearest to the middle between the first
    stage's and the expert's: on its way, with faults. (The first stage stands still, which earns far more than random
    actions.)

    Raises:
        RwmError: The run is not a training run, has fewer than three stages, or did not learn anything; ``out`` holds
            other things.
    """
    config = config or ReferenceConfig()
    files = sorted(run.checkpoints.glob("policy-*.safetensors"))
    if run.kind != "train" or len(files) < 3:
        raise RwmError(f"Run {run.id} has no training stages to pick from.", "rwm train --task Init-v0")
    if out.exists() and any(out.iterdir()) and not (out / SCORES).is_file():
        raise RwmError(f"{out} holds other things than reference policies; nothing was written.", "--out NEW_FOLDER")
    robot = load_robot(run.meta.config["robot"])
    chosen = sorted({round(i) for i in np.linspace(0, len(files) - 1, config.curve)})
    building = temporary_name(out)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        names = {files[i].stem: files[i] for i in chosen}
        save_policy(untrained_policy(robot, config.seed), building / f"{RANDOM}.safetensors")
        only: tuple[Scenario, ...] = ("undisturbed",)
        untrained = building / f"{RANDOM}.safetensors"
        scores = {RANDOM: _score(untrained, robot, config.stage_episodes, config.seed, only)}
        for k, (name, file) in enumerate(names.items()):
            scores[name] = _score(file, robot, config.stage_episodes, config.seed, only)
            if progress:
                progress(k + 1, len(names), {"return": scores[name]["undisturbed"]["return"]})
        returns = {name: found["undisturbed"]["return"] for name, found in scores.items()}
        share, stages = normalise(returns, list(names)[-1]), list(names)
        middle = (returns[stages[0]] + returns[stages[-1]]) / 2
        medium = min(stages, key=lambda name: abs(returns[name] - middle))
        for name, source in ((RANDOM, None), ("medium", names[medium]), ("expert", names[stages[-1]])):
            policy = load_policy(source) if source else untrained_policy(robot, config.seed)
            _ship(policy, source, building / f"{name}.safetensors", robot, run, config)
        (building / STAGES).mkdir()
        for name in spread(returns, stages, config.stages):
            stage = load_policy(names[name])
            stage.info = stage.info.model_copy(update={"made": _origin(names[name], run)})
            save_policy(stage, building / STAGES / f"stage-{name.removeprefix('policy-')}.safetensors")
        table = curve_table(run, {name: returns[name] for name in names}, share)
        summary = {"robot": robot.name, "run": run.id, "scores": scores, "curve": table, "medium": medium}
        write_json(building / SCORES, summary)
        draw_curve(building / "curve.png", robot.title, table, returns[RANDOM])
        shutil.rmtree(out, ignore_errors=True)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return summary


def normalise(returns: dict[str, float], expert: str) -> dict[str, float]:
    """Return (return - random) / (expert - random) of each policy.

    Raises:
        RwmError: The expert is no better than random.
    """
    low, high = returns[RANDOM], returns[expert]
    if high <= low:
        raise RwmError(f"The last stage earns {high:.3g}, no more than a random policy's {low:.3g}.", "train longer")
    return {name: (value - low) / (high - low) for name, value in returns.items()}


def spread(returns: dict[str, float], stages: list[str], count: int) -> list[str]:
    """Return up to ``count`` of ``stages`` whose returns lie as evenly as possible between the first's and last's."""
    wanted = np.linspace(returns[stages[0]], returns[stages[-1]], count)
    nearest = {min(stages, key=lambda name, w=w: abs(returns[name] - w)) for w in wanted}  # type: ignore[misc]
    return [name for name in stages if name in nearest]


def curve_table(run: Run, returns: dict[str, float], share: dict[str, float]) -> list[dict[str, float]]:
    """Return for every stage its iteration, steps, minutes of training until then, return and normalised score."""
    found = series(run)
    seconds = np.cumsum(np.array(found["perf/collect_s"]) + np.array(found["perf/learn_s"]))
    steps = run.meta.config["num_envs"] * run.meta.config["ppo"]["num_steps"]
    rows = []
    for name, value in returns.items():
        iteration = int(name.removeprefix("policy-"))
        rows.append({
            "iteration": iteration, "steps": iteration * steps, "minutes": float(seconds[iteration - 1]) / 60,
            "return": value, "normalized_score": share[name],
        })  # fmt: skip
    return rows


def draw_curve(path: Path, title: str, table: list[dict[str, float]], random_return: float) -> None:
    """Draw the return over minutes and over environment steps."""
    minutes, earned = [r["minutes"] for r in table], [r["return"] for r in table]
    goal = EXPERT_SHARE * earned[-1]
    reached = next((r["minutes"] for r in table if r["return"] >= goal), None)
    with figure(path) as axes:
        ax = axes[0, 0]
        ax.plot(minutes, earned, color=BLUE, marker="o", label="mean action, undisturbed episodes")
        ax.axhline(goal, color=GREY, linestyle="--", linewidth=1.2, label=f"{EXPERT_SHARE:.0%} of the expert's return")
        if reached is not None:
            ax.axvline(reached, color=ORANGE, linewidth=1.2, label=f"reached after {reached:.1f} min")
        ax.set(
            xlabel="training time (min)", ylabel="return of a 20 s episode, full reward weights",
            title=f"{title}: PPO in the simulator (random actions earn {random_return:.1f})",
        )  # fmt: skip
        ax.legend(loc="lower right")
        per_minute = table[-1]["steps"] / 1e6 / table[-1]["minutes"]
        top = ax.secondary_xaxis("top", functions=(lambda x: x * per_minute, lambda x: x / per_minute))
        top.set_xlabel("environment steps (million, at the mean rate)", fontsize=12)


def _score(
    policy: Path, robot: RobotSpec, episodes: int, seed: int, scenarios: tuple[Scenario, ...] = tuple(SCENARIOS)
) -> dict[str, dict[str, float]]:
    scalars = score_policy(PolicyScoreConfig(policy=str(policy), robot=str(robot.folder), episodes=episodes, seed=seed))
    return {
        scenario: {s["metric"]: s["value"] for s in scalars if s["mode"] == scenario and s["metric"] in KEPT}
        for scenario in scenarios
    }


def _origin(source: Path | None, run: Run) -> dict[str, Any]:
    if source is None:
        return {"how": "untrained: the network PPO starts from, acting with noise"}
    config = run.meta.config
    command = f"rwm train --task {config['task']} --robot {config['robot']} --num-envs {config['num_envs']}"
    iteration = int(source.stem.removeprefix("policy-"))
    return {"how": f"{command} --seed {config['seed']}, after {iteration} iterations", "config": config}


def _ship(
    policy: MlpPolicy, source: Path | None, path: Path, robot: RobotSpec, run: Run, config: ReferenceConfig
) -> None:
    save_policy(policy, path)
    found = _score(path, robot, config.episodes, config.seed)
    numbers = {metric: {scenario: found[scenario][metric] for scenario in SCENARIOS} for metric in KEPT}
    made = {**_origin(source, run), "episodes": config.episodes, **numbers}
    policy.info = policy.info.model_copy(update={"made": made})
    save_policy(policy, path)
