"""LeRobot datasets, read and written (as v3.0): Parquet files of frames, and metadata beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rwmdata.atomic import commit_folder, write_json
from rwmdata.catalog import Dataset
from rwmdata.episodes import Episode, check_finite, is_truncated, known, read_episodes, unknown
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.clock import check_rate
from rwmdata.formats.lerobot_columns import NamedColumns
from rwmdata.formats.lerobot_frames import RATE_ERROR, DataFile, vectors
from rwmdata.formats.lerobot_metadata import (
    DATA_PATH,
    EPISODES,
    INFO,
    TASKS,
    VERSION,
    EpisodeEntry,
    data_file,
    read_entries,
    read_info,
)
from rwmdata.formats.mapping import Assembler
from rwmdata.formats.resample import rows_at_control_rate
from rwmdata.progress import Progress, silent
from rwmdata.schema import COMMAND_COLUMNS, Schema

FRAMES_PER_FILE = 500_000
STATE, LAST_ACTION, EXTENSION, CONTACT, COMMAND = (
    f"observation.{part}" for part in ("state", "last_action", "extension", "contact", "command")
)
REWARD, DONE, TERMINATED = (f"next.{part}" for part in ("reward", "done", "terminated"))
OWN_BESIDE = (COMMAND, REWARD, TERMINATED)
"""Features read beside those that are columns of a row."""
NAME_CHARACTERS = 60
"""Of a name that is not ours, as far as it is shown."""
SHOWN_NAMES = 5
TASK = "follow the velocity command"


def write_lerobot(dataset: Dataset, folder: Path, progress: Progress = silent) -> Path:
    """Write a dataset as a LeRobot dataset without videos.

    A LeRobot frame holds a state and the action taken in it; a row here holds a state and the action that led to it.
    So ``action`` of a frame is that of the next row (zero in the last frame), and ``observation.last_action`` keeps
    the row's own, so that reading it back is exact. Commands and rewards that were not recorded are NaN.

    Raises:
        RwmError: The folder exists, or cannot be written.
    """
    with commit_folder(folder, hint="--out FOLDER") as temporary:
        tables: list[pa.Table] = []
        episodes: list[dict[str, object]] = []
        frames = written = files = 0
        for number, episode in enumerate(read_episodes(dataset)):
            file = {"chunk_index": files // 1000, "file_index": files % 1000}
            in_file = {f"data/{key}": value for key, value in file.items()}
            bounds = {"dataset_from_index": frames, "dataset_to_index": frames + len(episode.rows)}
            about = {"episode_index": number, "tasks": [TASK], "length": len(episode.rows), **in_file, **bounds}
            episodes.append({**about, "behaviour": episode.behaviour})
            tables.append(_frames(dataset, episode, number, frames))
            frames += len(episode.rows)
            if frames - written >= FRAMES_PER_FILE or frames == dataset.rows:
                path = temporary / DATA_PATH.format(**file)
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.concat_tables(tables), path, compression="zstd")
                tables, written, files = [], frames, files + 1
            progress(frames, dataset.rows, {})
        (temporary / EPISODES / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(episodes), temporary / EPISODES / "chunk-000" / "file-000.parquet")
        pq.write_table(_tasks(), temporary / TASKS)
        write_json(temporary / "meta/stats.json", _statistics(dataset))
        write_json(temporary / INFO, _info(dataset, len(episodes)))
    return folder


def _parts(schema: Schema) -> dict[str, slice]:
    """Return the features that are columns of a row as they are."""
    extension = {EXTENSION: schema.extension} if schema.dims["extension"] else {}
    return {STATE: schema.state, LAST_ACTION: schema.action, **extension, CONTACT: schema.contact}


def _frames(dataset: Dataset, episode: Episode, number: int, first: int) -> pa.Table:
    """Return the frames of an episode; its first one is frame ``first`` of the dataset."""
    rows, schema, count = episode.rows, dataset.schema, len(episode.rows)
    index = np.arange(count)
    last = index == count - 1
    command = episode.command if episode.command is not None else unknown(count, 3)
    reward = episode.reward if episode.reward is not None else unknown(count)
    action = np.concatenate((rows[1:, schema.action], np.zeros_like(rows[:1, schema.action])))
    vectors = {feature: rows[:, columns] for feature, columns in _parts(schema).items()}
    vectors |= {COMMAND: command, "action": action}
    columns = {feature: _lists(values) for feature, values in vectors.items()}
    columns[REWARD] = pa.array(np.concatenate((reward[1:], np.zeros(1))), pa.float32())
    columns |= {DONE: last, TERMINATED: last & (not episode.truncated)}
    columns |= {"timestamp": pa.array(index / dataset.control_hz, pa.float32()), "frame_index": index}
    columns |= {"episode_index": np.full(count, number), "index": first + index, "task_index": index * 0}
    return pa.table(columns)


def _lists(values: np.ndarray) -> pa.Array:
    """Return ``(n, k)`` as n lists of k numbers."""
    values = np.ascontiguousarray(values, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _tasks() -> pa.Table:
    """Return the table of tasks; its text is the index of a pandas frame, as LeRobot reads it."""
    table = pa.table({"task_index": pa.array([0]), "task": pa.array([TASK])})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    index = {"index_columns": ["task"], "column_indexes": [], "pandas_version": "2.0.0", "columns": columns}
    return table.replace_schema_metadata({"pandas": json.dumps(index)})


def _features(dataset: Dataset) -> dict[str, object]:
    names, schema = dataset.schema.names, dataset.schema
    vectors = {feature: names[columns] for feature, columns in _parts(schema).items()}
    vectors |= {COMMAND: COMMAND_COLUMNS, "action": names[schema.action]}
    scalars = {
        **dict.fromkeys((REWARD, "timestamp"), "float32"),
        **dict.fromkeys((DONE, TERMINATED), "bool"),
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
    }
    return {
        **{name: {"dtype": "float32", "shape": [len(v)], "names": list(v)} for name, v in vectors.items()},
        **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()},
    }


def _info(dataset: Dataset, episodes: int) -> dict[str, object]:
    about = {"codebase_version": VERSION, "robot_type": dataset.robot, "fps": round(dataset.control_hz)}
    counts = {"total_episodes": episodes, "total_frames": dataset.rows, "total_tasks": 1}
    sizes = {"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    layout = {"splits": {"train": f"0:{episodes}"}, "data_path": DATA_PATH, "video_path": None}
    return {**about, **counts, **sizes, **layout, "features": _features(dataset)}


def _statistics(dataset: Dataset) -> dict[str, object]:
    """Return mean, std, min and max of the vectors that are columns of the dataset."""
    schema, columns = dataset.schema, dataset.manifest.columns
    parts = {STATE: schema.state, LAST_ACTION: schema.action, "action": schema.action, CONTACT: schema.contact}
    return {
        name: {key: [getattr(column, key) for column in columns[part]] for key in ("mean", "std", "min", "max")}
        | {"count": [dataset.rows]}
        for name, part in parts.items()
    }


class LeRobotFormat(Format):
    """A LeRobot dataset (v3.0, v2.1 or v2.0); every episode stays one.

    What :func:`write_lerobot` wrote needs no mapping. For others the mapping's ``path`` is a feature,
    ``observation.state``, and ``columns`` a range of its elements, ``[0, 12]``, their names in the metadata, or
    ``observation.state[3]``; they are resampled to the robot's rate as logs are. Frames are found by their
    ``episode_index``; frames of episodes that are not listed are left out, and noted.

    Raises:
        RwmError: It is one of several sources, of an unknown version, its metadata contradict each other, or its
            features are not ours and there is no mapping.
    """

    label = "LeRobot"
    copies_are_left_out = False

    def __init__(self, request: Request) -> None:
        if len(request.sources) != 1:
            raise RwmError("LeRobot datasets are converted one at a time.", "convert them separately, then merge")
        (self.folder,) = request.sources
        self.info = info = read_info(self.folder)
        super().__init__(replace(request, extension=self._extension()))
        hz = 1 / self.robot.control_dt_s
        at_rate = abs(info.fps / hz - 1) <= RATE_ERROR
        if self.assembler is None:
            if not {STATE, LAST_ACTION, CONTACT} <= info.features.keys():
                fault = f"{self.folder} has the features {', '.join(info.features)}, not ours; a mapping must say what"
                hint = "--mapping FILE.yaml with {path: observation.state, columns: [0, 12]}"
                raise RwmError(f"{fault} they hold.", hint)
            if not at_rate:
                fault = f"{self.folder} has {info.fps:g} frames a second; {self.robot.title} runs at {hz:g}."
                raise RwmError(fault, "--mapping FILE.yaml, with which they are resampled")
            self._order = {feature: self._order_of(feature, columns) for feature, columns in self._parts.items()}
        else:
            mapping = self.assembler.mapping
            if mapping.rate_hz and mapping.check:
                check_rate(mapping.rate_hz, [info.fps], f"{self.folder}", f"{INFO} says")
            self._sources = {group: source for group, source in mapping.groups.items() if source.kind != "drive"}
            self._sources |= {"orientation": mapping.orientation} if mapping.orientation else {}
            self._named = NamedColumns(info.features, self.robot, mapping.extension)
        entries = read_entries(self.folder, info)
        self._entries: dict[Path, list[EpisodeEntry]] = {}
        for entry in entries:
            self._entries.setdefault(data_file(self.folder, info, entry), []).append(entry)
        self.files = list(self._entries)
        self.about = {"files": [self.folder.name], "lerobot": info.model_dump(include={"robot_type", "fps"})}
        if info.total_episodes not in (None, len(entries)):
            self.notes.append(f"{INFO} counts {info.total_episodes} episodes, {len(entries)} are listed")
        if not at_rate:
            self.notes.append(f"{info.fps:g} frames a second were resampled to {hz:g}")

    @property
    def _parts(self) -> dict[str, slice]:
        return _parts(self.schema)

    def _extension(self) -> list[str]:
        names = self.info.features.get(EXTENSION, {}).get("names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RwmError(f"{self.folder / INFO}: the names of '{EXTENSION}' are no list of names.", "correct them")
        return [name.removeprefix("extension_") for name in names]

    def _order_of(self, feature: str, columns: slice) -> list[int] | None:
        """Return where our columns are in a feature, by its names; None where it has no names."""
        names, wanted = self.info.features[feature].get("names"), self.schema.names[columns]
        if not isinstance(names, list):
            return None
        if sorted(map(str, names)) != sorted(wanted):
            odd = [str(name)[:NAME_CHARACTERS] for name in names if name not in wanted]
            foreign = odd or ["too few or repeated names"]
            fault = f"{self.folder}: '{feature}' is not that of {self.robot.title}: {', '.join(foreign[:SHOWN_NAMES])}."
            raise RwmError(fault, "--robot NAME, or --mapping FILE.yaml")
        return [names.index(name) for name in wanted]

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether it is a folder with LeRobot's metadata."""
        return (source / INFO).is_file()

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the episodes of a data file.

        Raises:
            RwmError: It cannot be read, its frames are not those that the metadata list, or a feature is missing or of
                another size.
        """
        content, entries = DataFile(file, self._features()), self._entries[file]
        for entry in entries:
            frames = content.frames(entry, self.info.fps)
            where = f"{file}, episode {entry.number}"
            command = reward = None
            if self.assembler:
                rows = self._mapped(frames, self.assembler, where)
            else:
                rows, command, reward = self._own(frames, where)
            yield Episode(rows, is_truncated(rows), command, reward, entry.behaviour)
        for number, count in content.unlisted(entries).items():
            self.notes.append(f"{file.name}: {count} frames of episode {number}, which is not listed, were left out")

    def _features(self) -> set[str]:
        if self.assembler:
            return {name for group, source in self._sources.items() for name in self._named.features(group, source)}
        return {*self._parts, *OWN_BESIDE}

    def _own(self, frames: pa.Table, where: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        rows = np.zeros((frames.num_rows, self.schema.width), np.float32)
        for feature, columns in self._parts.items():
            values, width = vectors(frames, feature, where), columns.stop - columns.start
            if values.shape[1] != width:
                raise RwmError(f"{where}: '{feature}' has {values.shape[1]} numbers, expected {width}.")
            rows[:, columns] = values[:, self._order[feature] or slice(None)]
        rows[-1, -1] = vectors(frames, TERMINATED, where)[-1, 0]
        reward = vectors(frames, REWARD, where)[:, 0]
        reward = np.concatenate((np.zeros(1), reward[:-1]))
        rows = check_finite(rows, self.schema, f"{where}:")
        return rows, known(vectors(frames, COMMAND, where)), known(reward)

    def _mapped(self, frames: pa.Table, assembler: Assembler, where: str) -> np.ndarray:
        """Return the rows of other features, at the robot's rate."""
        values = {group: self._named.select(frames, group, source, where) for group, source in self._sources.items()}
        return rows_at_control_rate(assembler, values, self.info.fps, where)
