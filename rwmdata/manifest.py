"""``dataset.json``: the content of a dataset, typed and versioned."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rwmdata.atomic import write_text
from rwmdata.checksums import CHECKSUM, is_changed, sealed
from rwmdata.schema import SCHEMA_VERSION, Schema

MANIFEST_FILE = "dataset.json"
CACHED_ROWS = 2048
"""Rows processed at a time: few enough to stay in the processor's cache."""
SPLIT_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
Provenance = dict[str, Any]
"""Where rows come from: JSON values, different ones for each source."""


def made_by(command: str, options: Mapping[str, Any]) -> Provenance:
    """Return the origin of what a command makes; options that are None, False, 0 or empty are as if not given."""
    return {"source": command, "options": {name: value for name, value in options.items() if value}}


class ColumnInfo(BaseModel):
    """Name, group, unit and statistics of one float32 column."""

    model_config = ConfigDict(extra="forbid")
    name: str
    group: str
    unit: str
    mean: float
    std: float
    min: float
    max: float


class ShardInfo(BaseModel):
    """One immutable Parquet file."""

    model_config = ConfigDict(extra="forbid")
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    rows: int = Field(ge=1)
    sha256: str


class EpisodeTable(BaseModel):
    """Bounds of every episode in global row order; lists of equal length."""

    model_config = ConfigDict(extra="forbid")
    start: list[int]
    length: list[int]
    terminated: list[bool]
    behaviour: list[str | None]
    parameters: dict[str, list[float | None]] = {}
    """Values that domain randomisation drew for each episode, by name; None where it drew none."""


class DatasetManifest(BaseModel):
    """Content of ``dataset.json``."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA_VERSION
    name: str
    robot: str
    joints: list[str]
    legs: list[str]
    extension: list[str] = []
    control_hz: float = Field(gt=0, lt=1e6)
    created: str
    rows: int = Field(ge=1)
    columns: list[ColumnInfo]
    episodes: EpisodeTable
    splits: dict[str, list[int]]
    """Numbers of the episodes of each split."""
    split_rows: dict[str, list[tuple[int, int]]] = {}
    """Where episodes are divided by time: rows [start, end) of each split, each within one episode. Else empty."""
    shards: list[ShardInfo]
    provenance: Provenance

    @model_validator(mode="before")
    @classmethod
    def _without_checksum(cls, record: object) -> object:
        return {k: v for k, v in record.items() if k != CHECKSUM} if isinstance(record, dict) else record

    @model_validator(mode="after")
    def _consistent(self) -> DatasetManifest:
        table = self.episodes
        lists: list[Sized] = [table.length, table.terminated, table.behaviour, *table.parameters.values()]
        if any(len(values) != len(table.start) for values in lists):
            raise ValueError("the lists about the episodes differ in length")
        if tuple(c.name for c in self.columns) != self.build_schema().names:
            raise ValueError("the columns are not those of the joints, legs and extension it names")
        if self.split_rows and not self._parts_are_separate():
            raise ValueError("split_rows are not separate parts of episodes")
        return self

    def _parts_are_separate(self) -> bool:
        parts = sorted(part for ranges in self.split_rows.values() for part in ranges)
        table = self.episodes
        bounds = sorted(zip(table.start, [a + n for a, n in zip(table.start, table.length, strict=True)], strict=True))
        before = [bisect_right(bounds, start, key=lambda bound: bound[0]) - 1 for start, _ in parts]
        inside = all(k >= 0 and start < end <= bounds[k][1] for k, (start, end) in zip(before, parts, strict=True))
        apart = all(end <= start for (_, end), (start, _) in zip(parts, parts[1:], strict=False))
        return inside and apart and self.split_rows.keys() <= self.splits.keys()

    @model_serializer(mode="wrap")
    def _without_empty(self, default: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = default(self)
        if not self.split_rows:  # As versions write it that know whole episodes only.
            content.pop("split_rows", None)
        return content

    def write(self, folder: Path) -> None:
        """Write it into a dataset's folder, atomically, with a checksum."""
        text = json.dumps(sealed(json.loads(self.model_dump_json())), indent=1)
        write_text(folder / MANIFEST_FILE, text + "\n")

    def build_schema(self) -> Schema:
        """Return the schema its joints, legs and extension names imply."""
        return Schema.build(self.joints, self.legs, self.extension)


def is_manifest_changed(folder: Path) -> bool:
    """Return whether the manifest in a dataset's folder says something else than when it was written.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON.
    """
    return is_changed(json.loads((folder / MANIFEST_FILE).read_bytes()))


def split_episodes(count: int, seed: int, shares: dict[str, float] | None = None) -> dict[str, list[int]]:
    """Assign whole episodes to splits at random.

    Args:
        count: Number of episodes.
        seed: Seed of the assignment.
        shares: Relative size of each split, the first takes what rounding leaves; 80/10/10 % train, val, test when
            None. With few episodes the first splits are served first: one episode is train, two are train and val; from
            three on, each of three splits has at least one.
    """
    shares = shares or SPLIT_SHARES
    order = np.random.default_rng(seed).permutation(count)
    names, total = list(shares), sum(shares.values())
    sizes = {k: max(1, round(count * shares[k] / total)) if count > i else 0 for i, k in enumerate(names) if i}
    bounds = np.cumsum([0, *sizes.values()])
    parts = {k: order[a:b] for k, a, b in zip(sizes, bounds, bounds[1:], strict=False)}
    parts = {names[0]: order[bounds[-1] :]} | parts
    return {name: sorted(int(i) for i in parts[name]) for name in names}


class RunningStatistics:
    """Mean, standard deviation, minimum and maximum of columns, accumulated in float64."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.m2 = 0, np.zeros(width), np.zeros(width)
        self.min, self.max = np.full(width, np.inf), np.full(width, -np.inf)

    def update(self, rows: np.ndarray) -> None:
        """Add ``rows (n, width)`` (Chan's parallel update)."""
        for part in np.array_split(rows, -(-len(rows) // CACHED_ROWS)) if len(rows) else []:
            n, exact = len(part), part.astype(np.float64)
            mean = exact.mean(axis=0)
            delta, total = mean - self.mean, self.count + n
            exact -= mean
            self.m2 += np.einsum("ij,ij->j", exact, exact) + delta**2 * self.count * n / total
            self.mean += delta * n / total
            self.count = total
            self.min, self.max = np.minimum(self.min, part.min(axis=0)), np.maximum(self.max, part.max(axis=0))

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, ``(width,)``."""
        return np.sqrt(self.m2 / max(self.count, 1))
