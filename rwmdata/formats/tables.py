"""Files of named columns, whatever they are: text, Parquet, Arrow, NumPy; a folder of them; told by their content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.formats.arrow_table import read_arrow, read_parquet
from rwmdata.formats.numpy_table import read_npy, read_npz
from rwmdata.formats.text_table import read_text_table

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".csv.xz", ".csv.bz2", ".parquet", ".feather", ".arrow", ".npz", ".npy")
"""Of the files that are looked for in a folder; one that is named is read whatever its suffix."""
OTHERS = {
    b"\x89HDF\r\n": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"#ROSBAG": "a ROS bag",
    b"\x89MCAP": "an MCAP file",
    b"SQLite format 3": "an SQLite database, as ROS 2 records bags",
    b"ULog": "a PX4 log",
    b"version https://git-lfs": "a Git LFS pointer; the file itself was not fetched (git lfs pull)",
    b"MATLAB": "a MATLAB file; save it as CSV",
    b"%PDF": "a PDF file",
    b"\x80": "a pickle, which can run code when it is read",
}
"""First bytes of files that hold no table we read, and what they are."""
READERS = {
    b"PAR1": read_parquet,
    b"ARROW1": read_arrow,
    b"\xff\xff\xff\xff": read_arrow,
    b"\x93NUMPY": read_npy,
    b"PK\x03\x04": read_npz,
}
"""First bytes of the others; what has none of them is text."""


def find_tables(sources: Sequence[Path]) -> list[Path]:
    """Return the files of ``sources``; those in a folder in the order of their names, numbers as numbers.

    Raises:
        RwmError: A source does not exist, or a folder holds no table.
    """
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise RwmError(f"There is no file {source}.", "rwm data convert FILE... --name NAME --mapping FILE.yaml")
        if not source.is_dir():
            files.append(source)
            continue
        inside = [p for p in source.rglob("*") if p.name.lower().endswith(SUFFIXES) and p.is_file()]
        shown = [p for p in inside if not any(part.startswith((".", "_")) for part in p.relative_to(source).parts)]
        if not shown:
            raise RwmError(f"Folder {source} holds no {', '.join(SUFFIXES)} file.", "name the files themselves")
        files += sorted(shown, key=lambda p: natural(p.relative_to(source).as_posix()))
    return files


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts run_2 before run_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def read_table(file: Path) -> tuple[pl.DataFrame, list[str]]:
    """Read the named columns of a file.

    A column of vectors, or a two-dimensional array, becomes columns ``name_0``, ``name_1`` and so on; fields of a
    structure become ``name.field``.

    Returns:
        The columns, and what was left out, one sentence each.

    Raises:
        RwmError: It is missing, unreadable or holds no named columns; what it is is said.
    """
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise RwmError(f"{file} cannot be read: {exc.strerror}.") from exc
    if not data.strip():
        raise RwmError(f"{file} is empty.", "leave it out")
    for start, what in OTHERS.items():
        if data.startswith(start):
            raise RwmError(f"{file} is {what}.", "a CSV, Parquet, Arrow or NumPy file of named columns")
    reader = next((reader for start, reader in READERS.items() if data.startswith(start)), read_text_table)
    try:
        frame, left_out = reader(file, data)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, OSError, EOFError, KeyError) as exc:
        raise RwmError(f"{file} cannot be read: {one_line(exc)}.") from exc
    if frame.height == 0:
        raise RwmError(f"{file} has no rows.", "leave it out")
    return frame, left_out
