"""Training in a simulator: plain PPO (Init-v0), with a model beside it (Pretrain-v0) and through it (Finetune-v0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Checkpoint, Run
from rwmmodel.distributed import Ranks
from rwmrl.backends import EMBEDDED, make_env, resolve_backend
from rwmrl.behaviours import shipped_policies
from rwmrl.envs.base import EnvOptions
from rwmrl.online_config import FinetuneConfig, PretrainConfig, configuration_of, recorded_configuration
from rwmrl.online_training import OnlineTraining
from rwmrl.policy_file import load_policy
from rwmrl.ppo import Runner
from rwmrl.train_config import TrainConfig

SHOWN = ("episode/return", "episode/length", "reward/track_lin_vel_xy_exp", "reward/track_ang_vel_z_exp")
"""Metrics in the progress bar; every reward term is in the metrics and in TensorBoard."""
SHOWN_ONLINE = ("imagined/reward", "episode/return", "episode/length", "model/total", "val/rel_l1_h100")
FROM_NOTHING = "Init-v0"
"""Task whose rewards a policy is trained with that begins with no other's networks."""


def train_in_simulator(
    home: Home, config: TrainConfig | None = None, progress: Progress = silent, resume: Run | None = None
) -> Run:
    """Train a policy by PPO in a simulator.

    With a :class:`PretrainConfig` a model is fitted on its replay; with a :class:`FinetuneConfig` the policy learns
    from steps imagined with that model too.

    Raises:
        RwmError: Unknown task, robot or backend, a configuration of another task, rsl-rl-lib is missing, or torchrun
            started several processes.
        KeyboardInterrupt: Passed on after the state was saved; the run can be resumed.
    """
    if Ranks.from_environment().world > 1:
        raise RwmError("Training in a simulator is the work of one process.", "rwm train, without torchrun")
    if resume:
        config = resume.configuration(recorded_configuration(resume.meta.config))
    config = config or TrainConfig()
    if resume is None and type(config) is not (wanted := configuration_of(config.task)):
        raise RwmError(f"Task {config.task} takes a {wanted.__name__}, not a {type(config).__name__}.")
    robot = load_robot(config.robot)
    source = policy_to_begin_with(home, robot, config.warm_start)
    robot = with_rewards(config, robot)
    of_model = isinstance(config, PretrainConfig) and resolve_backend(config.backend) == EMBEDDED
    device = "auto" if of_model else config.device
    options = EnvOptions(task=config.task, num_envs=config.num_envs, seed=config.seed, device=device)
    real = make_env(config.backend, robot, options)
    try:
        online = None
        if isinstance(config, PretrainConfig):
            weight = config.imagination.anchor if isinstance(config, FinetuneConfig) else 0.0
            anchor = load_policy(source.file, robot) if source and weight else None
            online = OnlineTraining(home, config, robot, real, resume, anchor)
        config = online.config if online else config
        ppo = config.ppo.model_copy(update={"init_std": config.exploration_rad / robot.action_scale})
        parents = {"policy": source.id if source else None}
        if isinstance(config, PretrainConfig):
            parents["model"] = home.model(config.model).id if config.model else None
        run = resume or Run.create(home, "train", config.model_dump(mode="json"), parents, config.seed)
        with run.running():
            env, shown = (online.env, SHOWN_ONLINE) if online else (real, SHOWN)
            runner = Runner(env, ppo, run, robot, config.seed, progress, shown, companion=online)
            if source:
                runner.warm_start(source)
            runner.train(config.iterations)
            dataset = online.finish(run) if online else None
            run.finish(_summary(run, config) | ({"exported": dataset.name} if dataset else {}))
            runner.forget()
    finally:
        real.close()
    return run


def with_rewards(config: TrainConfig, robot: RobotSpec) -> RobotSpec:
    """Return the robot with the rewards of a training.

    Where a model is fitted beside a policy that begins with no other's networks, they are those of a first policy.
    """
    first = isinstance(config, PretrainConfig) and config.warm_start is None
    like = FROM_NOTHING if first else config.task
    weights = robot.task_reward_weights.get(like, {}) | config.rewards
    air_time = {config.task: robot.task_air_time_s[like]} if like in robot.task_air_time_s else {}
    return robot.model_copy(update={"task_reward_weights": {config.task: weights}, "task_air_time_s": air_time})


def policy_to_begin_with(home: Home, robot: RobotSpec, name: str | None) -> Checkpoint | None:
    """Return the policy of that name: a train run, a policy file, or one that comes with the robot.

    Raises:
        RwmError: There is none.
    """
    if name is None:
        return None
    shipped: Path | None = shipped_policies(robot).get(name)
    return Checkpoint.of_file(shipped) if shipped else home.policy(name)


def _summary(run: Run, config: TrainConfig) -> dict[str, Any]:
    last = {name: values[-1] for name, values in run.series().items()}
    held_out = {
        k.replace("val/", "held_out_"): v for k, v in last.items() if k.startswith(("val/rel_l1_h", "val/hold"))
    }
    return {
        "robot": config.robot,
        "task": config.task,
        "iterations": config.iterations,
        "steps": config.iterations * config.num_envs * config.ppo.num_steps,
        "episode_return": last.get("episode/return"),
        "episode_length": last.get("episode/length"),
        **held_out,
        "steps_per_second": last["perf/steps_per_second"],
    }
