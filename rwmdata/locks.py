"""One writer at a time: a file lock, which the system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwmdata.errors import RwmError

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of a file system without locks; there only the commit guards what is written."""


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


def _locked(file: Path) -> int:
    """Return an open handle of the locked file, which holds our process number."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno not in NO_LOCKS:
                    raise
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            if file.exists() and file.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # The holder before us removed the file after we had opened it.


def _owner(file: Path) -> str:
    try:
        return f"number {int(file.read_text())}"
    except (OSError, ValueError):
        return "number unknown"
