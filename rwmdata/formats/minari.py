"""Minari datasets, read and written: the exchange format of offline reinforcement learning libraries."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwmdata.atomic import commit_folder, require_room
from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.episodes import Episode, check_finite, is_truncated, known, read_episodes, unknown
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.clock import check_rate
from rwmdata.formats.hdf5 import DAMAGE
from rwmdata.formats.hdf5_links import refuse_foreign_links, stored
from rwmdata.formats.mapping import Mapping, Source
from rwmdata.formats.resample import SAME_RATE, rows_at_control_rate
from rwmdata.optional import optional_import
from rwmdata.progress import Progress, silent
from rwmdata.text import quoted

if TYPE_CHECKING:
    import h5py
    from minari.data_collector import EpisodeBuffer

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
EPISODES_AT_ONCE = 64
WIDER = 8
"""Floats of a step beside those of a row: command, reward, ends."""
EPISODE_BYTES = 32_768
"""Of HDF5's own for each episode, at most."""
DATA, METADATA = "data/main_data.hdf5", "data/metadata.json"
EPISODE_NAME = re.compile(r"episode_(\d+)")
PARTS = ("state", "command", "contact", "extension")
"""Observations of what :func:`write_minari` writes."""
OF_STEPS = ("action", "termination")
"""Groups that may have a row for each step, one less than there are observations."""
DESCRIPTION = re.compile(r"(?P<robot>\S+) at (?P<hz>\d+(\.\d+)?(e[+-]?\d+)?) Hz; columns: (?P<columns>.+)")


def write_minari(dataset: Dataset, folder: Path, progress: Progress = silent) -> str:
    """Write a dataset as a Minari dataset; return its id, ``<robot>-<name>-v0``.

    An episode of n rows becomes n observations and n - 1 steps: row k's action led to row k, so it is step k - 1's.
    Observations are dicts of ``state``, ``command``, ``contact`` and, where there is one, ``extension``; a command or
    reward that was not recorded is zero. Episodes of a single row hold no step and are left out.

    Args:
        dataset: What to write.
        folder: Folder of Minari datasets; ``MINARI_DATASETS_PATH`` has to name it when they are loaded.
        progress: Called with the rows read.

    Commands and rewards that were not recorded are NaN.

    Raises:
        RwmError: minari is missing, the folder holds that dataset already or cannot be written, or no episode has a
            step.
    """
    with optional_import("Minari datasets need the package minari", extra="minari"):
        import minari
        from gymnasium import spaces
    if not (dataset.episodes.length > 1).any():
        raise RwmError(
            f"No episode of '{dataset.name}' has a step; nothing was written.",
            "a dataset with episodes of two rows or more",
        )
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
    os.environ[ROOT_VARIABLE] = os.path.abspath(folder)  # Minari joins a relative one with itself.
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
            reward = episode.reward if episode.reward is not None else unknown(length)
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
    command = episode.command if episode.command is not None else unknown(len(rows), 3)
    parts = {"state": rows[:, schema.state], "command": command, "contact": rows[:, schema.contact]}
    return parts | ({"extension": rows[:, schema.extension]} if schema.dims["extension"] else {})


class MinariFormat(Format):
    """The folder of a Minari dataset with HDF5 data; every episode stays one.

    What :func:`write_minari` wrote needs no mapping. For others the mapping's ``path`` is a place in an episode,
    ``observations``, ``observations/state`` or ``actions``, ``columns`` a range of its elements, ``[0, 12]``, and
    ``rate_hz`` the rate where it is not the robot's. An episode of n steps has n + 1 observations and becomes n + 1
    rows: what a step led to stands in the row after it. The action before the first step is not known and zero.

    The files are read as data; the environment that a dataset names is never made.

    Raises:
        RwmError: It is one of several sources, h5py is not installed, the metadata cannot be read, the data are not
            HDF5, or the dataset is not ours and there is no mapping.
    """

    label = "Minari"
    copies_are_left_out = False

    def __init__(self, request: Request) -> None:
        if len(request.sources) != 1:
            raise RwmError("Minari datasets are converted one at a time.", "convert them separately, then merge")
        with optional_import("Minari datasets need the package h5py", extra="hdf5"):
            import h5py
        self._h5py = h5py
        (self.folder,) = request.sources
        about = self._metadata()
        ours = DESCRIPTION.fullmatch(str(about.get("description")))
        columns = ours["columns"].split(", ") if ours else []
        extension = [c.removeprefix("extension_") for c in columns if c.startswith("extension_")]
        super().__init__(replace(request, extension=extension))
        self._hz = 1 / self.robot.control_dt_s
        if self.assembler is None:
            self._check_ours(ours, columns)
        else:
            self._hz = self._mapped_hz(self.assembler.mapping, float(ours["hz"]) if ours else None)
        behaviours = str(about.get("algorithm_name") or "")
        self._behaviour = behaviours if behaviours and ", " not in behaviours else None
        self._total = about.get("total_episodes")
        self.files = [self.folder / DATA]
        self.about = {"files": [self.folder.name], "minari": {"dataset_id": about.get("dataset_id")}}
        self.notes.append("the action before the first step of an episode is not known and zero")

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether it is a folder with Minari's metadata."""
        return (source / METADATA).is_file()

    def _metadata(self) -> dict[str, object]:
        file = self.folder / METADATA
        try:
            about = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as exc:
            raise RwmError(f"{file} cannot be read: {one_line(exc)}.") from exc
        if not isinstance(about, dict) or about.get("data_format", "hdf5") != "hdf5":
            found = about.get("data_format") if isinstance(about, dict) else "no object"
            raise RwmError(f"{file}: the data are {found}, expected hdf5.", "minari's own tools, to write it as hdf5")
        return about

    def _check_ours(self, ours: re.Match[str] | None, columns: list[str]) -> None:
        if ours is None:
            fault = f"{self.folder} does not come from rwm data write-minari; a mapping must say what it holds."
            raise RwmError(fault, "--mapping FILE.yaml with {path: observations, columns: [0, 12]}")
        hz = 1 / self.robot.control_dt_s
        if tuple(columns) != self.schema.names or abs(float(ours["hz"]) / hz - 1) > SAME_RATE:
            fault = f"{self.folder} holds {ours['robot']} at {ours['hz']} Hz, not {self.robot.name} at {hz:g} Hz."
            raise RwmError(fault, f"--robot {quoted(ours['robot'])}")

    def _mapped_hz(self, mapping: Mapping, said_hz: float | None) -> float:
        """Return the rate of the steps: the mapping's, else what the dataset says, else the robot's."""
        if mapping.rate_hz and mapping.check:
            check_rate(mapping.rate_hz, [said_hz] if said_hz else [], f"{self.folder}", f"{METADATA} says")
        return mapping.rate_hz or said_hz or self._hz

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the episodes.

        Raises:
            RwmError: The file is not HDF5 or holds other episodes than the metadata count, an episode lacks an array or
                has one of another shape, or a value is not finite. File, episode and array are named.
        """
        try:
            with self._h5py.File(file, "r") as content, np.errstate(over="ignore"):
                refuse_foreign_links(content, file)
                numbers = sorted(int(found[1]) for name in content if (found := EPISODE_NAME.fullmatch(name)))
                if not numbers or self._total not in (None, len(numbers)):
                    fault = f"{file} holds {len(numbers)} episodes, {METADATA} counts {self._total}."
                    raise RwmError(fault, "a complete copy of the dataset")
                for number in numbers:
                    yield self._episode(content[f"episode_{number}"], f"{file}, episode {number}")
        except (*DAMAGE, AttributeError) as exc:
            raise RwmError(f"{file} cannot be read as HDF5: {one_line(exc)}.") from exc

    def _episode(self, episode: h5py.Group, where: str) -> Episode:
        steps = len(_array(episode, "actions", where))
        if self.assembler is None:
            rows, command, reward = self._own(episode, steps, where)
            return Episode(rows, is_truncated(rows), command, reward, self._behaviour)
        mapping, values = self.assembler.mapping, {}
        orientation = {"orientation": mapping.orientation} if mapping.orientation else {}
        for group, source in (mapping.groups | orientation).items():
            if source.kind != "drive":
                values[group] = self._values(episode, group, source, steps, where)
        rows = rows_at_control_rate(self.assembler, values, self._hz, where)
        return Episode(rows, is_truncated(rows), behaviour=self._behaviour)

    def _values(self, episode: h5py.Group, group: str, source: Source, steps: int, where: str) -> np.ndarray:
        """Return a group's values with a row for each observation.

        What belongs to a step stands in the row that it led to; an action in the one before where the mapping moves it.
        """
        values = _array(episode, source.path, where)
        if len(values) == steps and group in OF_STEPS:
            moved = self.assembler is not None and self.assembler.mapping.action_index == "next"
            edge = np.zeros((1, values.shape[1]))
            values = np.concatenate((values, edge) if group == "action" and moved else (edge, values))
        if len(values) != steps + 1:
            fault = f"{where}: '{source.path}' of '{group}' has {len(values)} rows, expected {steps + 1}"
            raise RwmError(f"{fault}, one an observation.", "--mapping")
        return source.select(values)

    def _own(
        self, episode: h5py.Group, steps: int, where: str
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        schema, sizes = self.schema, self.schema.dims | {"command": 3}
        parts = {part: _array(episode, f"observations/{part}", where) for part in PARTS if sizes[part]}
        parts |= {name: _array(episode, name, where) for name in ("actions", "rewards", "terminations")}
        widths = {**sizes, "actions": sizes["action"], "rewards": 1, "terminations": 1}
        for name, values in parts.items():
            wanted = (steps + (name in PARTS), widths[name])
            if values.shape != wanted:
                raise RwmError(f"{where}: '{name}' has shape {values.shape}, expected {wanted}.", "--mapping")
        if parts["terminations"][:-1].any():
            raise RwmError(f"{where} terminates before its last step.", "a dataset whose episodes end there")
        rows = np.zeros((steps + 1, schema.width), np.float32)
        for part in ("state", "contact", *(["extension"] if sizes["extension"] else [])):
            rows[:, getattr(schema, part)] = parts[part]
        rows[1:, schema.action] = parts["actions"]
        rows[-1, -1] = parts["terminations"][-1, 0]
        reward = np.concatenate((np.zeros(1), parts["rewards"][:, 0]))
        return check_finite(rows, schema, f"{where}:"), known(parts["command"]), known(reward)


def _array(episode: h5py.Group, path: str, where: str) -> np.ndarray:
    """Return an array of an episode as ``(n, k)`` float64."""
    if path not in episode or not hasattr(episode[path], "shape"):
        names: list[str] = []
        episode.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        raise RwmError(f"{where} has no array '{path}'; it has {', '.join(sorted(names)) or 'none'}.", "--mapping")
    values = stored(episode[path], where)
    if values.ndim == 0 or not len(values):
        raise RwmError(f"{where}: '{path}' has shape {values.shape}, expected (n, k).", "--mapping")
    return values.reshape(len(values), -1)
