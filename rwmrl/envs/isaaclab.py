"""Isaac Lab 2.3 and 3.0: launches the simulator and hands its task to the manager-based adapter."""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import EnvOptions, VecEnv
from rwmrl.envs.manager_based import ManagerBasedEnv, configure, device_of, pick_task

MODULES_VARIABLE = "RWM_TASK_MODULES"
"""Modules to import before a task is looked up, separated by commas: those that register tasks of one's own."""
ASSETS_VARIABLE = "ISAACSIM_ASSET_ROOT"
"""Isaac Lab's own: folder or address that its tasks load their robots from; read when it is imported."""

_app: object = None
"""The running application of Isaac Lab 2.3: there can be one in a process, and it must live as long as it."""
_launched = ExitStack()
"""What Isaac Lab 3.0 launched for its tasks; it lives as long as the process."""


def start() -> Any:
    """Import Isaac Lab, which starts the simulator without a window where it needs that before anything else.

    Returns:
        Function that launches what a task's configuration needs, given that and launcher arguments; None where
        everything runs already, as in Isaac Lab 2.3.

    Raises:
        RwmError: The simulator does not start.
    """
    global _app
    try:
        app = import_module("isaaclab.app")
        launch = getattr(app, "launch_simulation", None)
        if launch is None and _app is None:
            _app = app.AppLauncher(headless=True).app
    except Exception as exc:  # A broken installation may raise anything.
        raise _does_not_start(exc) from exc
    return launch


def make_isaaclab_env(robot: RobotSpec, options: EnvOptions) -> VecEnv:
    """Return a registered task of Isaac Lab; see :func:`rwmrl.backends.make_env`.

    Raises:
        RwmError: The simulator does not start, the task is not registered, it does not fit the robot, or what it loads
            is not there.
    """
    launch, device = start(), device_of(options)
    import gymnasium as gym

    for module in ["isaaclab_tasks", *filter(None, os.environ.get(MODULES_VARIABLE, "").split(","))]:
        try:
            import_module(module.strip())
        except ImportError as exc:
            raise RwmError(f"The module {module.strip()} cannot be imported: {exc}.", MODULES_VARIABLE) from exc
    from isaaclab_tasks.utils import parse_env_cfg

    name = pick_task(options.task, robot, "isaaclab", sorted(gym.registry))
    cfg = parse_env_cfg(name, device=device, num_envs=options.num_envs)
    configure(cfg, options)
    if launch:
        try:
            _launched.enter_context(launch(cfg, {"device": device}))
        except (Exception, SystemExit) as exc:
            raise _does_not_start(exc) from exc
    try:
        env = gym.make(name, cfg=cfg).unwrapped
    except FileNotFoundError as exc:
        hint = f"rwm robots usd --out FOLDER, then {ASSETS_VARIABLE}=FOLDER; see docs/isaac-lab.md"
        raise RwmError(f"Task {name} cannot load what it is made of: {exc}.", hint) from exc
    return ManagerBasedEnv.of_task(env, robot, options)


def _does_not_start(exc: BaseException) -> RwmError:
    return RwmError(
        f"Isaac Lab does not start: {type(exc).__name__}: {exc}.",
        "rwm doctor says what is missing; Isaac Lab 2.3 runs rwm by its own Python: ./isaaclab.sh -p -m cli ...",
    )
