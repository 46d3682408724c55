"""What results depend on beside their options: versions of libraries, and the state of the toolkit's checkout."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "rwm",
    "torch",
    "numpy",
    "polars",
    "pyarrow",
    "duckdb",
    "mujoco",
    "rsl-rl-lib",
    "isaaclab",
    "newton",
    "mjlab",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries results depend on; absent ones are left out."""
    numbers = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            numbers[name] = version(name)
    return numbers


def git_state() -> dict[str, str | bool]:
    """Return commit and dirtiness of the toolkit's checkout; empty when it is not a checkout."""

    def git(*words: str) -> str:
        here = Path(__file__).resolve().parent
        # Without the lock status would refresh the index with: a run that is killed must not leave one behind.
        words = ("git", "--no-optional-locks", "-C", str(here), *words)
        return subprocess.run(words, capture_output=True, text=True, timeout=5).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain"))} if len(commit) == 40 else {}
    except (OSError, subprocess.SubprocessError):
        return {}
