"""Which simulators this machine has, and the environment of a task in one of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmrl.envs.base import EnvOptions, VecEnv
from rwmrl.tasks import get_task

EMBEDDED = "mujoco"


@dataclass(frozen=True)
class Backend:
    """A simulator; its name is that of its package."""

    install: str
    """How to get it."""
    factory: str
    """``module:function`` that returns an environment for a robot and :class:`EnvOptions`."""


BACKENDS = {
    EMBEDDED: Backend("pip install rwm[mujoco]", "rwmrl.envs.mujoco:make_mujoco_env"),
    "isaaclab": Backend(
        "install Isaac Lab 2.3 (it needs an NVIDIA GPU), then pip install rwm into its Python",
        "rwmrl.envs.isaaclab:make_isaaclab_env",
    ),
    "mjlab": Backend(
        "pip install mjlab, in an environment of its own: it pins another rsl-rl-lib", "rwmrl.envs.mjlab:make_mjlab_env"
    ),
}


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
    backend = EMBEDDED if name == "auto" else name
    if backend not in BACKENDS:
        raise RwmError(f"Unknown backend '{name}'; backends: auto, {', '.join(BACKENDS)}.", f"--backend {EMBEDDED}")
    why = why_unavailable(backend)
    if why:
        raise RwmError(f"Backend '{backend}' is not available here: {why}.", BACKENDS[backend].install)
    return backend


def make_env(backend: str, robot: RobotSpec, options: EnvOptions) -> VecEnv:
    """Return the environment of a task in a backend: ``auto`` or one of ``BACKENDS``.

    Raises:
        RwmError: Backend or task is unknown, or the backend cannot run here or within bounds.
    """
    chosen = resolve_backend(backend)
    task = get_task(options.task, chosen)
    if options.bounds_m and chosen != EMBEDDED:
        raise RwmError(f"Backend '{chosen}' draws its own commands; bounds need the embedded simulator.")
    unset = {name: getattr(task, name) for name in ("pushes", "noise", "randomize") if getattr(options, name) is None}
    module, factory = BACKENDS[chosen].factory.split(":")
    make: Callable[[RobotSpec, EnvOptions], VecEnv] = getattr(import_module(module), factory)
    return make(robot, options.model_copy(update=unset))


def _has_nvidia_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
