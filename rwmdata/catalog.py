"""Datasets on disk, opened for reading: immutable Parquet shards and one manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from rwmdata.checksums import CHANGED
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.machine import available_threads
from rwmdata.manifest import CACHED_ROWS, MANIFEST_FILE, DatasetManifest, is_manifest_changed
from rwmdata.mapped_rows import mapped_rows
from rwmdata.robots import load_robot
from rwmdata.schema import NormalizerKind, Schema
from rwmdata.text import quoted

ROWS_FILE = "rows.f32"
"""All rows as training uses them, float32 row by row; created from the shards where they do not fit in memory."""

SMALL_BYTES = 2**24
"""A shard up to this size is read at once: its checksum is taken of the very bytes that its rows come from."""


@dataclass(frozen=True)
class Episodes:
    """Bounds of every episode in the row matrix; arrays of shape ``(K,)``."""

    start: np.ndarray
    length: np.ndarray
    terminated: np.ndarray
    behaviour: list[str | None]

    def __len__(self) -> int:
        return len(self.start)


class Dataset:
    """A committed dataset, opened for reading.

    Attributes:
        name: Name of the dataset and of its folder.
        robot: Name of the robot.
        rows: Number of transitions.
        control_hz: Rows per second.
    """

    def __init__(self, path: Path, manifest: DatasetManifest) -> None:
        # A folder may have been copied or renamed since its manifest was written.
        name = Path(os.path.abspath(path)).name
        self.path, self.manifest = path, manifest.model_copy(update={"name": name})
        self.name, self.robot = name, manifest.robot
        self.rows, self.control_hz = manifest.rows, manifest.control_hz
        self.schema: Schema = manifest.build_schema()
        self._verified: set[int] = set()

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open the dataset folder at ``path``.

        Raises:
            RwmError: There is no manifest, or it does not validate.
        """
        file = Path(path) / MANIFEST_FILE
        try:
            return cls(Path(path), DatasetManifest.model_validate_json(file.read_text()))
        except FileNotFoundError as exc:
            raise RwmError(f"{path} is not a dataset: it has no {MANIFEST_FILE}.", "rwm data ls") from exc
        except (ValidationError, OSError, UnicodeDecodeError) as exc:
            raise RwmError(f"{file} is not a valid manifest: {one_line(exc)}.", "rwm data ls") from exc

    @cached_property
    def shard_paths(self) -> list[Path]:
        """The Parquet files, in row order."""
        return [self.path / s.file for s in self.manifest.shards]

    @cached_property
    def episodes(self) -> Episodes:
        """Episode bounds in global row order."""
        table = self.manifest.episodes
        start, length = np.asarray(table.start, np.int64), np.asarray(table.length, np.int64)
        return Episodes(start, length, np.asarray(table.terminated, bool), table.behaviour)

    def split(self, name: str) -> np.ndarray:
        """Return the episode ids of a split, ``(k,)`` int64; of episodes divided by time those with a part in it.

        Raises:
            RwmError: The dataset has no split of that name.
        """
        self._check_split(name)
        if self.manifest.split_rows:
            start, _ = self.split_bounds(name)
            return np.unique(np.searchsorted(self.episodes.start, start, side="right") - 1)
        return np.asarray(self.manifest.splits[name], np.int64)

    def split_bounds(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first row and length of the parts of a split, each ``(k,)`` int64, ascending.

        A part is a whole episode, or where episodes are divided by time a part of one.

        Raises:
            RwmError: The dataset has no split of that name.
        """
        self._check_split(name)
        if self.manifest.split_rows:
            parts = np.array(self.manifest.split_rows.get(name, []), np.int64).reshape(-1, 2)
            return parts[:, 0], parts[:, 1] - parts[:, 0]
        ids = np.sort(self.split(name))
        return self.episodes.start[ids], self.episodes.length[ids]

    def _check_split(self, name: str) -> None:
        if name not in self.manifest.splits:
            raise RwmError(
                f"Dataset '{self.name}' has no split '{name}'; it has {', '.join(self.manifest.splits)}.",
                "rwm data split",
            )

    @property
    def split_sizes(self) -> dict[str, str]:
        """How much each split holds, as text: episodes, or rows where episodes are divided by time."""
        if self.manifest.split_rows:
            return {name: f"{self.split_bounds(name)[1].sum():,} rows" for name in self.manifest.splits}
        return {name: f"{len(ids):,}" for name, ids in self.manifest.splits.items()}

    def scan(self) -> pl.LazyFrame:
        """Return a lazy Polars frame over all shards."""
        return pl.scan_parquet(self.shard_paths, glob=False)

    def matrix(self) -> np.ndarray:
        """Return all rows as one float32 array ``(R, width)``, schema columns in order, ``terminated`` last.

        Raises:
            RwmError: A shard is missing, unreadable or of another length than the manifest says.
        """
        out = np.empty((self.rows, self.schema.width), np.float32)
        self.read_into(out)
        return out

    def mapped_matrix(self) -> np.ndarray:
        """Return the rows of :meth:`matrix` as a memory-mapped file: for data larger than memory.

        The file, ``rows.f32`` beside the shards, is created by the first call, and again where it is damaged. Changes
        to the array stay in this process.

        Raises:
            RwmError: As :meth:`matrix`, or there is no room for the file.
        """
        file, shape = self.path / ROWS_FILE, (self.rows, self.schema.width)
        try:
            return mapped_rows(file, shape, [shard.sha256 for shard in self.manifest.shards], self.read_into)
        except OSError as exc:
            raise RwmError(f"Cannot read {file}: {exc.strerror}.", "rwm fit --rows memory") from exc

    def read_into(self, out: np.ndarray) -> None:
        """Fill ``out (R, width)`` with all rows, reading the shards in parallel.

        Raises:
            RwmError: See :meth:`matrix`.
        """
        self.verify_manifest()
        bounds = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        if bounds[-1] != self.rows:
            raise self._damaged(f"the shards of '{self.name}' hold {bounds[-1]} rows, the manifest says {self.rows}")

        def read(number: int) -> None:
            self.read_shard(number, out[bounds[number] : bounds[number + 1]])

        with ThreadPoolExecutor(available_threads(), "shard") as pool:
            list(pool.map(read, range(len(self.manifest.shards))))

    def read_shard(self, number: int, out: np.ndarray, others: Sequence[str] = ()) -> list[np.ndarray]:
        """Fill ``out (n, width)`` with a shard's rows, and return other columns of it, ``(n,)`` each.

        Raises:
            RwmError: It cannot be read, is not what was written, or holds more or fewer rows.
        """
        path = self.shard_paths[number]
        content = _content(path)
        with _opened(path, content) as file:
            if (rows := file.metadata.num_rows) != len(out):
                raise self._damaged(f"{path} holds {rows} rows, the manifest says {len(out)}")
            _fill(out, file, self.schema)
            table = file.read(columns=[*others], use_threads=False) if others else None
            columns = [table.column(name).to_numpy() for name in others] if table else []
        self.verify(number, content)
        return columns

    def verify_manifest(self) -> None:
        """Compare the manifest with its checksum, where it has one.

        Raises:
            RwmError: It is gone, or says something else than when it was written.
        """
        file = self.path / MANIFEST_FILE
        try:
            changed = is_manifest_changed(self.path)
        except (OSError, ValueError) as exc:
            raise RwmError(f"{file} cannot be read any more: {one_line(exc)}.", "rwm data fsck") from exc
        if changed:
            own = 'rwm data fsck; a change of your own is taken once the line "checksum" is deleted'
            raise RwmError(f"{file} {CHANGED}.", own)

    def verify(self, number: int, content: bytes | None = None) -> None:
        """Compare a shard with its checksum, the first time it is read.

        Args:
            number: Of the shard.
            content: What was read from it, where all of it is at hand.

        Raises:
            RwmError: It is missing, or not what was written.
        """
        path = self.shard_paths[number]
        if number in self._verified:
            return
        try:
            found = checksum(path) if content is None else hashlib.sha256(content).hexdigest()
        except OSError as exc:
            raise self._damaged(f"Cannot read {path}: {exc.strerror}") from exc
        if found != self.manifest.shards[number].sha256:
            raise self._damaged(f"{path} {CHANGED}")
        self._verified.add(number)

    def _damaged(self, what: str) -> RwmError:
        return RwmError(f"{what}.", f"rwm data validate {quoted(self.name)}")

    def normalizer(self, kind: NormalizerKind = "auto") -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std of state and action, each ``(S + A,)`` float32.

        Args:
            kind: ``reference`` takes the robot's own constants, ``fitted`` this dataset's statistics (actions
                stay at mean 0, std 1), ``auto`` the reference where the robot has one.

        Raises:
            RwmError: ``reference`` for a robot that has none.
        """
        columns = self.manifest.columns[self.schema.state]
        robot = None if kind == "fitted" else load_robot(self.robot)
        return self.schema.choose_normalizer(
            kind, robot, lambda: (np.array([c.mean for c in columns]), np.array([c.std for c in columns]))
        )


def read_shard(path: Path, schema: Schema, out: np.ndarray) -> int:
    """Read one shard into ``out (n, width)``, if it holds as many rows; return the number of rows it holds.

    Raises:
        RwmError: The file is missing, is not Parquet or lacks a column.
    """
    with _opened(path) as file:
        if file.metadata.num_rows == len(out):
            _fill(out, file, schema)
        return int(file.metadata.num_rows)


def _content(path: Path) -> bytes | None:
    """Return what a small file holds; None of another one, and of one that opening it says more about."""
    with suppress(OSError):
        return path.read_bytes() if path.stat().st_size <= SMALL_BYTES else None
    return None


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[pq.ParquetFile]:
    """Open a shard, or its content where that is read already.

    Raises:
        RwmError: The file is missing, is not Parquet or lacks a column that the block asks for.
    """
    hint = f"rwm data validate {quoted(path.parent.name)}"
    try:
        with pq.ParquetFile(path if content is None else pa.BufferReader(content)) as file:
            yield file
    except FileNotFoundError as exc:
        raise RwmError(f"Shard {path} is missing.", hint) from exc
    except (pa.ArrowException, KeyError, OSError) as exc:
        raise RwmError(f"Shard {path} is damaged or half-written: {one_line(exc)}.", hint) from exc


def _fill(out: np.ndarray, file: pq.ParquetFile, schema: Schema) -> None:
    """Copy the rows of a shard to ``out (n, width)``, row group by row group."""
    at = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=list(schema.csv_names), use_threads=False)
        named = dict(zip(table.column_names, table.columns, strict=True))
        columns = [named[name].to_numpy() for name in schema.csv_names]
        for start in range(0, table.num_rows, CACHED_ROWS):
            stop = min(start + CACHED_ROWS, table.num_rows)
            for j, column in enumerate(columns):
                out[at + start : at + stop, j] = column[start:stop]
        at += table.num_rows


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
