"""One writer at a time: a file lock, which the system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwmdata.errors import RwmError

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of a file system without locks; there only the commit guards what is written."""
TRIES = 5
"""Of taking a lock: whoever asks whether it is held has it for a moment."""
PAUSE_S = 0.02


def held(file: Path) -> bool:
    """Return whether a process holds the lock ``file``, on this host, in another container or on another node."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


@contextmanager
def exclusive(file: Path, what: str, hint: str) -> Iterator[None]:
    """Hold a lock on ``file`` inside the block and remove the file afterwards.

    Args:
        file: Lock file, in an existing folder.
        what: What it guards, for the error message: "Dataset 'a'".
        hint: What to do instead of waiting.

    Raises:
        RwmError: Another process holds it, or the folder cannot be written.
    """
    try:
        handle = _locked(file)
    except BlockingIOError as exc:
        raise RwmError(f"{what} is being written by another process ({_owner(file)}).", hint) from exc
    except OSError as exc:
        raise RwmError(f"Cannot write {file.parent}: {exc.strerror}.", "--home FOLDER") from exc
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def lock_anew(file: Path) -> Iterator[None]:
    """Make an empty file and hold its lock inside the block, so that others see that it is being written.

    Raises:
        OSError: It cannot be made.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _take(handle)
        yield
    finally:
        os.close(handle)


def _locked(file: Path) -> int:
    """Return an open handle of the locked file, which names our process and host."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle)
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()} on {platform.node()}".encode())
            if file.exists() and file.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # The holder before us removed the file after we had opened it.


def _take(handle: int) -> None:
    """Lock an open file; where the file system has no locks, do nothing."""
    for tried in range(1, TRIES + 1):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if tried == TRIES:
                raise
            time.sleep(PAUSE_S)
        except OSError as exc:
            if exc.errno not in NO_LOCKS:
                raise
            return None
    return None


def _owner(file: Path) -> str:
    try:
        return f"number {file.read_text()}"
    except (OSError, ValueError):
        return "number unknown"
