"""Which files are recordings: no leftovers of other programs, and no content twice."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from rwmdata.errors import RwmError

LEFTOVER = re.compile(
    r"\._.*|\.DS_Store|\.~.*|~\$.*|\.#.*|#.*#|.*~|\.nfs.*|\.tmp-.*|Thumbs\.db|desktop\.ini|"
    r".*\.(tmp|temp|part|partial|crdownload|sw[op])",
    re.IGNORECASE | re.DOTALL,
)
"""Names of what systems, editors and downloads leave beside files: AppleDouble, locks, backups, parts."""
PACKED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
"""How files of these endings are opened."""
UNPACKED = {b"\x1f\x8b": gzip.decompress, b"\xfd7zXZ\0": lzma.decompress, b"BZh": bz2.decompress}
"""First bytes of packed content, and what unpacks it."""
DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""What unpacking raises where content is damaged."""
HEAD_BYTES = 1 << 16
BLOCK_BYTES = 1 << 20
SHOWN_NAMES = 5


def without_leftovers(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the files without those that other programs left, and a note that names these."""
    left = [file for file in files if LEFTOVER.fullmatch(file.name)]
    kept = [file for file in files if file not in left]
    return kept, [f"not read, left by another program: {shown([f.name for f in left])}"] if left else []


def without_copies(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the files without those whose content an earlier one has, and a note for each of these.

    What is compressed is compared as it is read. A file that cannot be read is kept: its reader says so.
    """
    heads = [digest(file, HEAD_BYTES) for file in files]
    alike = Counter(heads)
    kept: dict[object, Path] = {}
    notes: list[str] = []
    for number, (file, head) in enumerate(zip(files, heads, strict=True)):
        content = digest(file) if head and alike[head] > 1 else head
        original = kept.setdefault(content or number, file)
        if len(kept) + len(notes) == number:
            notes.append(f"{file.name} is not read: it has the content of {original.name}")
    return list(kept.values()), notes


def digest(file: Path, size: int = -1) -> str | None:
    """Return the SHA-256 of a file's first bytes, or of all; None where it cannot be read."""
    found = hashlib.sha256()
    try:
        with opened(file) as stream:
            while size and (block := stream.read(BLOCK_BYTES if size < 0 else min(BLOCK_BYTES, size))):
                found.update(block)
                size = size if size < 0 else size - len(block)
    except DAMAGED:
        return None
    return found.hexdigest()


def opened(file: Path) -> BinaryIO:
    """Open a file to read it; one that ends in ``.gz``, ``.xz`` or ``.bz2`` is decompressed."""
    return PACKED.get(file.suffix.lower(), Path.open)(file, "rb")  # type: ignore[operator]


def numbered_files(folder: Path, pattern: re.Pattern[str]) -> tuple[list[Path], list[str]]:
    """Return the files of a folder whose whole name fits a pattern, by the number in it, and notes on the others.

    Raises:
        RwmError: Two files of different content have one number.
    """
    inside = [file for file in sorted(folder.iterdir()) if file.is_file()]
    numbers = {file: int(match[1]) for file in inside if (match := pattern.fullmatch(file.name))}
    files, notes = without_copies(sorted(numbers, key=lambda file: (numbers[file], file.name)))
    for before, file in zip(files, files[1:], strict=False):
        if numbers[before] == numbers[file]:
            fault = f"{before} and {file} have one number and different contents."
            raise RwmError(fault, "remove the one that is outdated, or name the files themselves")
    others = [file.name for file in inside if file not in numbers]
    return files, [*notes, *([f"{folder.name}: not read: {shown(others)}"] if others else [])]


def shown(names: Sequence[str]) -> str:
    """Return the first names of a list as text."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
