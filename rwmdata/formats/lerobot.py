"""LeRobot datasets (format v3.0), read and written: Parquet files of frames, and metadata beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from rwmdata.atomic import commit_folder, write_json
from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.episodes import Episode, check_finite, is_truncated, read_episodes
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.mapping import Source
from rwmdata.progress import Progress, silent
from rwmdata.schema import COMMAND_COLUMNS, Schema

VERSION = "v3.0"
INFO, EPISODES, TASKS = "meta/info.json", "meta/episodes", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FRAMES_PER_FILE = 500_000
STATE, LAST_ACTION, EXTENSION, CONTACT, COMMAND = (
    f"observation.{part}" for part in ("state", "last_action", "extension", "contact", "command")
)
TASK = "follow the velocity command"


class Info(BaseModel):
    """The part of ``meta/info.json`` that is read."""

    codebase_version: str
    robot_type: str | None = None
    fps: int | float
    features: dict[str, dict[str, Any]]
    data_path: str = DATA_PATH


def write_lerobot(dataset: Dataset, folder: Path, progress: Progress = silent) -> Path:
    """Write a dataset as a LeRobot dataset without videos.

    A LeRobot frame holds a state and the action taken in it; a row here holds a state and the action that led to it.
    So ``action`` of a frame is that of the next row (zero in the last frame), and ``observation.last_action`` keeps
    the row's own, so that reading it back is exact.

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
    command = episode.command if episode.command is not None else np.zeros((count, 3), np.float32)
    reward = episode.reward if episode.reward is not None else np.zeros(count, np.float32)
    action = np.concatenate((rows[1:, schema.action], np.zeros_like(rows[:1, schema.action])))
    vectors = {feature: rows[:, columns] for feature, columns in _parts(schema).items()}
    vectors |= {COMMAND: command, "action": action}
    columns = {feature: _lists(values) for feature, values in vectors.items()}
    columns["next.reward"] = pa.array(np.concatenate((reward[1:], reward[:1] * 0)), pa.float32())
    columns |= {"next.done": last, "next.terminated": last & (not episode.truncated)}
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
        **dict.fromkeys(("next.reward", "timestamp"), "float32"),
        **dict.fromkeys(("next.done", "next.terminated"), "bool"),
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
    """A LeRobot dataset (v3.0); every episode stays one.

    What :func:`write_lerobot` wrote needs no mapping. For others the mapping's ``path`` is a feature,
    ``observation.state``, and ``columns`` a range of its elements, ``[0, 12]``.

    Raises:
        RwmError: It is one of several sources or not v3.0, its rate is not the robot's, or its features are not ours
            and there is no mapping.
    """

    label = "LeRobot"

    def __init__(self, request: Request) -> None:
        if len(request.sources) != 1:
            raise RwmError("LeRobot datasets are converted one at a time.", "convert them separately, then merge")
        (self.folder,) = request.sources
        info = _read_info(self.folder)
        ours = info.features.get(EXTENSION, {}).get("names", [])
        super().__init__(replace(request, extension=[name.removeprefix("extension_") for name in ours]))
        hz = 1 / self.robot.control_dt_s
        if abs(info.fps / hz - 1) > 0.01:
            raise RwmError(f"{self.folder} has {info.fps:g} frames a second; {self.robot.title} runs at {hz:g}.")
        if self.assembler is None and not {STATE, LAST_ACTION, CONTACT} <= info.features.keys():
            fault = f"{self.folder} has the features {', '.join(info.features)}, not ours; a mapping must say what they"
            raise RwmError(f"{fault} hold.", "--mapping FILE.yaml with {path: observation.state, columns: [0, 12]}")
        episodes = _read_table(self.folder, sorted((self.folder / EPISODES).rglob("*.parquet"))).to_pylist()
        self._episodes: dict[Path, list[dict[str, Any]]] = {}
        for about in sorted(episodes, key=lambda about: about["episode_index"]):
            place = {"chunk_index": about["data/chunk_index"], "file_index": about["data/file_index"]}
            self._episodes.setdefault(self.folder / info.data_path.format(**place), []).append(about)
        self.files = list(self._episodes)
        self.about = {"files": [self.folder.name], "lerobot": info.model_dump(include={"robot_type", "fps"})}

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether it is a folder with LeRobot's metadata."""
        return (source / INFO).is_file()

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the episodes of a data file.

        Raises:
            RwmError: It cannot be read, or a feature is missing or of another size.
        """
        table, episodes = _read_table(self.folder, [file]), self._episodes[file]
        base = min(about["dataset_from_index"] for about in episodes)
        for about in episodes:
            part = table.slice(about["dataset_from_index"] - base, about["length"])
            where = f"{file}, episode {about['episode_index']}"
            command = reward = None
            if self.assembler:
                rows = self.assembler.rows(partial(_mapped, part, where), where)
            else:
                rows, command, reward = _own(part, self.schema, where)
            yield Episode(rows, is_truncated(rows), command, reward, about.get("behaviour"))


def _own(part: pa.Table, schema: Schema, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.zeros((part.num_rows, schema.width), np.float32)
    for feature, columns in _parts(schema).items():
        values, width = _vectors(part, feature, where), columns.stop - columns.start
        if values.shape[1] != width:
            raise RwmError(f"{where}: '{feature}' has {values.shape[1]} numbers, expected {width}.")
        rows[:, columns] = values
    rows[-1, -1] = float(part.column("next.terminated")[-1].as_py())
    reward = part.column("next.reward").to_numpy()
    reward = np.concatenate((reward[:1] * 0, reward[:-1]))
    return check_finite(rows, schema, f"{where}:"), _vectors(part, COMMAND, where), reward


def _mapped(part: pa.Table, where: str, _: str, source: Source) -> np.ndarray:
    return source.select(_vectors(part, source.path, where))


def _vectors(part: pa.Table, feature: str, where: str) -> np.ndarray:
    if feature not in part.column_names:
        raise RwmError(f"{where} has no feature '{feature}'; it has {', '.join(part.column_names)}.", "--mapping")
    column = part.column(feature).combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64).reshape(part.num_rows, -1)


def _read_info(folder: Path) -> Info:
    try:
        info = Info.model_validate_json((folder / INFO).read_text())
    except (OSError, ValueError) as exc:
        raise RwmError(f"{folder} is not a LeRobot dataset: {INFO} cannot be read: {one_line(exc)}.") from exc
    if info.codebase_version != VERSION:
        fault = f"{folder} is a LeRobot dataset {info.codebase_version}, expected {VERSION}."
        raise RwmError(fault, "LeRobot's own converter to v3.0")
    return info


def _read_table(folder: Path, files: list[Path]) -> pa.Table:
    try:
        return pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as exc:
        raise RwmError(f"A file of {folder} cannot be read: {one_line(exc)}.") from exc
