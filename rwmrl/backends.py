"""Simulators by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import VecEnv
from rwmrl.tasks import TaskConfig, reward_weights

BACKENDS = ("mujoco", "isaaclab", "mjlab")


def resolve_backend(name: str) -> str:
    """Return the simulator ``name`` stands for; ``auto`` is the embedded MuJoCo.

    Raises:
        RwmError: The name is unknown, or its package is not installed.
    """
    if name not in ("auto", *BACKENDS):
        raise RwmError(f"Unknown backend '{name}'; backends: auto, {', '.join(BACKENDS)}.", "--backend mujoco")
    chosen = "mujoco" if name == "auto" else name
    if find_spec(chosen) is None:
        raise RwmError(
            f"Backend '{chosen}' is not available: the package {chosen} is not installed.",
            f"pip install 'rwm[{chosen}]'",
        )
    return chosen


def make_env(backend: str, task: TaskConfig, robot: RobotSpec, num_envs: int, seed: int, **options: Any) -> VecEnv:
    """Build a simulated environment.

    Args:
        backend: ``auto``, ``mujoco``, ``isaaclab`` or ``mjlab``.
        task: Decides the reward weights.
        robot: The robot.
        num_envs: Robots side by side.
        seed: Seed of everything random in it.
        options: Further fields of the backend's configuration.

    Raises:
        RwmError: The backend is unknown or not available here.
    """
    chosen = resolve_backend(backend)
    if chosen == "mujoco":
        from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig

        weights = reward_weights(task, robot)
        return MujocoEnv(robot, MujocoEnvConfig(num_envs=num_envs, seed=seed, reward_weights=weights, **options))
    raise RwmError(f"Backend '{chosen}' cannot be driven yet.", "--backend mujoco")
