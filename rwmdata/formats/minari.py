"""Minari datasets, written: the exchange format of offline reinforcement learning libraries."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwmdata.atomic import commit_folder, require_room
from rwmdata.catalog import Dataset
from rwmdata.episodes import Episode, read_episodes
from rwmdata.errors import RwmError
from rwmdata.optional import optional_import
from rwmdata.progress import Progress, silent

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
EPISODES_AT_ONCE = 64
WIDER = 8
"""Floats of a step beside those of a row: command, reward, ends."""
EPISODE_BYTES = 32_768
"""Of HDF5's own for each episode, at most."""


def write_minari(dataset: Dataset, folder: Path, progress: Progress = silent) -> str:
    """Write a dataset as a Minari dataset; return its id, ``<robot>-<name>-v0``.

    An episode of n rows becomes n observations and n - 1 steps: row k's action led to row k, so it is step k - 1's.
    Observations are dicts of ``state``, ``command``, ``contact`` and, where there is one, ``extension``; a command or
    reward that was not recorded is zero. Episodes of a single row hold no step and are left out.

    Args:
        dataset: What to write.
        folder: Folder of Minari datasets; ``MINARI_DATASETS_PATH`` has to name it when they are loaded.
        progress: Called with the rows read.

    Raises:
        RwmError: minari is missing, the folder holds that dataset already or cannot be written, or no episode has a
            step.
    """
    with optional_import("Minari datasets need the package minari", extra="minari"):
        import minari
        from gymnasium import spaces
    if not (dataset.episodes.length > 1).any():
        raise RwmError(f"No episode of '{dataset.name}' has a step; nothing was written.")
    name = f"{dataset.robot}-{re.sub('[^A-Za-z0-9_-]+', '-', dataset.name)}-v0"
    target = folder / name
    sample = _observations(next(read_episodes(dataset)), dataset)
    box = partial(spaces.Box, -np.inf, np.inf, dtype=np.float32)
    about = {
        "observation_space": spaces.Dict({key: box(values.shape[1:]) for key, values in sample.items()}),
        "action_space": box((dataset.schema.dims["action"],)),
        "algorithm_name": ", ".join(sorted({b for b in dataset.episodes.behaviour if b})) or None,
        "description": f"{dataset.robot} at {dataset.control_hz:g} Hz; columns: {', '.join(dataset.schema.names)}",
    }
    with commit_folder(target, hint="--out FOLDER") as temporary, datasets_root(temporary), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About the authors and the environment, which are not given.
        size = 4 * dataset.rows * (dataset.schema.width + WIDER) + EPISODE_BYTES * len(dataset.episodes)
        require_room(temporary, size)  # HDF5 ends the process where a disk is full.
        written = None
        for buffers, rows in _buffers(dataset):
            if written is None:
                written = minari.create_dataset_from_buffers(name, buffers, **about)
            else:
                written.update_dataset_from_buffer(buffers)
            progress(rows, dataset.rows, {})
        for part in (temporary / name).iterdir():
            part.rename(temporary / part.name)
        (temporary / name).rmdir()
    return name


@contextmanager
def datasets_root(folder: Path) -> Iterator[None]:
    """Make Minari keep its datasets in ``folder`` inside the block."""
    before = os.environ.get(ROOT_VARIABLE)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[ROOT_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(ROOT_VARIABLE)
        if before is not None:
            os.environ[ROOT_VARIABLE] = before


def _buffers(dataset: Dataset) -> Iterator[tuple[list[EpisodeBuffer], int]]:
    """Yield Minari's episodes in batches, with the rows read so far."""
    from minari.data_collector import EpisodeBuffer

    batch: list[EpisodeBuffer] = []
    count = rows = 0
    for episode in read_episodes(dataset):
        length = len(episode.rows)
        rows += length
        if length > 1:
            last = np.arange(1, length) == length - 1
            reward = episode.reward if episode.reward is not None else np.zeros(length, np.float32)
            actions = episode.rows[1:, dataset.schema.action]
            steps = {"observations": _observations(episode, dataset), "actions": actions, "rewards": list(reward[1:])}
            ends = {"terminations": list(last & (not episode.truncated)), "truncations": list(last & episode.truncated)}
            batch.append(EpisodeBuffer(id=count, **steps, **ends))
            count += 1
        if len(batch) == EPISODES_AT_ONCE:
            yield batch, rows
            batch = []
    if batch:
        yield batch, rows


def _observations(episode: Episode, dataset: Dataset) -> dict[str, np.ndarray]:
    schema, rows = dataset.schema, episode.rows
    command = episode.command if episode.command is not None else np.zeros((len(rows), 3), np.float32)
    parts = {"state": rows[:, schema.state], "command": command, "contact": rows[:, schema.contact]}
    return parts | ({"extension": rows[:, schema.extension]} if schema.dims["extension"] else {})
