"""What this machine can do: hardware, packages, extras, simulators; and what to install for the rest."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from rwmdata.config import build
from rwmmodel.devices import resolve_device
from rwmmodel.fastest import fastest, pass_seconds
from rwmmodel.fit_config import FitConfig
from rwmrl.backends import BACKENDS, EMBEDDED, backend_version, isaaclab_engines, why_unavailable

PACKAGES = ("torch", "numpy", "polars", "pyarrow", "duckdb", "pydantic")
"""What the toolkit stands on."""
EXTRAS = {
    "rl": ("train policies (PPO)", ("rsl-rl-lib",)),
    "onnx": ("export policies to ONNX", ("onnx", "onnxscript", "onnxruntime")),
    "viser": ("rwm visualize --browser", ("viser",)),
    "hdf5": ("read Isaac Lab recorder files", ("h5py",)),
    "minari": ("read and write Minari datasets", ("minari", "h5py")),
    "rosbags": ("read ROS 1 and ROS 2 bags", ("rosbags",)),
    "usd": ("rwm robots usd", ("usd-core",)),
    "d3rlpy": ("rwm policy --algo cql, iql", ("d3rlpy",)),
    "ray": ("rwm sweep policy --engine ray", ("ray",)),
    "wandb": ("send metrics to Weights & Biases", ("wandb",)),
}
"""Extras besides the simulators: what each is for, and its packages."""
MIN_RSL_RL = (5, 4)
STAND_INS = {"usd-core": "usd-exchange"}
"""Packages with the same modules: Isaac Lab 3.0 brings the latter."""
APART = {"d3rlpy": ", in an environment of its own: it pins another gymnasium"}
"""What is to be said of an extra's installation besides the command."""


@dataclass(frozen=True)
class Finding:
    """Outcome of one check."""

    topic: str
    name: str
    ok: bool
    found: str
    hint: str = ""
    """How to get what is missing."""
    needed_for: str = ""
    """What an extra is for."""


def diagnose() -> list[Finding]:
    """Check this machine; simulators come last."""
    findings = [
        Finding("machine", "python", True, platform.python_version()),
        Finding("machine", "threads", True, str(torch.get_num_threads())),
        _gpu(),
        _precision(),
        *(Finding("package", name, True, version(name)) for name in PACKAGES),
        *(_extra(name, *about) for name, about in EXTRAS.items()),
    ]
    return findings + [_backend(name) for name in BACKENDS]


def _gpu() -> Finding:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("machine", "gpu", True, names)
    return Finding("machine", "gpu", False, "none that torch can use", "everything works without one, more slowly")


def _precision() -> Finding:
    """Say what ``precision: auto`` means here, in a fit of the default preset."""
    config = build(FitConfig)
    seconds = pass_seconds(config, config.batch, resolve_device())
    others = [f"{name} {seconds['float32'] / own:.1f} times as fast" for name, own in seconds.items()][1:]
    measured = f" (beside float32 {', '.join(others)})" if others else " (the only one this device has)"
    return Finding("machine", "precision", True, f"auto is {fastest(seconds)}{measured}")


def _extra(name: str, needed_for: str, packages: tuple[str, ...]) -> Finding:
    versions, faults = [], []
    for package in packages:
        names = (package, STAND_INS.get(package))
        found = next((name for name in names if name and _version(name)), None)
        if found is None:
            faults.append(f"{package} is not installed")
        elif found == "rsl-rl-lib" and _numbers(version(found))[:2] < MIN_RSL_RL:
            faults.append(f"{found} {version(found)} is older than {'.'.join(map(str, MIN_RSL_RL))}")
        else:
            versions.append(f"{found} {version(found)}")
    if faults:
        hint = f"pip install 'rwm[{name}]'{APART.get(name, '')}"
        return Finding("extra", name, False, "; ".join(faults), hint, needed_for)
    return Finding("extra", name, True, ", ".join(versions), needed_for=needed_for)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(installed: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", installed))


def _backend(name: str) -> Finding:
    why = why_unavailable(name)
    if why:
        return Finding("simulator", name, False, why, BACKENDS[name].install)
    about = " (default)" if name == EMBEDDED else f" with {isaaclab_engines()}" if name == "isaaclab" else ""
    return Finding("simulator", name, True, f"{backend_version(name) or 'found'}{about}")
