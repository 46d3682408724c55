"""All rows of a dataset in a memory-mapped file, with a checksum of every block: for data larger than memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rwmdata.atomic import commit_file, set_aside, write_json
from rwmdata.machine import available_threads

BLOCK_BYTES = 2**26
"""Bytes that one checksum is of."""


def mapped_rows(
    file: Path, shape: tuple[int, int], source: list[str], fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """Return ``file`` as a mapped float32 array of that shape; made anew unless it is as it was written.

    Changes to the array stay in this process.

    Args:
        file: The file; its checksums lie beside it, ``.sums`` behind its name.
        shape: Rows and columns.
        source: What it is made from: the checksums of the shards.
        fill: Fills an array of that shape.

    Raises:
        RwmError: There is no room for it.
        OSError: It cannot be read.
    """
    sums = _sums_of(file)
    record = {"shape": list(shape), "source": source}
    if not _is_whole(file, sums, record):

        def write(path: Path) -> None:
            set_aside(path, 4 * math.prod(shape))
            fill(np.memmap(path, np.float32, "r+", shape=shape))

        commit_file(file, write)
        write_json(sums, record | {"blocks": _block_checksums(file)})
    return np.memmap(file, np.float32, "c", shape=shape)


def are_damaged(file: Path) -> bool:
    """Return whether mapped rows are other than their checksums say; not where there are none of either."""
    try:
        return json.loads(_sums_of(file).read_bytes())["blocks"] != _block_checksums(file)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _sums_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.sums")


def _is_whole(file: Path, sums: Path, record: dict[str, object]) -> bool:
    try:
        written = json.loads(sums.read_bytes())
        same = all(written[key] == value for key, value in record.items())
        return same and written["blocks"] == _block_checksums(file)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _block_checksums(file: Path) -> list[str]:
    """Return the SHA-256 of every block of a file."""

    def checksum(start: int) -> str:
        digest = hashlib.sha256()
        with file.open("rb") as opened:
            opened.seek(start)
            for _ in range(64):
                digest.update(opened.read(BLOCK_BYTES // 64))
        return digest.hexdigest()

    with ThreadPoolExecutor(available_threads(), "rows") as pool:
        return list(pool.map(checksum, range(0, file.stat().st_size, BLOCK_BYTES)))
