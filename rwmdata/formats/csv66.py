"""The published CSV format, read and written: ``state_action_data_N.csv``, 66 columns, no header."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.episode_ends import EpisodeStart, find_episode_starts
from rwmdata.episodes import Episode, is_truncated
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.files import DAMAGED, numbered_files, opened
from rwmdata.machine import available_threads
from rwmdata.schema import Schema
from rwmdata.text import quoted

FILE_PATTERN = re.compile(r"state_action_data_(\d+)\.csv(\.gz|\.xz|\.bz2)?", re.IGNORECASE)
"""Fits whole names only."""
EPISODE_ENDS = ("auto", "file", "none")
SHOWN_FAULTS = 5
BLOCK_BYTES = 8 << 20
"""Part of a file that is parsed at a time."""
LONGEST_LINE = 64 << 20
LONGEST_WORD = 40
"""Longer cells are cut in error messages."""
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


class CsvFormat(Format):
    """66-column CSV files (packed too), or folders of ``state_action_data_N.csv``; no episode spans two files."""

    label = "CSV"
    reads = ("episode_ends", "extension")

    def __init__(self, request: Request) -> None:
        if request.episode_ends not in EPISODE_ENDS:
            choices = ", ".join(EPISODE_ENDS)
            raise RwmError(f"Unknown --episode-ends '{request.episode_ends}'; choices: {choices}.")
        super().__init__(request)
        self.files, self.notes = find_csv_files(request.sources)
        self.episode_ends = request.episode_ends
        self.about = {"episode_ends": self.episode_ends}

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return true: what is no CSV is reported by :meth:`read`."""
        return True

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the episodes of a file.

        Raises:
            RwmError: It is empty, of other width, or holds a cell that is not a finite number or not 0 or 1 where it
                must be. File, row and column are named.
        """
        starts: list[EpisodeStart] = []
        for rows in _episodes(file, self.schema, self.robot.control_dt_s, self.episode_ends, starts):
            yield Episode(rows, is_truncated(rows))
        self.notes += _notes(file, starts)


def _episodes(
    file: Path, schema: Schema, control_dt_s: float, ends: str, all_starts: list[EpisodeStart]
) -> Iterator[np.ndarray]:
    """Yield a recording's episodes, ``(n, width)`` each; add the starts of all but the first to ``all_starts``."""
    pieces: list[np.ndarray] = []
    at = 0
    for block in read_blocks(file, schema):
        starts = []
        if ends != "none":
            # Whether an episode starts shows in a row and the one before it, which may be in the previous block.
            last = pieces[-1][-1:] if pieces else block[:0]
            joined = np.concatenate((last, block)) if len(last) else block
            starts = find_episode_starts(joined, schema, control_dt_s)
            starts = [replace(s, row=s.row - len(last)) for s in starts if ends == "auto" or s.marked]
        all_starts += [replace(s, row=at + s.row) for s in starts]
        bounds = [0, *(s.row for s in starts), len(block)]
        for k, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if k and pieces:
                yield np.concatenate(pieces)
                pieces = []
            if stop > start:
                pieces.append(block[start:stop])
        at += len(block)
    yield np.concatenate(pieces)


def _notes(file: Path, starts: list[EpisodeStart]) -> list[str]:
    unmarked = [s for s in starts if not s.marked]
    if not unmarked:
        return []
    shown = "; ".join(f"row {s.row + 1}: {s.reason}" for s in unmarked[:SHOWN_FAULTS])
    more = f"; and {len(unmarked) - SHOWN_FAULTS} more" if len(unmarked) > SHOWN_FAULTS else ""
    return [f"{file.name}: {len(unmarked)} unmarked episode ends found ({shown}{more})"]


def find_csv_files(sources: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the CSV files of ``sources``, those in a folder in the order of their numbers, and notes on others.

    Raises:
        RwmError: A source does not exist, or a folder holds no ``state_action_data_N.csv``, or two of one number.
    """
    files: list[Path] = []
    notes: list[str] = []
    for source in sources:
        if not source.exists():
            raise RwmError(f"There is no file or folder {source}.", "rwm data convert FILE... --name NAME")
        if not source.is_dir():
            files.append(source)
            continue
        numbered, more = numbered_files(source, FILE_PATTERN)
        if not numbered:
            raise RwmError(f"Folder {source} holds no state_action_data_N.csv.", "name the CSV files themselves")
        files += numbered
        notes += more
    return files, notes


def read_blocks(file: Path, schema: Schema) -> Iterator[np.ndarray]:
    """Read one recording a block at a time, ``(n, width)`` float32, columns contiguous.

    Blocks are parsed in parallel; memory does not grow with the file.

    Raises:
        RwmError: See :meth:`CsvFormat.read`.
    """
    workers = available_threads()
    parsed: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(workers, "csv") as pool:
        at = 0
        try:
            for data in _raw_blocks(file):
                lines = data.count(b"\n") + (not data.endswith(b"\n"))
                parsed.append(pool.submit(_parse, data, lines, file, schema, at))
                at += lines
                if len(parsed) > workers:
                    yield parsed.popleft().result()
            while parsed:
                yield parsed.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
    if at == 0:
        raise RwmError(f"{file} is empty; expected rows of {schema.width} numbers.", "leave it out")


def _raw_blocks(file: Path) -> Iterator[bytes]:
    """Read a file in blocks of whole lines.

    Raises:
        RwmError: It cannot be read or decompressed, or a line is too long.
    """
    try:
        with opened(file) as stream:
            while block := stream.read(BLOCK_BYTES):
                tail = b"" if block.endswith(b"\n") else stream.readline(LONGEST_LINE)
                if len(tail) == LONGEST_LINE:
                    raise RwmError(f"{file} is no CSV: a line is longer than {LONGEST_LINE >> 20} MiB.")
                yield block + tail
    except DAMAGED as exc:
        raise RwmError(f"{file} cannot be read: {one_line(exc)}.") from exc


def _parse(data: bytes, lines: int, file: Path, schema: Schema, at: int) -> np.ndarray:
    """Parse ``lines`` whole lines, the first of them row ``at``, as numbers ``(lines, width)``.

    Raises:
        RwmError: See :meth:`CsvFormat.read`.
    """
    names = schema.csv_names
    try:
        # Polars reads float64 and rounds it faster than it reads float32.
        frame = pl.read_csv(data, has_header=False, schema=dict.fromkeys(names, pl.Float64), quote_char=None)
    except pl.exceptions.PolarsError as exc:
        raise _faults_of_text(data, file, schema, at) or RwmError(f"{file} is no CSV: {one_line(exc)}.") from exc
    rows = np.empty((frame.height, len(names)), np.float32, order="F")
    for j, column in enumerate(frame.get_columns()):
        rows[:, j] = column.to_numpy()
    if len(rows) != lines or frame.null_count().sum_horizontal().item():
        raise _faults_of_text(data, file, schema, at) or RwmError(
            f"{file} is no CSV: it has {lines} lines, but {len(rows)} rows of numbers."
        )
    binary = rows[:, schema.contact.start :]
    if not np.isfinite(rows.sum()) or ((binary != 0) & (binary != 1)).any():
        bad = ~np.isfinite(rows)
        bad[:, schema.contact.start :] |= (binary != 0) & (binary != 1)
        if bad.any():
            raise _faults(file, schema, [(at + r, c, str(rows[r, c])) for r, c in np.argwhere(bad)])
    return rows


def _faults_of_text(data: bytes, file: Path, schema: Schema, at: int) -> RwmError | None:
    """Return what is wrong in lines that did not parse, and where; None if nothing is found."""
    cells: list[tuple[int, int, str]] = []
    for row, line in enumerate(data.decode(errors="replace").removesuffix("\n").split("\n"), start=at):
        words = line.rstrip("\r").split(",")
        if len(words) != schema.width:
            wanted = f"{schema.width} ({schema.csv_names[0]} to {schema.csv_names[-1]})"
            hint = "--robot NAME, --extension for additional columns, or --mapping for a log with named columns"
            return RwmError(f"{file}, row {row + 1} has {len(words)} columns, expected {wanted}.", hint)
        wrong = [(row, column, word) for column, word in enumerate(words) if not NUMBER.fullmatch(word)]
        if row == 0 and len(wrong) == len(words):
            text = f"{file}, row 1 is a header; this format has none, and --mapping reads logs with named columns."
            return RwmError(text, f"rwm data convert {quoted(file)} --infer")
        cells += wrong
        if len(cells) > SHOWN_FAULTS:
            break
    return _faults(file, schema, cells) if cells else None


def _faults(file: Path, schema: Schema, cells: list[tuple[int, int, str]]) -> RwmError:
    wanted = [*["a finite number"] * schema.contact.start, *["0 or 1"] * (schema.width - schema.contact.start)]
    shown = "; ".join(
        f"row {r + 1}, column {c + 1} ({schema.csv_names[c]}) is '{text[:LONGEST_WORD]}', expected {wanted[c]}"
        for r, c, text in cells[:SHOWN_FAULTS]
    )
    more = f"; and {len(cells) - SHOWN_FAULTS} more" if len(cells) > SHOWN_FAULTS else ""
    return RwmError(f"{file}: {shown}{more}; nothing was written.", "correct the file, or leave those rows out")


def write_csv(dataset: Dataset, folder: Path, rows_per_file: int = 10_000) -> list[Path]:
    """Write a dataset as ``state_action_data_N.csv``; reading them back gives the same float32 numbers.

    A file holds as many whole episodes as it takes to reach ``rows_per_file`` rows.

    Returns:
        The files, in order.

    Raises:
        RwmError: The folder cannot be written, or holds such files already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise RwmError(f"Cannot write {folder}: {exc.strerror}.", "--out FOLDER") from exc
    if any(FILE_PATTERN.fullmatch(f.name) for f in folder.iterdir()):
        raise RwmError(f"Folder {folder} holds state_action_data files already; nothing was written.", "--out FOLDER")
    rows, first = dataset.matrix(), 0
    files: list[Path] = []
    for stop in dataset.episodes.start + dataset.episodes.length:
        if stop - first >= rows_per_file or stop == dataset.rows:
            frame = pl.DataFrame(rows[first:stop], schema=list(dataset.schema.csv_names))
            files.append(folder / f"state_action_data_{len(files)}.csv")
            commit_file(files[-1], partial(frame.write_csv, include_header=False))
            first = stop
    return files
