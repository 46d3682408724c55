"""What a LeRobot dataset says about itself (v3.0, and v2.0 and v2.1 of before): rate, features, episodes, files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from rwmdata.config import one_line
from rwmdata.errors import RwmError

VERSION = "v3.0"
INFO, EPISODES, TASKS = "meta/info.json", "meta/episodes", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OLD_VERSIONS = ("v2.0", "v2.1")
OLD_EPISODES = "meta/episodes.jsonl"
OLD_DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
FIELD = re.compile(r"\{([a-z_]+)(?::0([1-9])d)?\}")
"""A field of ``data_path``, with or without leading zeros; no other format is known."""
REPAIR = "a complete copy of the dataset, or LeRobot's own tools to repair it"


class Info(BaseModel):
    """The part of ``meta/info.json`` that is read."""

    codebase_version: str
    robot_type: str | None = None
    fps: int | float = Field(gt=0, lt=1e6)
    features: dict[str, dict[str, Any]]
    data_path: str | None = None
    chunks_size: int = Field(1000, ge=1)
    total_episodes: int | None = None

    @property
    def is_old(self) -> bool:
        """Each episode has a file of its own, named by its number."""
        return self.codebase_version in OLD_VERSIONS


class EpisodeEntry(BaseModel):
    """An episode as the metadata list it; columns that are not read may be of any type."""

    number: int = Field(alias="episode_index", ge=0)
    length: int = Field(ge=1)
    chunk: int | None = Field(None, alias="data/chunk_index", ge=0)
    file: int | None = Field(None, alias="data/file_index", ge=0)
    first: int | None = Field(None, alias="dataset_from_index", ge=0)
    """Its first frame in the whole dataset, and ..."""
    end: int | None = Field(None, alias="dataset_to_index", ge=0)
    """... the one after its last."""
    behaviour: str | None = None


COLUMNS = {field.alias or name for name, field in EpisodeEntry.model_fields.items()}


def read_info(folder: Path) -> Info:
    """Read ``meta/info.json``.

    Raises:
        RwmError: It cannot be read, or is of another version.
    """
    try:
        info = Info.model_validate_json((folder / INFO).read_text())
    except (OSError, ValueError) as exc:
        raise RwmError(f"{folder} is not a LeRobot dataset: {INFO} cannot be read: {one_line(exc)}.") from exc
    if info.codebase_version != VERSION and not info.is_old:
        known = " and ".join((*OLD_VERSIONS, VERSION))
        fault = f"{folder} is a LeRobot dataset {info.codebase_version}; {known} are read."
        raise RwmError(fault, f"LeRobot's own converter to {VERSION}")
    return info


def read_entries(folder: Path, info: Info) -> list[EpisodeEntry]:
    """Read which episodes there are, in the order of their numbers.

    Raises:
        RwmError: A file is missing or damaged, an entry lacks a value, or two entries contradict each other.
    """
    entries = []
    for place, values in _old_entries(folder) if info.is_old else _entries(folder):
        try:
            entries.append(EpisodeEntry.model_validate(values))
        except ValidationError as exc:
            raise RwmError(f"{place} is no entry of an episode: {one_line(exc)}.", REPAIR) from exc
    if not entries:
        raise RwmError(f"{folder} lists no episode.", REPAIR)
    entries.sort(key=lambda entry: entry.number)
    _check(entries, folder / (OLD_EPISODES if info.is_old else EPISODES))
    return entries


def _entries(folder: Path) -> Iterator[tuple[str, object]]:
    files = sorted(f for f in (folder / EPISODES).rglob("*.parquet") if not f.name.startswith("."))
    if not files:
        raise RwmError(f"{folder} has no {EPISODES}/*.parquet, which lists the episodes of {VERSION}.", REPAIR)
    for file in files:
        # By name, one file at a time: files of one dataset differ in the order, number and types of their columns.
        rows = read_parquet(file, COLUMNS).to_pylist()
        yield from ((f"{file}, row {k}", row) for k, row in enumerate(rows, start=1))


def _old_entries(folder: Path) -> Iterator[tuple[str, object]]:
    file = folder / OLD_EPISODES
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise RwmError(f"{file}, which lists the episodes, cannot be read: {one_line(exc)}.", REPAIR) from exc
    for k, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"{file}, line {k}", json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise RwmError(f"{file}, line {k} is no JSON: {one_line(exc)}.", REPAIR) from exc


def _check(entries: list[EpisodeEntry], place: Path) -> None:
    """Refuse entries that contradict each other or themselves."""
    for before, entry in zip(entries, entries[1:], strict=False):
        if before.number == entry.number:
            raise RwmError(f"{place} lists episode {entry.number} twice.", REPAIR)
    bounded = [(e.first, e.end, e) for e in entries if e.first is not None and e.end is not None]
    for first, end, entry in bounded:
        if end - first != entry.length:
            fault = f"{place} lists episode {entry.number} with {entry.length} frames, from {first} to {end}."
            raise RwmError(fault, REPAIR)
    bounded.sort(key=lambda part: part[0])
    for (_, end, before), (first, _, entry) in zip(bounded, bounded[1:], strict=False):
        if first < end:
            fault = (
                f"{place} lists episodes that overlap: {before.number} up to frame {end}, {entry.number} from {first}."
            )
            raise RwmError(fault, REPAIR)


def data_file(folder: Path, info: Info, entry: EpisodeEntry) -> Path:
    """Return the file that holds an episode, always one inside the folder.

    Raises:
        RwmError: ``data_path`` has an unknown field or format or leaves the folder, or the entry lacks a number.
    """
    template = info.data_path or (OLD_DATA_PATH if info.is_old else DATA_PATH)
    if info.is_old:
        values = {"episode_chunk": entry.number // info.chunks_size, "episode_index": entry.number}
    elif entry.chunk is None or entry.file is None:
        missing = "data/chunk_index" if entry.chunk is None else "data/file_index"
        raise RwmError(f"{folder / EPISODES} gives episode {entry.number} no {missing}.", REPAIR)
    else:
        values = {"chunk_index": entry.chunk, "file_index": entry.file}

    def number(match: re.Match[str]) -> str:
        return str(values[match[1]]).zfill(int(match[2] or 0)) if match[1] in values else match[0]

    path = PurePosixPath(FIELD.sub(number, template))
    if {"{", "}", "\0"} & {*str(path)} or path.is_absolute() or ".." in path.parts or not path.name:
        known = " and ".join(f"{{{name}}}" for name in values)
        fault = f"{folder / INFO}: data_path '{template}' is no path inside the dataset with the fields {known}."
        raise RwmError(fault, OLD_DATA_PATH if info.is_old else DATA_PATH)
    return folder / path


def read_parquet(file: Path, columns: Iterable[str]) -> pa.Table:
    """Read those of the columns that a file has.

    Raises:
        RwmError: It is missing or damaged.
    """
    try:
        with pq.ParquetFile(file) as content:
            names = content.schema_arrow.names
            table = content.read(columns=[name for name in columns if name in names])
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise RwmError(f"{file} cannot be read: {one_line(exc)}.", REPAIR) from exc
    if len({*table.column_names}) != table.num_columns:
        raise RwmError(f"{file} has two columns of one name: {', '.join(table.column_names)}.", REPAIR)
    return table
