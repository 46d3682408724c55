"""An episode: what exporters and foreign formats hand to the writer, and what is read back from a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.schema import COMMAND_COLUMNS, Schema

OTHERS = ("truncated", *COMMAND_COLUMNS, "reward")
"""Columns of a shard that an episode has beside its rows."""


@dataclass(frozen=True)
class Episode:
    """Consecutive rows of one robot, from a start to a fall or a cut; optional fields are None where unknown."""

    rows: np.ndarray
    """``(n, width)``, the schema's columns in order with termination last."""
    truncated: bool
    """The episode was cut off by a time limit or the end of the recording."""
    command: np.ndarray | None = None
    """``(n, 3)`` commanded x, y velocity (m/s) and yaw rate (rad/s)."""
    reward: np.ndarray | None = None
    """``(n,)``"""
    behaviour: str | None = None
    """Name of the policy that acted."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Values that domain randomisation drew for this episode, by name."""


def unknown(*shape: int) -> np.ndarray:
    """Return NaN: commands or rewards that were not recorded, where a foreign format has to have some."""
    return np.full(shape, np.nan, np.float32)


def known(values: np.ndarray) -> np.ndarray | None:
    """Return values as they are, None where they are :func:`unknown`."""
    return None if np.isnan(values).any() else values


def is_truncated(rows: np.ndarray) -> bool:
    """Return whether recorded rows ``(n, width)`` were cut off: their last one is not terminal."""
    return bool(rows[-1, -1] < 0.5)


def check_finite(rows: np.ndarray, schema: Schema, where: str) -> np.ndarray:
    """Return the rows.

    Raises:
        RwmError: A value is not finite; the first is named, after ``where``.
    """
    # The sum is a quick test; the faulty value is searched for only when it fails.
    if not np.isfinite(rows.sum()) and not (finite := np.isfinite(rows)).all():
        row, column = np.argwhere(~finite)[0]
        name = schema.csv_names[column]
        raise RwmError(f"{where} row {row}, column '{name}' is {rows[row, column]}, expected a number.")
    return rows


def read_episodes(dataset: Dataset, numbers: set[int] | None = None) -> Iterator[Episode]:
    """Yield the episodes of a dataset in order, with one shard in memory at a time.

    Args:
        dataset: The dataset.
        numbers: Episodes to read; all when None.

    Raises:
        RwmError: A shard cannot be read, or is not what was written.
    """
    dataset.verify_manifest()
    table = dataset.manifest.episodes
    number, base = 0, 0
    for file, shard in enumerate(dataset.manifest.shards):
        in_shard = []
        while number < len(table.start) and table.start[number] < base + shard.rows:
            if numbers is None or number in numbers:
                in_shard.append(number)
            number += 1
        if in_shard:
            shard_rows = np.empty((shard.rows, dataset.schema.width), np.float32)
            columns = dict(zip(OTHERS, dataset.read_shard(file, shard_rows, OTHERS), strict=True))
            for k in in_shard:
                part = slice(table.start[k] - base, table.start[k] - base + table.length[k])
                # A view would keep all of the shard for as long as the episode is kept.
                rows = shard_rows if table.length[k] == shard.rows else shard_rows[part].copy()
                yield _episode(dataset, k, rows, {name: values[part] for name, values in columns.items()})
        base += shard.rows


def _episode(dataset: Dataset, number: int, rows: np.ndarray, columns: dict[str, np.ndarray]) -> Episode:
    """Return an episode from its rows ``(n, width)`` and its part of a shard's other columns."""
    table = dataset.manifest.episodes
    recorded = np.stack([columns[name] for name in COMMAND_COLUMNS], axis=1), columns["reward"]
    command, reward = (None if np.isnan(values).any() else values for values in recorded)
    drawn = {key: values[number] for key, values in table.parameters.items()}
    parameters = {key: value for key, value in drawn.items() if value is not None}
    return Episode(rows, bool(columns["truncated"][-1]), command, reward, table.behaviour[number], parameters)
