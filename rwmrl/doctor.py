"""What this machine can do: hardware, packages, simulators; and what to install for the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from rwmrl.backends import BACKENDS, EMBEDDED, backend_version, why_unavailable

PACKAGES = ("torch", "numpy", "polars", "pyarrow", "duckdb", "pydantic")
"""What the toolkit stands on."""
OPTIONAL = {
    "rsl-rl-lib": ("train policies", "pip install rwm[rl]"),
    "h5py": ("read Isaac Lab recorder files", "pip install rwm[hdf5]"),
}
MIN_RSL_RL = (5, 4)


@dataclass(frozen=True)
class Finding:
    """Outcome of one check."""

    topic: str
    name: str
    ok: bool
    found: str
    hint: str = ""


def diagnose() -> list[Finding]:
    """Check this machine; simulators come last."""
    findings = [
        Finding("machine", "python", True, platform.python_version()),
        Finding("machine", "threads", True, str(torch.get_num_threads())),
        _gpu(),
        *(Finding("package", name, True, version(name)) for name in PACKAGES),
        *(_optional(name, *about) for name, about in OPTIONAL.items()),
    ]
    return findings + [_backend(name) for name in BACKENDS]


def _gpu() -> Finding:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("machine", "gpu", True, names)
    return Finding("machine", "gpu", False, "none that torch can use", "everything works without one, more slowly")


def _optional(name: str, what_for: str, how: str) -> Finding:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding("package", name, False, f"not installed; needed to {what_for}", how)
    if name == "rsl-rl-lib" and tuple(int(n) for n in installed.split(".")[:2]) < MIN_RSL_RL:
        return Finding("package", name, False, f"{installed} is too old to {what_for}", how)
    return Finding("package", name, True, installed)


def _backend(name: str) -> Finding:
    why = why_unavailable(name)
    if why:
        return Finding("simulator", name, False, why, BACKENDS[name].install)
    default = " (default)" if name == EMBEDDED else ""
    return Finding("simulator", name, True, f"{backend_version(name) or 'found'}{default}")
