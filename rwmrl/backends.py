"""Which simulators this machine has, and the environment of a task in one of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import VecEnv
from rwmrl.tasks import get_task

EMBEDDED = "mujoco"
BACKENDS = ("auto", EMBEDDED, "isaaclab", "mjlab")
INSTALL = {
    EMBEDDED: "pip install rwm[mujoco]",
    "isaaclab": "install Isaac Lab 2.3 (it needs an NVIDIA GPU), then pip install rwm into its Python",
    "mjlab": "pip install mjlab, in an environment of its own: it pins another rsl-rl-lib",
}
BOUNDED_RESAMPLE_S = (1.0, 3.0)
"""How long a command is held within bounds: in ten seconds nearly every one would leave."""


def why_unavailable(backend: str) -> str | None:
    """Return why this machine cannot run a backend, in a few words; None when it can, as far as can be seen."""
    if find_spec(backend) is None:
        return f"package {backend} is not installed"
    if backend == "isaaclab" and find_spec("isaacsim") is None and "ISAAC_PATH" not in os.environ:
        return "package isaaclab is here, but its runtime Isaac Sim (package isaacsim) is not"
    if backend == "isaaclab" and not _has_nvidia_gpu():
        return "Isaac Sim needs an NVIDIA GPU, and none answers"
    return None


def backend_version(backend: str) -> str | None:
    """Return the installed version of a backend's package, or None."""
    try:
        return version(backend)
    except PackageNotFoundError:
        return None


def resolve_backend(name: str) -> str:
    """Return the backend that ``name`` stands for on this machine (``auto`` is the embedded simulator).

    Raises:
        RwmError: There is no such backend, or this machine cannot run it.
    """
    if name not in BACKENDS:
        raise RwmError(f"Unknown backend '{name}'; backends: {', '.join(BACKENDS)}.", f"--backend {EMBEDDED}")
    backend = EMBEDDED if name == "auto" else name
    why = why_unavailable(backend)
    if why:
        raise RwmError(f"Backend '{backend}' is not available here: {why}.", INSTALL[backend])
    return backend


def make_env(
    backend: str,
    task: str,
    robot: RobotSpec,
    num_envs: int,
    seed: int = 0,
    episode_length_s: float | None = None,
    pushes: bool | None = None,
    noise: bool | None = None,
    randomize: bool | None = None,
    bounds_m: tuple[float, float] | None = None,
    threads: int | None = None,
) -> VecEnv:
    """Return the environment of a task.

    Args:
        backend: One of ``BACKENDS``.
        task: One of ``rwmrl.tasks.TASKS``, or an id registered with another simulator.
        robot: The robot.
        num_envs: Robots simulated side by side.
        seed: The same seed gives the same motion.
        episode_length_s: Time limit of an episode; the robot's or the simulator's own when None.
        pushes: Kick the base; as the task has it when None.
        noise: Add observation noise; as the task has it when None.
        randomize: Vary the robots; as the task has it when None.
        bounds_m: Length and width of a rectangle around the origin that commands keep the robot in; embedded
            simulator only.
        threads: Physics threads of the embedded simulator; the cores this process may use when None.

    Raises:
        RwmError: Backend or task is unknown, or the backend cannot run here or within bounds.
    """
    chosen = resolve_backend(backend)
    config = get_task(task, chosen)
    weights = robot.task_reward_weights.get(task, {})
    noise = config.noise if noise is None else noise
    if chosen != EMBEDDED:
        if bounds_m:
            raise RwmError(f"Backend '{chosen}' draws its own commands; bounds need the embedded simulator.")
        # The task's own pushes and randomisation stay unless they are switched off, here or by our task.
        pushes = pushes if pushes is not None or config.pushes else False
        randomize = randomize if randomize is not None or config.randomize else False
        make = _manager_based(chosen)
        return make(task, robot, num_envs, seed, episode_length_s, pushes, noise, randomize, weights)
    from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
    from rwmrl.rewards import AIR_TIME_THRESHOLD_S
    from rwmrl.velocity_commands import CommandConfig

    command = CommandConfig(heading=True)
    if bounds_m:
        command = CommandConfig(heading=True, bounds_m=bounds_m, resample_s=BOUNDED_RESAMPLE_S)
    settings = MujocoEnvConfig(
        num_envs=num_envs,
        seed=seed,
        episode_length_s=episode_length_s,
        reward_weights=weights,
        air_time_threshold_s=robot.task_air_time_s.get(task, AIR_TIME_THRESHOLD_S),
        pushes=config.pushes if pushes is None else pushes,
        noise=noise,
        randomize=config.randomize if randomize is None else randomize,
        command=command,
        threads=threads,
    )
    return MujocoEnv(robot, settings)


def _manager_based(backend: str) -> Callable[..., VecEnv]:
    if backend == "mjlab":
        from rwmrl.envs.mjlab import make_mjlab_env

        return make_mjlab_env
    from rwmrl.envs.isaaclab import make_isaaclab_env

    return make_isaaclab_env


def _has_nvidia_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
