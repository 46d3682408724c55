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
        _write(dataset, temporary, progress)
    return folder


def _write(dataset: Dataset, folder: Path, progress: Progress) -> None:
    schema, hz = dataset.schema, dataset.control_hz
    tables: list[pa.Table] = []
    episodes: list[dict[str, object]] = []
    frames = written = files = 0
    for number, e in enumerate(read_episodes(dataset)):
        count, rows = len(e.rows), e.rows
        action = np.concatenate((rows[1:, schema.action], np.zeros_like(rows[:1, schema.action])))
        command = e.command if e.command is not None else np.zeros((count, 3), np.float32)
        reward = e.reward if e.reward is not None else np.zeros(count, np.float32)
        last = np.arange(count) == count - 1
        tables.append(
            pa.table(
                {
                    STATE: _lists(rows[:, schema.state]),
                    LAST_ACTION: _lists(rows[:, schema.action]),
                    **({EXTENSION: _lists(rows[:, schema.extension])} if schema.dims["extension"] else {}),
                    CONTACT: _lists(rows[:, schema.contact]),
                    COMMAND: _lists(command),
                    "action": _lists(action),
                    "next.reward": pa.array(np.concatenate((reward[1:], reward[:1] * 0)), pa.float32()),
                    "next.done": last,
                    "next.terminated": last & (not e.truncated),
                    "timestamp": pa.array(np.arange(count) / hz, pa.float32()),
                    "frame_index": np.arange(count),
                    "episode_index": np.full(count, number),
                    "index": frames + np.arange(count),
                    "task_index": np.zeros(count, np.int64),
                }
            )
        )
        episodes.append(
            {
                "episode_index": number,
                "tasks": [TASK],
                "length": count,
                "data/chunk_index": files // 1000,
                "data/file_index": files % 1000,
                "dataset_from_index": frames,
                "dataset_to_index": frames + count,
                "behaviour": e.behaviour,
            }
        )
        frames += count
        if frames - written >= FRAMES_PER_FILE or frames == dataset.rows:
            path = folder / DATA_PATH.format(chunk_index=files // 1000, file_index=files % 1000)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables(tables), path, compression="zstd")
            tables, written, files = [], frames, files + 1
        progress(frames, dataset.rows, {})
    (folder / EPISODES / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), folder / EPISODES / "chunk-000" / "file-000.parquet")
    pq.write_table(_tasks(), folder / TASKS)
    write_json(folder / "meta/stats.json", _statistics(dataset))
    write_json(folder / INFO, _info(dataset, len(episodes)))


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
    vectors = {
        STATE: names[schema.state],
        LAST_ACTION: names[schema.action],
        CONTACT: names[schema.contact],
        COMMAND: COMMAND_COLUMNS,
        "action": names[schema.action],
    }
    scalars = {
        **dict.fromkeys(("next.reward", "timestamp"), "float32"),
        **dict.fromkeys(("next.done", "next.terminated"), "bool"),
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
    }
    if schema.dims["extension"]:
        vectors[EXTENSION] = names[schema.extension]
    return {
        **{name: {"dtype": "float32", "shape": [len(v)], "names": list(v)} for name, v in vectors.items()},
        **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()},
    }


def _info(dataset: Dataset, episodes: int) -> dict[str, object]:
    return {
        "codebase_version": VERSION,
        "robot_type": dataset.robot,
        "total_episodes": episodes,
        "total_frames": dataset.rows,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": round(dataset.control_hz),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": None,
        "features": _features(dataset),
    }


def _statistics(dataset: Dataset) -> dict[str, object]:
    """Return mean, std, min and max of the vectors that are columns of the dataset."""
    schema, columns = dataset.schema, dataset.manifest.columns
    parts = {STATE: schema.state, LAST_ACTION: schema.action, "action": schema.action, CONTACT: schema.contact}
    return {
        name: {key: [getattr(c, key) for c in columns[part]] for key in ("mean", "std", "min", "max")}
        | {"count": [dataset.rows]}
        for name, part in parts.items()
    }


class LeRobotFormat(Format):
    """A LeRobot dataset (v3.0); every episode stays one.

    What :func:`write_lerobot` wrote needs no mapping. For others the mapping's ``path`` is a feature,
    ``observation.state``, and ``columns`` a range of its elements, ``[0, 12]``.

    Raises:
        RwmError: There are several sources, it is not a v3.0 dataset, its rate is not the robot's, or its features are
            not ours and there is no mapping.
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
            raise RwmError(
                f"{self.folder} has the features {', '.join(info.features)}, not ours; a mapping must say what they "
                "hold.",
                "--mapping FILE.yaml with {path: observation.state, columns: [0, 12]}",
            )
        episodes = _read_table(self.folder, sorted((self.folder / EPISODES).rglob("*.parquet"))).to_pylist()
        self._episodes = _by_file(self.folder, info, episodes)
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
        base = min(e["dataset_from_index"] for e in episodes)
        for e in episodes:
            part = table.slice(e["dataset_from_index"] - base, e["length"])
            where = f"{file}, episode {e['episode_index']}"
            if self.assembler:
                rows = self.assembler.rows(partial(_mapped, part, where), where)
                command = reward = None
            else:
                rows, command, reward = _own(part, self.schema, where)
            yield Episode(rows, is_truncated(rows), command, reward, e.get("behaviour"))


def _own(part: pa.Table, schema: Schema, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.zeros((part.num_rows, schema.width), np.float32)
    parts = [(STATE, schema.state), (LAST_ACTION, schema.action), (CONTACT, schema.contact)]
    parts += [(EXTENSION, schema.extension)] if schema.dims["extension"] else []
    for feature, columns in parts:
        values = _vectors(part, feature, where)
        if values.shape[1] != columns.stop - columns.start:
            raise RwmError(
                f"{where}: '{feature}' has {values.shape[1]} numbers, expected {columns.stop - columns.start}."
            )
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
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(part.num_rows, -1)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64).reshape(part.num_rows, 1)


def _by_file(folder: Path, info: Info, episodes: list[dict[str, Any]]) -> dict[Path, list[dict[str, Any]]]:
    by_file: dict[Path, list[dict[str, Any]]] = {}
    for e in sorted(episodes, key=lambda e: e["episode_index"]):
        keys = {"chunk_index": e["data/chunk_index"], "file_index": e["data/file_index"]}
        by_file.setdefault(folder / info.data_path.format(**keys), []).append(e)
    return by_file


def _read_info(folder: Path) -> Info:
    try:
        info = Info.model_validate_json((folder / INFO).read_text())
    except (OSError, ValueError) as exc:
        raise RwmError(f"{folder} is not a LeRobot dataset: {INFO} cannot be read: {one_line(exc)}.") from exc
    if info.codebase_version != VERSION:
        raise RwmError(
            f"{folder} is a LeRobot dataset {info.codebase_version}, expected {VERSION}.",
            "LeRobot's own converter to v3.0",
        )
    return info


def _read_table(folder: Path, files: list[Path]) -> pa.Table:
    try:
        return pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as exc:
        raise RwmError(f"A file of {folder} cannot be read: {one_line(exc)}.") from exc
