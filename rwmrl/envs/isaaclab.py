"""Isaac Lab 2.3: launches the simulator and hands its task to the manager-based adapter."""

from __future__ import annotations

import os
from importlib import import_module

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import EnvOptions, VecEnv
from rwmrl.envs.manager_based import ManagerBasedEnv, configure, pick_task

MODULES_VARIABLE = "RWM_TASK_MODULES"
"""Modules to import before a task is looked up, separated by commas: those that register tasks of one's own."""
DEVICE_VARIABLE = "RWM_ISAACLAB_DEVICE"

_app: object = None
"""The running application: there can be one in a process, and it must live as long as its environments."""


def launch() -> None:
    """Start the simulator without a window, once.

    Raises:
        RwmError: The simulator does not start.
    """
    global _app
    if _app is None:
        try:
            from isaaclab.app import AppLauncher

            _app = AppLauncher(headless=True).app
        except Exception as exc:  # A broken installation may raise anything.
            raise RwmError(
                f"Isaac Lab does not start: {type(exc).__name__}: {exc}.",
                "run rwm by Isaac Lab's own Python: ./isaaclab.sh -p -m cli ...; rwm doctor says what is missing",
            ) from exc


def make_isaaclab_env(robot: RobotSpec, options: EnvOptions) -> VecEnv:
    """Return a registered task of Isaac Lab; see :func:`rwmrl.backends.make_env`.

    Raises:
        RwmError: The simulator does not start, the task is not registered, or it does not fit the robot.
    """
    launch()
    import gymnasium as gym

    for module in ["isaaclab_tasks", *filter(None, os.environ.get(MODULES_VARIABLE, "").split(","))]:
        try:
            import_module(module.strip())
        except ImportError as exc:
            raise RwmError(f"The module {module.strip()} cannot be imported: {exc}.", MODULES_VARIABLE) from exc
    from isaaclab_tasks.utils import parse_env_cfg

    name = pick_task(options.task, robot, "isaaclab", sorted(gym.registry))
    cfg = parse_env_cfg(name, device=os.environ.get(DEVICE_VARIABLE, "cuda:0"), num_envs=options.num_envs)
    configure(cfg, options)
    return ManagerBasedEnv.of_task(gym.make(name, cfg=cfg).unwrapped, robot, options)
