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
NEWTON, PHYSX = "Newton", "PhysX"
ENGINES = (NEWTON, PHYSX)
"""What Isaac Lab simulates with: the first, from 3.0 on, on any machine; the other in Isaac Sim."""


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
        "Isaac Lab 3.0 with Newton runs on any machine, 2.3 on NVIDIA GPUs; pip install rwm into its Python: "
        "docs/isaac-lab.md",
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
    if backend != "isaaclab" or None in (lacking := _lacking()).values():
        return None
    return f"package isaaclab is here, but nothing it simulates with: {'; '.join(filter(None, lacking.values()))}"


def isaaclab_engines() -> str:
    """Return what Isaac Lab simulates with on this machine, and what the other engine lacks."""
    lacking = _lacking()
    usable = " and ".join(engine for engine, why in lacking.items() if why is None)
    return "; ".join((usable, *(f"no {engine}: {why}" for engine, why in lacking.items() if why)))


def _lacking() -> dict[str, str | None]:
    """Return by engine of Isaac Lab why it cannot be used here; None where it can, as far as can be seen."""
    return {engine: _why_not(engine) for engine in ENGINES}


def _why_not(engine: str) -> str | None:
    if engine == NEWTON:
        missing = next((name for name in ("isaaclab_newton", "newton") if find_spec(name) is None), None)
        return f"package {missing} is not installed" if missing else None
    if find_spec("isaacsim") is None and "ISAAC_PATH" not in os.environ:
        return "Isaac Sim (package isaacsim) is not installed"
    return None if _has_nvidia_gpu() else "Isaac Sim needs an NVIDIA GPU, and none answers"


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
    if options.device not in ("auto", "cpu") and chosen == EMBEDDED:
        raise RwmError(f"The embedded simulator runs on the processor, not on '{options.device}'.", "--device cpu")
    unset = {name: getattr(task, name) for name in ("pushes", "noise", "randomize") if getattr(options, name) is None}
    module, factory = BACKENDS[chosen].factory.split(":")
    make: Callable[[RobotSpec, EnvOptions], VecEnv] = getattr(import_module(module), factory)
    return make(robot, options.model_copy(update=unset))


def _has_nvidia_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
