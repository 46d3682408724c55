"""Reference policies of a robot: score the stages of a training run and pick random, medium and expert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from reports.evaluate.policy_score import SCENARIOS, PolicyScoreConfig, Scenario, score_policy
from reports.figures import BLUE, GREY, ORANGE, figure
from reports.stages import Stage, stages_of
from rwmdata.atomic import commit_folder, write_json
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Run
from rwmrl.behaviours import RANDOM, STAGES, untrained_policy
from rwmrl.policy_file import load_policy, save_policy
from rwmrl.policy_network import MlpPolicy

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
    run: Run, out: Path, config: ReferenceConfig | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Score a training run's stages and write a robot's reference policies.

    Writes ``random``, ``medium`` and ``expert.safetensors`` into ``out``, each stating how it was made and what it
    scores, the stages for ``mixed`` into ``out/stages``, ``scores.json``, the learning curve ``curve.png`` and a
    ``README.md`` with the table. The stages of a warm start's run count.
    Expert is the run's last stage. Medium is the stage whose return lies nearest to the middle between the first
    stage's and the expert's: on its way, with faults. (The first stage stands still, which earns far more than random
    actions.)

    Raises:
        RwmError: The run is not a training run, has fewer than three stages, or did not learn anything; ``out`` holds
            other things.
    """
    config = config or ReferenceConfig()
    stages = stages_of(run)
    if len(stages) < 3:
        raise RwmError(f"Run {run.id} has too few training stages to pick from.", "rwm train --task Init-v0")
    if out.exists() and any(out.iterdir()) and not (out / SCORES).is_file():
        raise RwmError(f"{out} holds other things than reference policies; nothing was written.", "--out NEW_FOLDER")
    robot = load_robot(run.meta.config["robot"])
    chosen = {s.name: s for s in (stages[round(i)] for i in np.linspace(0, len(stages) - 1, config.curve))}
    with commit_folder(out, hint="--out NEW_FOLDER", replace=True) as building:
        untrained = building / f"{RANDOM}.safetensors"
        save_policy(untrained_policy(robot, config.seed), untrained)
        only: tuple[Scenario, ...] = ("undisturbed",)
        scores = {RANDOM: _score(untrained, robot, config.stage_episodes, config.seed, only)}
        for k, (name, stage) in enumerate(chosen.items()):
            scores[name] = _score(stage.file, robot, config.stage_episodes, config.seed, only)
            progress(k + 1, len(chosen), {"return": scores[name]["undisturbed"]["return"]})
        returns = {name: score["undisturbed"]["return"] for name, score in scores.items()}
        first, *_, last = chosen
        middle = (returns[first] + returns[last]) / 2
        medium = min(chosen, key=lambda name: abs(returns[name] - middle))
        for name, picked in ((RANDOM, None), ("medium", chosen[medium]), ("expert", chosen[last])):
            _ship(picked, building / f"{name}.safetensors", robot, config)
        (building / STAGES).mkdir()
        for name in spread(returns, list(chosen), config.stages):
            policy = load_policy(chosen[name].file)
            policy.info = policy.info.model_copy(update={"made": chosen[name].made()})
            save_policy(policy, building / STAGES / f"{name}.safetensors")
        table = curve_table(list(chosen.values()), returns)
        summary = {"robot": robot.name, "run": run.id, "scores": scores, "curve": table, "medium": medium}
        write_json(building / SCORES, summary)
        draw_curve(building / "curve.png", robot.title, table, returns[RANDOM])
        (building / "README.md").write_text(describe(building, robot))
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


def curve_table(stages: list[Stage], returns: dict[str, float]) -> list[dict[str, float]]:
    """Return for every stage its iteration, steps, minutes of training until then, return and normalised score."""
    share = normalise(returns, stages[-1].name)
    columns = ("iteration", "steps", "minutes", "return", "normalized_score")
    rows = ((s.iteration, s.steps, s.minutes, returns[s.name], share[s.name]) for s in stages)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def describe(folder: Path, robot: RobotSpec) -> str:
    """Return what a folder of reference policies holds, as Markdown, from its files."""
    made = {name: load_policy(folder / f"{name}.safetensors").info.made for name in (RANDOM, "medium", "expert")}
    content = json.loads((folder / SCORES).read_text())
    scores, curve = content["scores"], content["curve"]
    lines = [
        f"# Reference policies of {robot.title}\n",
        f"{made['expert']['episodes']} episodes of {robot.episode_length_s:g} s: commands uniform in [-1, 1] m/s,",
        "headings steered to at up to 1 rad/s, return with the robot's full reward weights. Policies act by their",
        "mean, `random` with its noise. Disturbed: pushes, randomised trunks, noise on what the policy sees.\n",
        "| policy | scenario | return | normalised | velocity error (m/s) | yaw rate error (rad/s) "
        "| episodes without a fall | falls a minute |",
        "|---" * 8 + "|",
    ]
    for name, numbers in made.items():
        for scenario in SCENARIOS:
            value = {metric: numbers[metric][scenario] for metric in KEPT}
            low, high = (made[end]["return"][scenario] for end in (RANDOM, "expert"))
            lines.append(
                f"| {name} | {scenario} | {value['return']:.2f} | {(value['return'] - low) / (high - low):.2f} "
                f"| {value['lin_vel_error']:.3f} | {value['yaw_rate_error']:.3f} "
                f"| {100 * value['share_without_fall']:.1f} % | {value['falls_per_minute']:.2f} |"
            )
    if goal := reached(curve):
        lines += [
            f"\n{EXPERT_SHARE:.0%} of the expert's return was reached after {goal['minutes']:.0f} minutes of training:",
            f"{goal['iteration']} iterations, {goal['steps'] / 1e6:.1f} million steps.",
        ]
    random_return, (_, first, *_) = scores[RANDOM]["undisturbed"]["return"], scores.values()
    does = "stands still and earns" if first["undisturbed"]["share_without_fall"] > 0.5 else "falls, with a return of"
    lines += [
        f"The untrained mean action {does} {curve[0]['return']:.1f}, random actions earn {random_return:.1f}:",
        "read the return beside the normalised score.\n\nHow they were made:\n\n```",
    ]
    commands = [made[name].get(key) for name in ("medium", "expert") for key in ("warm_start", "how")]
    return "\n".join([*lines, *dict.fromkeys(filter(None, commands)), "rwm eval references", "```", ""])


def reached(curve: list[dict[str, float]]) -> dict[str, float] | None:
    """Return the first row of a learning curve that earns ``EXPERT_SHARE`` of the last one's return."""
    return next((row for row in curve if row["return"] >= EXPERT_SHARE * curve[-1]["return"]), None)


def draw_curve(path: Path, title: str, table: list[dict[str, float]], random_return: float) -> None:
    """Draw the return over minutes and over environment steps."""
    minutes, earned = [r["minutes"] for r in table], [r["return"] for r in table]
    goal, first = EXPERT_SHARE * earned[-1], reached(table)
    with figure(path) as axes:
        ax = axes[0, 0]
        ax.plot(minutes, earned, color=BLUE, marker="o", label="mean action, undisturbed episodes")
        ax.axhline(goal, color=GREY, linestyle="--", linewidth=1.2, label=f"{EXPERT_SHARE:.0%} of the expert's return")
        if first:
            ax.axvline(first["minutes"], color=ORANGE, linewidth=1.2, label=f"reached after {first['minutes']:.1f} min")
        ax.set(xlabel="training time (min)", ylabel="return of an episode, full reward weights")
        ax.set_title(f"{title}: PPO in the simulator (random actions earn {random_return:.1f})")
        ax.legend(loc="lower right")
        per_minute = table[-1]["steps"] / 1e6 / table[-1]["minutes"]
        top = ax.secondary_xaxis("top", functions=(lambda x: x * per_minute, lambda x: x / per_minute))
        top.set_xlabel("environment steps (million, at the mean rate)", fontsize=12)


def _score(
    policy: Path, robot: RobotSpec, episodes: int, seed: int, scenarios: tuple[Scenario, ...] = tuple(SCENARIOS)
) -> dict[str, dict[str, float]]:
    config = PolicyScoreConfig(policy=str(policy), robot=str(robot.folder), episodes=episodes, seed=seed)
    scores: dict[str, dict[str, float]] = {scenario: {} for scenario in scenarios}
    for scalar in score_policy(config, scenarios=scenarios):
        if scalar.metric in KEPT and scalar.value is not None:
            scores[str(scalar.mode)][scalar.metric] = scalar.value
    return scores


def _ship(stage: Stage | None, path: Path, robot: RobotSpec, config: ReferenceConfig) -> None:
    """Write a stage, or without one the untrained policy, with its scores."""
    policy: MlpPolicy = load_policy(stage.file) if stage else untrained_policy(robot, config.seed)
    save_policy(policy, path)
    scores = _score(path, robot, config.episodes, config.seed)
    numbers = {metric: {scenario: scores[scenario][metric] for scenario in SCENARIOS} for metric in KEPT}
    made = stage.made() if stage else {"how": "untrained: the network PPO starts from, acting with noise"}
    policy.info = policy.info.model_copy(update={"made": {**made, "episodes": config.episodes, **numbers}})
    save_policy(policy, path)
