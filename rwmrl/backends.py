"""Which simulator runs a task."""

from __future__ import annotations

from importlib.util import find_spec

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import VecEnv
from rwmrl.tasks import get_task

BACKENDS = ("auto", "mujoco", "isaaclab", "mjlab")
EMBEDDED = "mujoco"
BOUNDED_RESAMPLE_S = (1.0, 3.0)
"""How long a command is held within bounds: in ten seconds nearly every one would leave."""


def resolve_backend(name: str) -> str:
    """Return the backend that ``name`` stands for on this machine (``auto`` is the embedded simulator).

    Raises:
        RwmError: There is no such backend, or this machine cannot run it.
    """
    if name not in BACKENDS:
        raise RwmError(f"Unknown backend '{name}'; backends: {', '.join(BACKENDS)}.", f"--backend {EMBEDDED}")
    if name in ("auto", EMBEDDED):
        if find_spec("mujoco") is None:
            raise RwmError("The simulator needs the package mujoco, which is not installed.", "pip install rwm[mujoco]")
        return EMBEDDED
    why = f"package {name} is not installed" if find_spec(name) is None else "this version has no adapter for it"
    raise RwmError(f"Backend '{name}' is not available here: {why}.", f"--backend {EMBEDDED}")


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
) -> VecEnv:
    """Return the environment of a task.

    Args:
        backend: One of ``BACKENDS``.
        task: One of ``rwmrl.tasks.TASKS``.
        robot: The robot.
        num_envs: Robots simulated side by side.
        seed: The same seed gives the same motion.
        episode_length_s: Time limit of an episode; the robot's own when None.
        pushes: Kick the base; as the task has it when None.
        noise: Add observation noise; as the task has it when None.
        randomize: Vary the robots; as the task has it when None.
        bounds_m: Length and width of a rectangle around the origin that commands keep the robot in.

    Raises:
        RwmError: Backend or task is unknown, or the backend cannot run here.
    """
    resolve_backend(backend)
    chosen = get_task(task)
    from rwmrl.commands import CommandConfig
    from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig

    bounded = {"bounds_m": bounds_m, "resample_s": BOUNDED_RESAMPLE_S} if bounds_m else {}
    config = MujocoEnvConfig(
        num_envs=num_envs,
        seed=seed,
        episode_length_s=episode_length_s,
        reward_weights=robot.task_reward_weights.get(task, {}),
        pushes=chosen.pushes if pushes is None else pushes,
        noise=chosen.noise if noise is None else noise,
        randomize=chosen.randomize if randomize is None else randomize,
        command=CommandConfig(heading=True, **bounded),
    )
    return MujocoEnv(robot, config)
