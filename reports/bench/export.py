"""How fast is export? Beside the same motion stepped bare by ``mujoco.rollout``, in one run."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field

from reports.bench.measure import beside, content_of, timed
from rwmdata.config import Frozen
from rwmdata.home import Home
from rwmdata.machine import available_threads
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.control_loop import play
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.envs.mujoco_physics import BatchPhysics
from rwmrl.export import ExportConfig, export_dataset

BARE = "mujoco.rollout, bare"


class BenchExportConfig(Frozen):
    """Options of :func:`bench_export`."""

    robot: str = "anymal_d"
    policy: str = "expert"
    transitions: int = Field(400_000, ge=1)
    """Rows the timed export writes."""
    num_envs: int = Field(1024, ge=1)
    steps: int = Field(100, ge=2)
    """Control steps of the motion that is stepped bare, and of the environment alone."""
    repeats: int = Field(3, ge=1)
    """The fastest of so many runs counts, for each of the three."""
    seed: int = 0


def bench_export(config: BenchExportConfig | None = None, progress: Progress = silent) -> dict[str, object]:
    """Time bare physics, the environment, and a whole export with its Parquet files; same robots, same threads.

    The bare run steps the very joint targets the policy gave in the environment, from the same states, all control
    steps in one call of ``mujoco.rollout``: no observation, reward, reset or file.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: control steps, and rows, a second.
    """
    config = config or BenchExportConfig()
    robot = load_robot(config.robot)
    best = {BARE: 0.0, "env.step with policy": 0.0, "export to Parquet": 0.0}
    for k in range(config.repeats):
        env_speed, start, targets = _walk(robot, config)
        speeds = (_bare(robot, config, start, targets), env_speed, _export(config))
        best = {name: max(fastest, speed) for (name, fastest), speed in zip(best.items(), speeds, strict=True)}
        progress(k + 1, config.repeats, best)
    rows = beside(best[BARE], best, "control steps/s")
    rows[-1] = replace(rows[-1], unit="rows/s")
    settings = config.model_dump(include={"num_envs", "transitions", "repeats"})
    return content_of("export", rows, robot=robot.name, policy=config.policy, threads=available_threads(), **settings)


def _walk(robot: RobotSpec, config: BenchExportConfig) -> tuple[float, np.ndarray, np.ndarray]:
    """Return control steps a second in the environment, the start states, and the joint targets ``(E, T, J)``."""
    env = MujocoEnv(robot, MujocoEnvConfig(num_envs=config.num_envs, seed=config.seed))
    behaviour = make_behaviour(
        config.policy, BehaviourContext(robot, config.num_envs, torch.Generator().manual_seed(config.seed))
    )
    steps = play(env, behaviour, config.steps)
    targets = np.empty((config.num_envs, config.steps, env.num_actions))
    default = np.array(robot.default_joint_pos)
    start = env.physics.state.copy()

    def walk() -> None:
        for k, played in enumerate(steps):
            targets[:, k] = default + robot.action_scale * played.action.double().numpy()

    speed = config.num_envs * config.steps / timed(walk)
    env.close()
    return speed, start, targets


def _bare(robot: RobotSpec, config: BenchExportConfig, start: np.ndarray, targets: np.ndarray) -> float:
    physics = BatchPhysics(robot, config.num_envs, MujocoEnvConfig().variants, None, config.seed)
    physics.replay(start, targets[:, :2])
    speed = targets.shape[0] * targets.shape[1] / timed(lambda: physics.replay(start, targets))
    physics.close()
    return speed


def _export(config: BenchExportConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        given = config.model_dump(include={"robot", "policy", "transitions", "num_envs", "seed"})
        options = ExportConfig(**given, name="bench")
        return config.transitions / timed(lambda: export_dataset(Home.resolve(folder), options))
