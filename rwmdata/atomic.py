"""Commit by rename: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rwmdata.errors import RwmError
from rwmdata.machine import alive

TMP_MARK = ".tmp-"
"""In the name of every uncommitted file or folder, so that leftovers of a crash can be recognised."""


def temporary_name(path: Path) -> Path:
    """Return the name ``path`` is written under before its commit."""
    return path.with_name(f"{TMP_MARK}{os.getpid()}-{path.name}")


def abandoned(path: Path) -> bool:
    """Return whether a temporary file or folder was left by a process that no longer runs."""
    owner = re.match(re.escape(TMP_MARK) + r"(\d+)-", path.name)
    return TMP_MARK in path.name and not (owner and alive(int(owner[1])))


def remove_leftovers(path: Path) -> None:
    """Remove uncommitted versions of ``path`` left by processes that no longer run."""
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
    """Make the content of a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def commit_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``; on an error nothing is left behind.

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


@contextmanager
def commit_folder(path: Path, hint: str = "--home FOLDER", replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill and, when the block ends without an error, rename it to ``path``.

    Args:
        path: The new folder.
        hint: What to try when it exists or cannot be written.
        replace: Delete an existing folder just before the rename instead of refusing.

    Raises:
        RwmError: ``path`` exists, the disk is full or the parent folder cannot be written.
    """
    if path.exists() and not replace:
        raise RwmError(f"{path} exists already; nothing was written.", hint)
    temporary = temporary_name(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        rename_folder(temporary, path)
    except OSError as exc:
        raise RwmError(f"Cannot write {path}: {exc.strerror or exc}.", hint) from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_folder(temporary: Path, path: Path) -> None:
    """Commit a folder by renaming it; what is in it is made durable before, the rename after.

    Raises:
        OSError: ``path`` exists, or a folder cannot be written.
    """
    for inside in temporary.rglob("*"):
        sync_folder(inside) if inside.is_dir() else sync_file(inside)
    sync_folder(temporary)
    temporary.rename(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder; a reader sees all of it or nothing.

    Raises:
        RwmError: It cannot be renamed.
    """
    temporary = temporary_name(path)
    try:
        path.rename(temporary)
        sync_folder(path.parent)
    except OSError as exc:
        raise RwmError(f"Cannot remove {path}: {exc.strerror}.") from exc
    shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    commit_file(path, lambda p: p.write_text(text))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically; NaN and infinity are refused, as JSON cannot represent them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
