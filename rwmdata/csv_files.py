"""The published file format in and out: ``state_action_data_N.csv``, 66 columns, no header, one recording a file."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv as pacsv

from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.episode_ends import EpisodeStart, find_episode_starts
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import load_robot, one_line
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter

FILE_PATTERN = re.compile(r"state_action_data_(\d+)\.csv(\.gz)?$")
EPISODE_ENDS = ("auto", "file", "none")
SHOWN_FAULTS = 5
BLOCK_BYTES = 16 << 20
"""How much of a file is parsed at a time."""


def convert_csv(
    home: Home,
    sources: list[Path],
    name: str,
    robot: str = "anymal_d",
    episode_ends: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Turn CSV recordings into a dataset; every file is a recording of its own.

    Args:
        home: Where the dataset goes.
        sources: Files (also .gz), or folders that hold ``state_action_data_N.csv``.
        name: Name of the new dataset.
        robot: Whose columns they are.
        episode_ends: ``auto`` takes marked ends and those physics implies, ``file`` marked ones only, ``none`` makes
            every file one episode.
        seed: Seed of the split.
        progress: Told after each file.

    Raises:
        RwmError: A file is missing, empty, of other width, or holds a cell that is not a finite number or not 0 or 1
            where it must be. File, row and column are named and nothing is written.
    """
    if episode_ends not in EPISODE_ENDS:
        raise RwmError(f"Unknown --episode-ends '{episode_ends}'; choices: {', '.join(EPISODE_ENDS)}.")
    spec = load_robot(robot)
    schema, files = Schema.from_robot(spec), find_csv_files(sources)
    notes: list[str] = []
    provenance = {"source": "rwm data convert", "files": [f.name for f in files], "episode_ends": episode_ends,
                  "notes": notes}  # fmt: skip
    with DatasetWriter(home.data_dir, name, spec.name, schema, 1 / spec.control_dt_s, provenance, seed) as writer:
        for i, file in enumerate(files):
            starts: list[EpisodeStart] = []
            for rows in _episodes(file, schema, spec.control_dt_s, episode_ends, starts):
                writer.append_episode(rows, truncated=bool(rows[-1, -1] < 0.5))
            notes += _notes(file, starts)
            if progress:
                progress(i + 1, len(files), {"rows": float(writer.rows)})
        return writer.commit()


def _episodes(
    file: Path, schema: Schema, control_dt_s: float, ends: str, found: list[EpisodeStart]
) -> Iterator[np.ndarray]:
    """Give a recording's episodes, ``(n, width)`` each; their starts but the first are added to ``found``."""
    pieces: list[np.ndarray] = []
    at = 0
    for block in read_blocks(file, schema):
        starts = []
        if ends != "none":
            # Whether an episode begins shows in a row and the one before it, which may be in the block before.
            last = pieces[-1][-1:] if pieces else block[:0]
            joined = np.concatenate((last, block)) if len(last) else block
            starts = find_episode_starts(joined, schema, control_dt_s)
            starts = [replace(s, row=s.row - len(last)) for s in starts if ends == "auto" or s.marked]
        found += [replace(s, row=at + s.row) for s in starts]
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


def find_csv_files(sources: list[Path]) -> list[Path]:
    """Return the CSV files that ``sources`` stand for; those of a folder in the order of their number.

    Raises:
        RwmError: A source does not exist, or a folder holds no ``state_action_data_N.csv``.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_file():
            files.append(source)
        elif source.is_dir():
            numbered = {f: FILE_PATTERN.search(f.name) for f in source.iterdir()}
            found = sorted((int(m[1]), f) for f, m in numbered.items() if m)
            if not found:
                raise RwmError(f"Folder {source} holds no state_action_data_N.csv.", "name the CSV files themselves")
            files += [f for _, f in found]
        else:
            raise RwmError(f"There is no file or folder {source}.", "rwm data convert FILE... --name NAME")
    return files


def read_blocks(file: Path, schema: Schema) -> Iterator[np.ndarray]:
    """Read one recording a piece at a time, ``(n, width)`` float32; memory does not grow with the file.

    Raises:
        RwmError: See :func:`convert_csv`.
    """
    names, at = list(schema.csv_names), 0
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            reader = pacsv.open_csv(
                stream,
                pacsv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
                pacsv.ParseOptions(ignore_empty_lines=False),
                pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.float32()), null_values=[]),
            )
            for batch in reader:
                yield _checked(
                    np.column_stack([batch.column(k).to_numpy() for k in range(len(names))]), file, schema, at
                )
                at += batch.num_rows
    except (pa.ArrowException, OSError) as exc:
        if file.stat().st_size == 0:
            raise _empty(file, schema) from exc
        raise _first_faults(file, schema) or RwmError(f"{file} cannot be read as CSV: {one_line(exc)}.") from exc
    if at == 0:
        raise _empty(file, schema)


def _empty(file: Path, schema: Schema) -> RwmError:
    return RwmError(f"{file} is empty; expected rows of {schema.width} numbers.")


def _checked(rows: np.ndarray, file: Path, schema: Schema, at: int) -> np.ndarray:
    binary = rows[:, schema.contact.start :]
    bad = ~np.isfinite(rows)
    bad[:, schema.contact.start :] |= (binary != 0) & (binary != 1)
    if bad.any():
        raise _faults(file, schema, [(at + r, c, str(rows[r, c])) for r, c in np.argwhere(bad)])
    return rows


def _first_faults(file: Path, schema: Schema) -> RwmError | None:
    """Scan a file that did not parse, line by line, and say what is wrong where."""
    cells: list[tuple[int, int, str]] = []
    try:
        with _open_text(file) as lines:
            for row, line in enumerate(lines):
                words = line.rstrip("\r\n").split(",")
                if len(words) != schema.width:
                    return RwmError(
                        f"{file}, row {row + 1} has {len(words)} columns, expected {schema.width} "
                        f"({schema.csv_names[0]} to {schema.csv_names[-1]}).",
                        "the files of this robot, or --robot NAME",
                    )
                cells += [(row, column, word) for column, word in enumerate(words) if not _is_number(word)]
                if len(cells) > SHOWN_FAULTS:
                    break
    except (OSError, UnicodeDecodeError, EOFError) as exc:
        return RwmError(f"{file} cannot be read as text: {exc}.")
    return _faults(file, schema, cells) if cells else None


def _faults(file: Path, schema: Schema, cells: list[tuple[int, int, str]]) -> RwmError:
    def expected(column: int) -> str:
        return "0 or 1" if column >= schema.contact.start else "a finite number"

    shown = "; ".join(
        f"row {r + 1}, column {c + 1} ({schema.csv_names[c]}) is '{text}', expected {expected(c)}"
        for r, c, text in cells[:SHOWN_FAULTS]
    )
    more = f"; and {len(cells) - SHOWN_FAULTS} more" if len(cells) > SHOWN_FAULTS else ""
    return RwmError(f"{file}: {shown}{more}; nothing was written.", "correct the file, or leave those rows out")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _open_text(file: Path) -> IO[str]:
    return gzip.open(file, "rt") if file.suffix == ".gz" else file.open()


def write_csv(dataset: Dataset, folder: Path, rows_per_file: int = 10_000) -> list[Path]:
    """Write a dataset as ``state_action_data_N.csv``; reading them back gives the same float32 numbers.

    A file holds whole episodes, as many as it takes to reach ``rows_per_file``.

    Returns:
        The files, in order.

    Raises:
        RwmError: The folder cannot be written, or holds such files already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise RwmError(f"Cannot write {folder}: {exc.strerror}.", "--out FOLDER") from exc
    if any(FILE_PATTERN.search(f.name) for f in folder.iterdir()):
        raise RwmError(f"Folder {folder} holds state_action_data files already; nothing was written.", "--out FOLDER")
    rows = dataset.matrix()
    files: list[Path] = []
    for start, stop in _file_bounds(dataset, rows_per_file):
        frame = pl.DataFrame(rows[start:stop], schema=list(dataset.schema.csv_names))
        file = folder / f"state_action_data_{len(files)}.csv"
        commit_file(file, lambda p, f=frame: f.write_csv(p, include_header=False))  # type: ignore[misc]
        files.append(file)
    return files


def _file_bounds(dataset: Dataset, rows_per_file: int) -> Iterator[tuple[int, int]]:
    first = 0
    for stop in dataset.episodes.start + dataset.episodes.length:
        if stop - first >= rows_per_file:
            yield first, int(stop)
            first = int(stop)
    if first < dataset.rows:
        yield first, dataset.rows
