"""Frames of a LeRobot data file: found by the numbers they carry, and compared with what the metadata say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rwmdata.errors import RwmError
from rwmdata.formats.lerobot_metadata import REPAIR, EpisodeEntry, read_parquet

EPISODE, FRAME, INDEX, TIME = "episode_index", "frame_index", "index", "timestamp"
NUMBERS = (EPISODE, FRAME, INDEX, TIME)
"""What every frame carries beside its features."""
JITTER = 0.5
"""Frames may be off by this share of an interval, and ..."""
RATE_ERROR = 0.01
"""... an episode's rate by this share."""


class DataFile:
    """Frames of one file, by episode.

    Args:
        file: The Parquet file.
        features: Features to read.

    Raises:
        RwmError: It is missing or damaged, or does not say to which episode a frame belongs.
    """

    def __init__(self, file: Path, features: Iterable[str]) -> None:
        self.file = file
        self._table = read_parquet(file, dict.fromkeys((*features, *NUMBERS)))
        episode = _integers(self._table, EPISODE, str(file))
        ordered_by = next((name for name in (FRAME, INDEX) if name in self._table.column_names), None)
        place = _integers(self._table, ordered_by, str(file)) if ordered_by else np.arange(len(episode))
        self._order = np.lexsort((place, episode))
        self._episode = episode[self._order]

    def frames(self, entry: EpisodeEntry, fps: float) -> pa.Table:
        """Return the frames of an episode, in order.

        Raises:
            RwmError: They are not those that the metadata list, or not ``fps`` a second.
        """
        start, end = np.searchsorted(self._episode, (entry.number, entry.number + 1))
        where = f"{self.file}, episode {entry.number}"
        if end - start != entry.length:
            fault = f"{where}: the file holds {end - start} frames, the metadata list {entry.length}."
            raise RwmError(fault, REPAIR)
        rows = self._order[start:end]
        together = rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()
        frames = self._table.slice(rows[0], len(rows)) if together else self._table.take(rows)
        for name in (FRAME, INDEX):
            if name in frames.column_names:
                number = _integers(frames, name, where)
                if (np.diff(number) != 1).any():
                    raise RwmError(f"{where}: '{name}' has gaps or repeats, so frames are missing or doubled.", REPAIR)
                if name == INDEX and entry.first not in (None, number[0]):
                    fault = f"{where}: its first frame is number {number[0]}, the metadata say {entry.first}."
                    raise RwmError(fault, REPAIR)
        if TIME in frames.column_names:
            _check_rate(vectors(frames, TIME, where)[:, 0], fps, where)
        return frames

    def unlisted(self, entries: Iterable[EpisodeEntry]) -> dict[int, int]:
        """Return how many frames there are of each episode that is not among the ``entries``."""
        numbers, counts = np.unique(self._episode, return_counts=True)
        listed = {entry.number for entry in entries}
        return {int(k): int(n) for k, n in zip(numbers, counts, strict=True) if k not in listed}


def vectors(frames: pa.Table, feature: str, where: str) -> np.ndarray:
    """Return a feature's numbers, ``(n, k)`` float64, lists of lists flattened.

    Raises:
        RwmError: There is no such feature, it has no value somewhere, lists differ in length, or it holds no numbers.
    """
    if feature not in frames.column_names:
        raise RwmError(f"{where} has no feature '{feature}'; it has {', '.join(frames.column_names)}.", "--mapping")
    column = frames.column(feature).combine_chunks()
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    while not column.null_count and _is_list(column.type):
        if len(pc.unique(pc.list_value_length(column))) > 1:
            raise RwmError(f"{where}: '{feature}' has lists of different lengths.", "--mapping")
        column = column.flatten()
    kind = column.type
    if column.null_count:
        raise RwmError(f"{where}: '{feature}' has no value in {column.null_count} places.", "--mapping")
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise RwmError(f"{where}: '{feature}' holds {kind}, expected numbers.", "--mapping")
    values = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    return values.reshape(frames.num_rows, -1) if frames.num_rows else values.reshape(0, 1)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _integers(frames: pa.Table, name: str, where: str) -> np.ndarray:
    values = vectors(frames, name, where)
    whole = np.nan_to_num(values, nan=0.5, posinf=0.5, neginf=0.5)
    if values.shape[1] != 1 or (whole != np.floor(whole)).any():
        raise RwmError(f"{where}: '{name}' holds no whole numbers, one a frame.", REPAIR)
    return values[:, 0].astype(np.int64)


def _check_rate(time_s: np.ndarray, fps: float, where: str) -> None:
    """Refuse an episode whose times ``(n,)`` contradict the rate of the dataset."""
    step = np.diff(time_s)
    off = ~(np.abs(step * fps - 1) <= JITTER)
    if off.any():
        row = int(off.argmax())
        fault = f"{where}, frame {row + 1} is {step[row]:.4g} s after the one before, expected {1 / fps:.4g} s"
        raise RwmError(
            f"{fault} ({fps:g} frames a second).", "the right fps in meta/info.json, or episodes without gaps"
        )
    if len(step) and not abs(step.mean() * fps - 1) <= max(RATE_ERROR, JITTER / len(step)):
        fault = f"{where} has {1 / step.mean():.4g} frames a second by its timestamps, meta/info.json says {fps:g}."
        raise RwmError(fault, "the right fps in meta/info.json")
