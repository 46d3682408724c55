"""Writing a dataset: shards in a temporary folder, then one rename that makes it visible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rwmdata.atomic import building, commit_file, rename_folder, temporary_name
from rwmdata.catalog import Dataset, checksum
from rwmdata.clock import moment_after, text_of
from rwmdata.episodes import Episode, check_finite
from rwmdata.errors import RwmError
from rwmdata.manifest import (
    MANIFEST_FILE,
    ColumnInfo,
    DatasetManifest,
    EpisodeTable,
    Provenance,
    RunningStatistics,
    ShardInfo,
)
from rwmdata.schema import COMMAND_COLUMNS, Schema
from rwmdata.splits import deal, missing_windows

ROWS_PER_SHARD = 200_000
ROW_GROUP_ROWS = 65_536
SHARDS_AT_ONCE = 2
SHARDS_WAITING = 4
"""Shards that may wait in memory to be written; with more, :meth:`DatasetWriter.append` blocks."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def new_dataset_path(data_dir: Path, name: str, hint: str = "--name NEW_NAME") -> Path:
    """Return the folder of a new dataset.

    Raises:
        RwmError: The name is not a file name, or is taken; ``hint`` says what to do then.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise RwmError(f"'{name}' is not a dataset name; use up to 200 letters, digits, '.', '_' and '-'.", hint)
    if (data_dir / name).exists():
        raise RwmError(f"Dataset '{name}' exists already in {data_dir}.", hint)
    return data_dir / name


def created_now(data_dir: Path) -> str:
    """Return the time a new dataset is created at: later than every other, also where the clock was set back."""
    return text_of(moment_after(data_dir.glob(f"[!.]*/{MANIFEST_FILE}")))


class DatasetWriter:
    """Builds a dataset in a temporary folder and commits it with one rename.

    Used as a context manager; leaving the block without :meth:`commit` removes what was written. Only one writer at a
    time can have a name; where the file system has no locks, the first to commit wins.

    Args:
        data_dir: Folder of the datasets.
        name: New dataset's name.
        robot: Robot's name.
        schema: Its column layout.
        control_hz: Rows per second.
        provenance: Where the rows come from; kept in the manifest.
        seed: Seed of the split by episode.
        rows_per_shard: A shard is written as soon as it would hold this many rows.

    Attributes:
        rows: Rows appended so far.

    Raises:
        RwmError: The name is not a file name, is taken, is being written, or the folder cannot be written.
    """

    def __init__(
        self,
        data_dir: Path,
        name: str,
        robot: str,
        schema: Schema,
        control_hz: float,
        provenance: Provenance,
        seed: int = 0,
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        self.path = new_dataset_path(data_dir, name)
        self.robot, self.schema, self.control_hz = robot, schema, control_hz
        self.provenance, self.seed, self.rows_per_shard = provenance, seed, rows_per_shard
        self._temporary = temporary_name(self.path)
        self._held = ExitStack()
        self._table = EpisodeTable(start=[], length=[], terminated=[], behaviour=[])
        self._statistics = RunningStatistics(schema.width)
        self.rows = self._pending_rows = 0
        self._pending: list[Episode] = []
        # Shards are compressed while the caller makes the next rows.
        self._workers = ThreadPoolExecutor(SHARDS_AT_ONCE, "shard")
        self._writing: list[Future[ShardInfo]] = []
        self._states: dict[str, tuple[int, int, int]] = {}

    def __enter__(self) -> DatasetWriter:
        with ExitStack() as held:
            folder, name = self.path.parent, self.path.name
            self._temporary = held.enter_context(building(self.path, f"Dataset '{name}'", "--name NEW_NAME"))
            new_dataset_path(folder, name)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.shutdown()
        self._held.close()

    def append(self, episode: Episode) -> None:
        """Add one whole episode.

        Raises:
            RwmError: The shape is wrong or a value is not finite (episode, row and column are named).
        """
        rows = np.asarray(episode.rows, np.float32)
        number = len(self._table.start)
        if rows.ndim != 2 or rows.shape[1] != self.schema.width or len(rows) == 0:
            raise RwmError(f"Episode {number} has shape {rows.shape}, expected (n > 0, {self.schema.width}).")
        self._statistics.update(check_finite(rows, self.schema, f"Episode {number},"))
        self._table.start.append(self.rows)
        self._table.length.append(len(rows))
        self._table.terminated.append(bool(rows[-1, -1] > 0.5))
        self._table.behaviour.append(episode.behaviour)
        for key in {**self._table.parameters, **episode.parameters}:
            self._table.parameters.setdefault(key, [None] * number).append(episode.parameters.get(key))
        self._pending.append(replace(episode, rows=rows))
        self.rows += len(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self.rows_per_shard:
            self._flush()

    def _flush(self) -> None:
        """Hand the pending episodes to a worker thread; an error of an earlier shard is raised here."""
        if self._pending:
            shard, first = len(self._writing), len(self._table.start) - len(self._pending)
            self._writing.append(self._workers.submit(self._write_shard, shard, self._pending, first))
        self._pending, self._pending_rows = [], 0
        if len(self._writing) > SHARDS_WAITING:
            self._writing[-1 - SHARDS_WAITING].result()

    def _write_shard(self, number: int, episodes: list[Episode], first: int) -> ShardInfo:
        path = self._temporary / f"shard-{number:05d}.parquet"
        commit_file(path, lambda p: _write_tables(p, _shard_tables(self.schema, episodes, first)))
        self._states[path.name] = _state_of(path)
        return ShardInfo(file=path.name, rows=sum(len(e.rows) for e in episodes), sha256=checksum(path))

    def commit(self) -> Dataset:
        """Write the manifest and make the dataset visible under its name.

        Raises:
            RwmError: There are no rows, another writer has taken the name, or a shard is not as it was written.
        """
        self._flush()
        shards = [shard.result() for shard in self._writing]
        if not shards:
            raise RwmError(f"Dataset '{self.path.name}' has no rows; nothing was written.")
        self._check(shards)
        manifest = self._manifest(shards)
        manifest.write(self._temporary)
        new_dataset_path(self.path.parent, self.path.name)
        try:
            rename_folder(self._temporary, self.path)
        except OSError as exc:
            new_dataset_path(self.path.parent, self.path.name)
            raise RwmError(f"Cannot commit {self.path}: {exc.strerror}.", "--home FOLDER") from exc
        return Dataset(self.path, manifest)

    def _check(self, shards: list[ShardInfo]) -> None:
        """Refuse to commit unless every shard is still the file whose checksum was taken, or has that checksum.

        Raises:
            RwmError: One is missing or has another checksum.
        """
        odd = [shard.file for shard in shards if not self._is_whole(shard)]
        if odd:
            which = f"{odd[0]} and {len(odd) - 1} others are" if len(odd) > 1 else f"{odd[0]} is"
            fault = f"{which} missing or changed since being written; '{self.path.name}' was not committed"
            raise RwmError(f"{fault}.", "the same command again, and a look at what else writes to the disk")

    def _is_whole(self, shard: ShardInfo) -> bool:
        path = self._temporary / shard.file
        try:
            return _state_of(path) == self._states[shard.file] or checksum(path) == shard.sha256
        except OSError:
            return False

    def _manifest(self, shards: list[ShardInfo]) -> DatasetManifest:
        stats = {key: getattr(self._statistics, key) for key in ("mean", "std", "min", "max")}
        columns = [
            ColumnInfo.model_validate(vars(column) | {key: float(values[i]) for key, values in stats.items()})
            for i, column in enumerate(self.schema.columns)
        ]
        extension = [c.name.removeprefix("extension_") for c in self.schema.columns if c.group == "extension"]
        created = created_now(self.path.parent)
        about: dict[str, object] = {"name": self.path.name, "created": created, "provenance": self.provenance}
        about |= {"control_hz": self.control_hz, "robot": self.robot}
        robot = {"joints": list(self.schema.joints), "legs": list(self.schema.legs)}
        content = {"rows": self.rows, "columns": columns, "episodes": self._table, "shards": shards}
        splits = deal(self._table.length, self.seed)
        notes = [*splits.notes, *filter(None, [missing_windows(self._table.length, splits, self.path.name, self.seed)])]
        if notes:
            about["provenance"] = {**self.provenance, "notes": [*self.provenance.get("notes", []), *notes]}
        dealt = {"splits": splits.episodes, "split_rows": splits.rows}
        return DatasetManifest.model_validate({**about, **robot, "extension": extension, **content, **dealt})


def _state_of(path: Path) -> tuple[int, int, int]:
    """Return what changes with a file: inode, size and time of the last write, ns."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write tables of the same columns to a Parquet file, a row group each."""
    head = next(tables)
    with pq.ParquetWriter(path, head.schema, compression="lz4", use_dictionary=["behaviour"]) as file:
        for table in chain([head], tables):
            file.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _shard_tables(schema: Schema, episodes: list[Episode], first: int) -> Iterator[pa.Table]:
    """Give the rows of a shard as tables of ``ROW_GROUP_ROWS`` rows, so that no copy of a long episode is made.

    Args:
        schema: The column layout.
        episodes: Those of the shard.
        first: Number of the first of them in the dataset.
    """
    pieces: list[tuple[int, int, Episode]] = []
    room = ROW_GROUP_ROWS
    for number, episode in enumerate(episodes, first):
        length, start = len(episode.rows), 0
        while start < length:
            stop = min(start + room, length)
            pieces.append((number, start, _piece(episode, start, stop)))
            room, start = room - (stop - start), stop
            if room == 0:
                yield _table(schema, pieces)
                pieces, room = [], ROW_GROUP_ROWS
    if pieces:
        yield _table(schema, pieces)


def _piece(episode: Episode, start: int, stop: int) -> Episode:
    """Return some rows of an episode; it ends where the episode does."""
    command = None if episode.command is None else episode.command[start:stop]
    reward = None if episode.reward is None else episode.reward[start:stop]
    truncated = episode.truncated and stop == len(episode.rows)
    return replace(episode, rows=episode.rows[start:stop], truncated=truncated, command=command, reward=reward)


def _table(schema: Schema, pieces: list[tuple[int, int, Episode]]) -> pa.Table:
    """Return an Arrow table: schema columns, then the columns about the episode.

    ``pa.array`` is avoided: where pandas is installed it imports it, which takes longer than the rest.

    Args:
        schema: The column layout.
        pieces: Number of an episode, its first row that is meant, and the rows from there.
    """
    episodes = [episode for _, _, episode in pieces]
    lengths = [len(e.rows) for e in episodes]
    values = _transposed([e.rows for e in episodes], schema.width)
    truncated = np.zeros(values.shape[1], bool)
    truncated[np.cumsum(lengths) - 1] = [e.truncated for e in episodes]
    index = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    command = _joined([e.command for e in episodes], lengths, 3)
    (reward,) = _joined([e.reward for e in episodes], lengths, 1)
    columns = {name: _zero_copy(values[j]) for j, name in enumerate(schema.names)}
    number = np.array([number for number, _, _ in pieces], np.int32)[index]
    step = np.concatenate([np.arange(a, a + n, dtype=np.int32) for (_, a, _), n in zip(pieces, lengths, strict=True)])
    behaviour = pl.Series([e.behaviour for e in episodes], dtype=pl.String).gather(index)
    place = {"episode": number, "step": step}
    ends = {"terminated": values[-1] > 0.5, "truncated": truncated}
    recorded = {**dict(zip(COMMAND_COLUMNS, command, strict=True)), "reward": reward, "behaviour": behaviour}
    about = pl.DataFrame({**place, **ends, **recorded}).to_arrow()
    columns.update(zip(about.column_names, about.columns, strict=True))
    return pa.table(columns)


def _transposed(parts: list[np.ndarray], width: int) -> np.ndarray:
    """Join arrays ``(n, width)`` to columns ``(width, sum n)``."""
    if all(p.flags.f_contiguous or not p.flags.c_contiguous for p in parts):
        return np.ascontiguousarray(np.concatenate(parts).T)
    bounds = np.cumsum([0, *map(len, parts)])
    out = np.empty((width, bounds[-1]), np.float32)
    for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
        out[:, start:stop] = part.T  # An episode fits the cache, so transposing it costs little.
    return out


def _zero_copy(column: np.ndarray) -> pa.Array:
    """Return a contiguous float32 column without copying it."""
    return pa.Array.from_buffers(pa.float32(), len(column), [None, pa.py_buffer(column)])


def _joined(parts: list[np.ndarray | None], lengths: list[int], width: int) -> list[pl.Series]:
    """Join per-episode arrays ``(n, width)`` to columns; null where an episode has none."""
    if all(p is None for p in parts):
        return [pl.repeat(None, sum(lengths), dtype=pl.Float32, eager=True)] * width
    with_length = zip(parts, lengths, strict=True)
    filled = [np.full((n, width), np.nan) if part is None else part.reshape(n, width) for part, n in with_length]
    joined = np.concatenate(filled, dtype=np.float32, casting="same_kind")
    return [pl.Series(np.ascontiguousarray(column)).fill_nan(None) for column in joined.T]
