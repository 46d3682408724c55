"""Commit by rename: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rwmdata.errors import RwmError
from rwmdata.machine import alive

TMP_MARK = ".tmp-"
"""Every uncommitted file or folder carries this mark in its name, so leftovers of a crash can be recognised."""


def temporary_name(path: Path) -> Path:
    """Return the name ``path`` is written under before its commit."""
    return path.with_name(f"{TMP_MARK}{os.getpid()}-{path.name}")


def abandoned(path: Path) -> bool:
    """Whether a file or folder of a temporary name was left by a process that is gone."""
    owner = re.match(re.escape(TMP_MARK) + r"(\d+)-", path.name)
    return TMP_MARK in path.name and not (owner and alive(int(owner[1])))


def remove_leftovers(path: Path) -> None:
    """Remove what processes that are gone left of ``path`` without committing it."""
    for left in path.parent.glob(f"{TMP_MARK}*"):
        if left.name.removeprefix(TMP_MARK).partition("-")[2] == path.name and abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the content of a file that another library wrote durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def commit_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``; on an error no half file is left behind.

    Raises:
        RwmError: The disk is full or the folder cannot be written.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise RwmError(f"Cannot write {path}: {exc.strerror or exc}.", "make room, or --home FOLDER") from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    commit_file(path, lambda p: p.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NaN and infinity are refused, as JSON has no words for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
