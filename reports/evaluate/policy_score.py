"""How good is a policy? Unpenalised return, tracking and falls in the simulator, which no world model has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from reports.evaluate.film import draw_film, record
from reports.evaluate.statistics import Interval, ratio_interval, scalars_of
from reports.evaluate.summary import finish_evaluation, start_evaluation
from rwmdata.config import Frozen
from rwmdata.evaluation_summary import Scalar
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Run
from rwmrl.backends import make_env
from rwmrl.behaviour_base import Behaviour, BehaviourContext
from rwmrl.behaviours import make_behaviour, shipped_policies
from rwmrl.control_loop import play
from rwmrl.envs.base import EnvOptions
from rwmrl.policy_file import load_policy
from rwmrl.rewards import RewardModel

Scenario = Literal["undisturbed", "disturbed"]
SCENARIOS: dict[Scenario, bool] = {"undisturbed": False, "disturbed": True}
"""Without, and with, pushes, randomised robots and observation noise."""
UNITS = (
    "return: sum of an episode's rewards; lin_vel_error: m/s; yaw_rate_error: rad/s; episode_steps: control steps; "
    "normalized_score: 0 is random, 1 expert"
)


class PolicyScoreConfig(Frozen):
    """Options of :func:`evaluate_policy`."""

    policy: str
    """Behaviour name, or the path of a policy file."""
    robot: str = "anymal_d"
    backend: str = "auto"
    episodes: int = Field(128, ge=2)
    """Episodes per scenario, one per environment, each to its fall or to the time limit."""
    seed: int = 0
    device: str = "auto"
    """Where Isaac Lab or mjlab simulates; the embedded simulator has the processor."""
    film: bool = False
    """Draw ``film.png``: frames, footfalls and velocities of one undisturbed walk."""


def evaluate_policy(home: Home, config: PolicyScoreConfig, progress: Progress = silent) -> Run:
    """Let a policy walk in the simulator and score it with the robot's own, unmodified reward weights.

    Writes ``summary.json`` into a new ``eval`` run: per scenario the episode return and each term of it, the mean
    errors of linear velocity (m/s) and yaw rate (rad/s), falls per minute and the share of episodes without a fall,
    each with a bootstrap interval over episodes; and, for a robot with shipped policies, the normalised score: 0 is
    the return of ``random``, 1 that of ``expert``, as their files state them.

    Raises:
        RwmError: Unknown robot, backend or policy, or the policy is of another robot; the film cannot be drawn (the
            numbers stay in the run).
    """
    robot = load_robot(config.robot)
    run = start_evaluation(home, "policy", config, parents_of(home, config.policy), config.seed)
    with run.running():
        scalars = score_policy(config, progress)
        for scenario in SCENARIOS:
            scalars += normalized(scalars, scenario, reference_returns(robot, scenario))
        finish_evaluation(run, robot.name, scalars, UNITS, episodes=config.episodes)
    if config.film:
        name = "/".join(Path(config.policy).parts[-3:])  # Of a run's file: the run, its folder and the file.
        draw_film(run.path / "film.png", f"{robot.title}, {name}", robot, record(config.policy, robot))
    return run


def parents_of(home: Home, policy: str) -> dict[str, str | None]:
    """Return the run whose policy it is, with what that was made from; of a file or a behaviour its name alone."""
    checkpoint = home.find_policy(policy)
    if checkpoint is None or checkpoint.run is None:
        return {"policy": checkpoint.id if checkpoint else policy}
    return {"dataset": checkpoint.parent("dataset"), "model": checkpoint.parent("model"), "policy": checkpoint.id}


def score_policy(
    config: PolicyScoreConfig, progress: Progress = silent, scenarios: tuple[Scenario, ...] = tuple(SCENARIOS)
) -> list[Scalar]:
    """Let a policy walk in some scenarios and return its numbers; see :func:`evaluate_policy`."""
    robot = load_robot(config.robot)
    generator = torch.Generator().manual_seed(config.seed)
    behaviour = make_behaviour(config.policy, BehaviourContext(robot, config.episodes, generator))
    scalars = []
    for scenario in scenarios:
        sums = episode_sums(config, robot, behaviour, SCENARIOS[scenario], progress)
        scalars += score(scenario, sums, robot.control_dt_s)
    return scalars


def reference_returns(robot: RobotSpec, scenario: str) -> tuple[float, float] | None:
    """Return what the shipped ``random`` and ``expert`` earn an episode; None for a robot without them."""
    shipped = shipped_policies(robot)
    if not {"random", "expert"} <= shipped.keys():
        return None
    low, high = (load_policy(shipped[name]).info.made["return"][scenario] for name in ("random", "expert"))
    return float(low), float(high)


def normalized(scalars: list[Scalar], scenario: str, references: tuple[float, float] | None) -> list[Scalar]:
    """Return the normalised score of a scenario, one scalar or none: (return - random) / (expert - random)."""
    if references is None:
        return []
    random, expert = references
    earned = next(s for s in scalars if s.key == ("return", scenario, None))
    scaled = (None if x is None else (x - random) / (expert - random) for x in (earned.value, earned.low, earned.high))
    return [Interval(*scaled).scalar("normalized_score", scenario)]


def episode_sums(
    config: PolicyScoreConfig, robot: RobotSpec, behaviour: Behaviour, disturbed: bool, progress: Progress
) -> dict[str, np.ndarray]:
    """Run one episode in every environment and return its sums, each ``(E,)``.

    ``steps`` counts control steps until the fall or the time limit, ``fell`` is 1 for a fall; ``return``,
    ``reward/<term>``, ``lin_vel_error`` and ``yaw_rate_error`` are sums over those steps.
    """
    count = config.episodes
    disturbances = dict.fromkeys(("pushes", "noise", "randomize"), disturbed)
    options = EnvOptions(num_envs=count, seed=config.seed, device=config.device, **disturbances)
    env = make_env(config.backend, robot, options)
    steps = play(env, behaviour, env.max_episode_length)
    rewards = RewardModel(robot, env.schema, count, env.device)
    rewards.reset(torch.arange(count, device=env.device), env.current_rows()[:, env.schema.state])
    sums: dict[str, torch.Tensor] = {}
    running = torch.ones(count, device=env.device)
    for k, played in enumerate(steps):
        step, command = played.step, played.command
        state, contact = step.transition[:, env.schema.state], step.transition[:, env.schema.contact]
        reward, terms = rewards.compute(state, contact, played.action, command)
        values = {"return": reward, "steps": torch.ones_like(reward), "fell": step.terminated.float()}
        values["lin_vel_error"] = (state[:, :2] - command[:, :2]).norm(dim=1)
        values["yaw_rate_error"] = (state[:, 5] - command[:, 2]).abs()
        values |= {f"reward/{name}": term for name, term in terms.items()}
        for name, value in values.items():
            sums[name] = sums.get(name, torch.zeros_like(reward)) + running * value
        running *= (~step.done).float()
        progress(k + 1, env.max_episode_length, {"falls": float(sums["fell"].sum())})
    env.close()
    return {name: value.cpu().numpy().astype(np.float64) for name, value in sums.items()}


def score(scenario: Scenario, sums: dict[str, np.ndarray], control_dt_s: float) -> list[Scalar]:
    """Return the numbers of one scenario, each with a 95 % bootstrap interval over episodes."""
    ones, steps = np.ones(len(sums["steps"])), sums["steps"]
    ratios = {name: (sums[name], ones) for name in sums if name == "return" or name.startswith("reward/")}
    ratios |= {name: (sums[name], steps) for name in ("lin_vel_error", "yaw_rate_error")}
    ratios["falls_per_minute"] = (sums["fell"], steps * control_dt_s / 60)
    ratios["share_without_fall"] = (1 - sums["fell"], ones)
    ratios["episode_steps"] = (steps, ones)
    return scalars_of(scenario, {name: ratio_interval(*parts) for name, parts in ratios.items()})
