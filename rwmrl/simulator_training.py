"""Model-free training: plain PPO in a simulator (task Init-v0)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.distributed import Ranks
from rwmrl.backends import make_env
from rwmrl.envs.base import EnvOptions
from rwmrl.ppo import Runner, series
from rwmrl.ppo_config import PPOConfig

SHOWN = ("episode/return", "episode/length", "reward/track_lin_vel_xy_exp", "reward/track_ang_vel_z_exp")
"""Metrics in the progress bar; every reward term is in the metrics and in TensorBoard."""


class TrainConfig(Frozen):
    """Options of :func:`train_in_simulator`."""

    task: str = "Init-v0"
    robot: str = "anymal_d"
    backend: str = "auto"
    num_envs: int = Field(4096, ge=1)
    iterations: int = Field(300, ge=1)
    ppo: PPOConfig = PPOConfig(checkpoint_interval=10)
    """Checkpoints are close together because the stages of a run are worth replaying. ``init_std`` is set from the
    next field."""
    exploration_rad: float = Field(0.25, gt=0)
    """Standard deviation of the joint targets that training starts with, rad: the same motion for every action scale.
    With twice as much, noise alone makes every step's reward negative; falling then pays, and PPO learns that first.
    With half as much, a standing robot does not discover that it could walk."""
    rewards: dict[str, float] = {}
    """Weights of reward terms, over those the robot has for the task."""
    warm_start: str | None = None
    """Train run whose networks this one begins with, or a policy file, which gives the actor alone."""
    seed: int = 0


def train_in_simulator(
    home: Home, config: TrainConfig | None = None, progress: Progress = silent, resume: Run | None = None
) -> Run:
    """Train a policy by PPO in a simulator.

    Raises:
        RwmError: Unknown task, robot or backend, rsl-rl-lib is missing, or torchrun started several processes.
        KeyboardInterrupt: Passed on; the last checkpoint stays and the run can be resumed.
    """
    if Ranks.from_environment().world > 1:
        raise RwmError("Training in a simulator is the work of one process.", "rwm train, without torchrun")
    config = resume.configuration(TrainConfig) if resume else config or TrainConfig()
    robot = load_robot(config.robot)
    weights = {config.task: robot.task_reward_weights.get(config.task, {}) | config.rewards}
    robot = robot.model_copy(update={"task_reward_weights": robot.task_reward_weights | weights})
    env = make_env(config.backend, robot, EnvOptions(task=config.task, num_envs=config.num_envs, seed=config.seed))
    ppo = config.ppo.model_copy(update={"init_std": config.exploration_rad / robot.action_scale})
    source = home.policy(config.warm_start, ("train",)) if config.warm_start else None
    parents = {"policy": source.id if source else None}
    run = resume or Run.create(home, "train", config.model_dump(mode="json"), parents, config.seed)
    try:
        with run.running():
            runner = Runner(env, ppo, run, robot, config.seed, progress, SHOWN)
            if source:
                runner.warm_start(source)
            runner.train(config.iterations)
            run.finish(_summary(run, config))
    finally:
        env.close()
    return run


def _summary(run: Run, config: TrainConfig) -> dict[str, Any]:
    last = {name: values[-1] for name, values in series(run).items()}
    return {
        "robot": config.robot,
        "task": config.task,
        "iterations": config.iterations,
        "steps": config.iterations * config.num_envs * config.ppo.num_steps,
        "episode_return": last.get("episode/return"),
        "episode_length": last.get("episode/length"),
        "steps_per_second": last["perf/steps_per_second"],
    }
