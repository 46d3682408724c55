"""Commit by rename: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rwmdata.errors import RwmError
from rwmdata.locks import exclusive, held, lock_anew
from rwmdata.machine import alive, place

TMP_MARK = ".tmp-"
"""Begins the name of every uncommitted file or folder, so that leftovers of a crash can be recognised."""
TEMPORARY = re.compile(re.escape(TMP_MARK) + r"(?P<pid>\d+)-(?P<place>[0-9a-f]{8})-(?P<name>.+)")
"""Names of uncommitted files and folders: process, the place it runs in, and the name after the commit."""
ASIDE_MARK = ".old-"
"""Begins the name of a folder that is being replaced, until the new one is in its place."""
PARTS_MARK = ".parts-"
"""Begins the name of the folder that the finished parts of a large export wait in."""
LOCK_MARK = ".lock-"
"""Begins the name of the lock that is held beside a folder while it is built."""
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""Errors of a file system that cannot set blocks aside."""
BLOCK_BYTES = 2**26
"""Written at a time, there."""
QUIET_S = 3600.0
"""So long nothing has been written into what a process of another host or container left, before it counts as dead."""


def temporary_name(path: Path) -> Path:
    """Return the name ``path`` is written under before its commit."""
    return path.with_name(f"{TMP_MARK}{os.getpid()}-{place()}-{path.name}")


def lock_of(path: Path) -> Path:
    """Return the lock that whoever builds the folder ``path`` holds."""
    return path.with_name(f"{LOCK_MARK}{path.name}")


def abandoned(path: Path) -> bool:
    """Return whether a temporary file or folder was left by a process that no longer runs, here or elsewhere.

    A process number counts only in the place it belongs to; a lock that is held counts everywhere.
    """
    named = TEMPORARY.fullmatch(path.name)
    if named is None or held(path) or held(lock_of(path.with_name(named["name"]))):
        return False
    return ended(int(named["pid"]), named["place"], path)


def ended(pid: int, where: str, path: Path) -> bool:
    """Return whether a process that holds no lock is gone: it is not here, or elsewhere and silent for an hour.

    Args:
        pid: Its number.
        where: Its :func:`~rwmdata.machine.place`.
        path: The file or folder it wrote.
    """
    return not alive(pid) if where == place() else quiet_s(path) > QUIET_S


def quiet_s(path: Path) -> float:
    """Return the seconds since something was last written under ``path``; infinite where there is nothing."""
    newest = -math.inf
    for part in (path, *paths_under(path)):
        with suppress(OSError):
            newest = max(newest, part.lstat().st_mtime)
    return time.time() - newest


def paths_under(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder and below it; what others remove meanwhile is left out."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)


def remove_leftovers(path: Path) -> None:
    """Remove uncommitted versions of the folder ``path`` left by processes that no longer run; its lock is ours."""
    for left, named in _temporaries(path):
        if ended(int(named["pid"]), named["place"], left):
            shutil.rmtree(left, ignore_errors=True)


def _temporaries(path: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the uncommitted versions of a file or folder, and what their names say."""
    for left in path.parent.glob(f"{TMP_MARK}*"):
        named = TEMPORARY.fullmatch(left.name)
        if named and named["name"] == path.name:
            yield left, named


def aside_of(path: Path) -> Path:
    """Return the name the folder ``path`` has while another takes its place."""
    return path.with_name(f"{ASIDE_MARK}{path.name}")


def put_back(path: Path) -> None:
    """End a replacement of ``path`` that was cut off: the old folder comes back unless the new one is there.

    Raises:
        OSError: The parent folder cannot be written.
    """
    aside = aside_of(path)
    if not aside.exists():
        return
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.rename(path)
        sync_folder(path.parent)


def _inside_of(folder: Path) -> Path | None:
    """Return the uncommitted folder that ``folder`` is or lies in, if any."""
    return next((part for part in (folder, *folder.parents) if TEMPORARY.fullmatch(part.name)), None)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, but never anew one that something is being built in.

    Raises:
        OSError: It cannot be made, or what it belongs to was removed.
    """
    building = _inside_of(folder)
    if building is None:
        return folder.mkdir(parents=True, exist_ok=True)
    for part in [*reversed(folder.relative_to(building).parents), folder.relative_to(building)][1:]:
        (building / part).mkdir(exist_ok=True)
    return None


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

    What processes left that were cut off while they wrote that file is removed.

    Raises:
        RwmError: The disk is full or the folder cannot be written, whatever the library that writes makes of it.
    """
    temporary = temporary_name(path)
    try:
        make_folder(path.parent)
        if _inside_of(path.parent) is None:  # There nobody else writes, and there may be many files to look through.
            for left, _ in _temporaries(path):
                if abandoned(left):
                    with suppress(OSError):
                        left.unlink()
        with lock_anew(temporary):
            write(temporary)
            sync_file(temporary)
            temporary.replace(path)
        sync_folder(path.parent)
    except RwmError:
        raise
    except Exception as exc:
        if (reason := unwritable(exc)) is None:
            raise
        raise RwmError(f"Cannot write {path}: {reason}.", "make room, or --home FOLDER") from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def unwritable(exc: Exception) -> str | None:
    """Return why a file could not be written, where that is what an exception says; libraries have their own types."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return next((reason for reason in map(os.strerror, NO_ROOM) if reason in str(exc)), None)


def require_room(folder: Path, size: int) -> None:
    """Refuse to begin what would not fit: for libraries that end the process when a disk is full.

    Args:
        folder: An existing folder on that disk.
        size: Bytes that will be needed.

    Raises:
        OSError: There is no room for them.
    """
    trial = temporary_name(folder / "room")
    try:
        set_aside(trial, size)
    finally:
        trial.unlink(missing_ok=True)


def set_aside(path: Path, size: int) -> None:
    """Make a file of that size whose blocks are there: a full disk is an error now, not a crash in the middle.

    Raises:
        OSError: There is no room.
    """
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as exc:
            if exc.errno not in NO_FALLOCATE:
                raise
            for start in range(0, size, BLOCK_BYTES):
                file.write(bytes(min(size - start, BLOCK_BYTES)))


@contextmanager
def building(path: Path, what: str, hint: str) -> Iterator[Path]:
    """Give a temporary folder to build ``path`` in, which is removed when the block ends; one process at a time.

    Args:
        path: The new folder.
        what: Its name in messages: "Dataset 'a'".
        hint: What to try when it is being built already, or cannot be.

    Raises:
        RwmError: Another process builds it, or the parent folder cannot be written.
    """
    temporary = temporary_name(path)
    with ExitStack() as lock:
        try:
            make_folder(path.parent)
            lock.enter_context(exclusive(lock_of(path), what, hint))
            remove_leftovers(path)
            put_back(path)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        except OSError as exc:
            raise RwmError(f"Cannot write {path.parent}: {exc.strerror}.", "--home FOLDER") from exc
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def commit_folder(path: Path, hint: str = "--home FOLDER", replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill and, when the block ends without an error, rename it to ``path``.

    Args:
        path: The new folder.
        hint: What to try when it exists or cannot be written.
        replace: Put it in the place of an existing folder, which is deleted after that, instead of refusing. Whoever
            is killed in between leaves the old one aside; the next commit or ``rwm data fsck`` puts it back.

    Raises:
        RwmError: ``path`` exists, is being made, the disk is full or the parent folder cannot be written.
    """
    with building(path, str(path), hint) as temporary:
        if path.exists() and not replace:
            raise RwmError(f"{path} exists already; nothing was written.", hint)
        try:
            yield temporary
            if path.exists() and replace:
                path.rename(aside_of(path))
            try:
                rename_folder(temporary, path)
            finally:
                put_back(path)
        except OSError as exc:
            raise RwmError(f"Cannot write {path}: {exc.strerror or exc}.", hint) from exc


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
    """Delete a folder, of a symbolic link the link alone; a reader sees all of it or nothing.

    Raises:
        RwmError: It cannot be renamed.
    """
    temporary = temporary_name(path)
    try:
        if path.is_symlink():
            path.unlink()
        else:
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
