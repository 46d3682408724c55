"""What comes along: policies and models of the shipped robots, and a small sample of recordings."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

ASSETS = Path(str(files("assets").joinpath("robots"))).parent
USUAL_ROBOT = "anymal_d"
"""Robot of a shipped model or policy that is named without one."""
SAMPLE = "sample"
"""Name of the shipped dataset, and of the recordings that hold the same rows."""
RECORDINGS = ASSETS / "datasets" / f"{SAMPLE}-csv"
"""Folder of the sample as files of the 66-column format."""


def shipped_file(kind: str, name: str) -> Path | None:
    """Return the shipped file called ``NAME``, or ``ROBOT/NAME``, if there is one; ``kind`` is models or policies."""
    robot, _, own = name.rpartition("/")
    robot = robot or USUAL_ROBOT
    return shipped_files(kind, robot).get(own) if robot.isidentifier() else None  # A name, never a path.


def shipped_files(kind: str, robot: str) -> dict[str, Path]:
    """Return the models or the policies that come with a robot, by name."""
    return {path.stem: path for path in sorted((ASSETS / kind / robot).glob("*.safetensors"))}


def is_shipped(file: Path) -> bool:
    """Whether a file is one of those that come along."""
    return ASSETS.resolve() in file.resolve().parents


def shipped_dataset(name: str) -> Path | None:
    """Return the folder of the shipped dataset of that name, if there is one."""
    folder = ASSETS / "datasets" / name
    return folder if name == SAMPLE and folder.is_dir() else None
