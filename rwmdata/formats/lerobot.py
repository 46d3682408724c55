"""LeRobot datasets (format v3.0) out and in: Parquet files of frames, and metadata beside them."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rwmdata.atomic import temporary_name, write_json
from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.episodes import Episode, is_truncated, read_episodes
from rwmdata.errors import RwmError
from rwmdata.formats.mapping import Assembler, Source, check_finite, load_mapping, notes
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import load_robot
from rwmdata.schema import COMMAND_COLUMNS, Schema
from rwmdata.writer import DatasetWriter

VERSION = "v3.0"
INFO, EPISODES, TASKS = "meta/info.json", "meta/episodes", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FRAMES_PER_FILE = 500_000
STATE, LAST_ACTION, EXTENSION, CONTACT, COMMAND = (
    f"observation.{part}" for part in ("state", "last_action", "extension", "contact", "command")
)
TASK = "follow the velocity command"


def write_lerobot(dataset: Dataset, folder: Path, progress: Progress | None = None) -> Path:
    """Write a dataset as a LeRobot dataset without videos.

    A LeRobot frame holds a state and the action taken in it; a row here holds a state and the action that led to it.
    So ``action`` of a frame is that of the next row (zero in the last frame), and ``observation.last_action`` keeps
    the row's own, which makes the way back exact.

    Raises:
        RwmError: The folder exists, or cannot be written.
    """
    if folder.exists():
        raise RwmError(f"{folder} exists already; nothing was written.", "--out FOLDER")
    building = temporary_name(folder)
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        _write(dataset, building, progress)
        building.rename(folder)
    except OSError as exc:
        raise RwmError(f"Cannot write {folder}: {exc.strerror or exc}.", "--out FOLDER") from exc
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _write(dataset: Dataset, folder: Path, progress: Progress | None) -> None:
    schema, hz = dataset.schema, dataset.control_hz
    tables: list[pa.Table] = []
    episodes: list[dict[str, Any]] = []
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
        if progress:
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
    index = {
        "index_columns": ["task"],
        "column_indexes": [],
        "pandas_version": "2.0.0",
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
    }
    return table.replace_schema_metadata({"pandas": json.dumps(index)})


def _features(dataset: Dataset) -> dict[str, Any]:
    names, schema = dataset.schema.names, dataset.schema
    vectors = {
        STATE: names[schema.state],
        LAST_ACTION: names[schema.action],
        CONTACT: names[schema.contact],
        COMMAND: COMMAND_COLUMNS,
        "action": names[schema.action],
    }
    scalars = {
        "next.reward": "float32",
        "next.done": "bool",
        "next.terminated": "bool",
        "timestamp": "float32",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }
    if schema.dims["extension"]:
        vectors[EXTENSION] = names[schema.extension]
    found: dict[str, Any] = {k: {"dtype": "float32", "shape": [len(v)], "names": list(v)} for k, v in vectors.items()}
    return found | {k: {"dtype": kind, "shape": [1], "names": None} for k, kind in scalars.items()}


def _info(dataset: Dataset, episodes: int) -> dict[str, Any]:
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


def _statistics(dataset: Dataset) -> dict[str, Any]:
    """Return mean, std, min and max of the vectors that are columns of the dataset."""
    schema, columns = dataset.schema, dataset.manifest.columns
    parts = {STATE: schema.state, LAST_ACTION: schema.action, "action": schema.action, CONTACT: schema.contact}
    return {
        name: {key: [getattr(c, key) for c in columns[part]] for key in ("mean", "std", "min", "max")}
        | {"count": [dataset.rows]}
        for name, part in parts.items()
    }


def convert_lerobot(
    home: Home,
    folder: Path,
    name: str,
    robot: str = "anymal_d",
    mapping: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Turn a LeRobot dataset (v3.0) into a dataset; every episode stays one.

    What :func:`write_lerobot` wrote needs no mapping. For others the mapping's ``path`` is a feature,
    ``observation.state``, and ``columns`` its part, ``[0, 12]``.

    Raises:
        RwmError: It is not a v3.0 dataset, its rate is not the robot's, a feature is missing or of another size.
    """
    spec, info = load_robot(robot), _read_info(folder)
    said = load_mapping(mapping) if mapping else None
    ours = info["features"].get(EXTENSION, {}).get("names", [])
    extension = said.extension if said else [name.removeprefix("extension_") for name in ours]
    schema = Schema.from_robot(spec, extension)
    if abs(info["fps"] * spec.control_dt_s - 1) > 0.01:
        raise RwmError(f"{folder} has {info['fps']} frames a second; {spec.title} runs at {1 / spec.control_dt_s:g}.")
    assembler = Assembler(spec, schema, said) if said else None
    if assembler is None and not {STATE, LAST_ACTION, CONTACT} <= info["features"].keys():
        raise RwmError(
            f"{folder} has the features {', '.join(info['features'])}, not ours; a mapping must say what they hold.",
            "--mapping FILE.yaml with {path: observation.state, columns: [0, 12]}",
        )
    missing, computed = (assembler.missing, assembler.computed) if assembler else (set[str](), set[str]())
    origin: dict[str, Any] = {
        "source": "rwm data convert",
        "files": [folder.name],
        "lerobot": {k: info[k] for k in ("robot_type", "fps")},
        "missing_groups": sorted(missing),
        "computed_groups": sorted(computed),
        "notes": notes(missing, computed),
    }
    episodes = _read_table(folder, sorted((folder / EPISODES).rglob("*.parquet"))).to_pylist()
    with DatasetWriter(home.data_dir, name, spec.name, schema, 1 / spec.control_dt_s, origin, seed) as writer:
        for file, members in _by_file(folder, info, episodes).items():
            table, base = _read_table(folder, [file]), min(m["dataset_from_index"] for m in members)
            for m in members:
                part = table.slice(m["dataset_from_index"] - base, m["length"])
                where = f"{file}, episode {m['episode_index']}"
                if assembler:
                    rows = assembler.rows(partial(_mapped, part, where), where)
                    command = reward = None
                else:
                    rows, command, reward = _own(part, schema, where)
                writer.append(Episode(rows, is_truncated(rows), command, reward, m.get("behaviour")))
                if progress:
                    progress(writer.rows, info["total_frames"], {})
        return writer.commit()


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
    return check_finite(rows, schema, where), _vectors(part, COMMAND, where), reward


def _mapped(part: pa.Table, where: str, _: str, source: Source) -> np.ndarray:
    values = _vectors(part, source.path, where)
    if source.columns is None:
        return values
    if not isinstance(source.columns, tuple):
        raise RwmError(f"Columns of '{source.path}' are {source.columns}; a feature needs [first, behind last].")
    return values[:, slice(*source.columns)]


def _vectors(part: pa.Table, feature: str, where: str) -> np.ndarray:
    if feature not in part.column_names:
        raise RwmError(f"{where} has no feature '{feature}'; it has {', '.join(part.column_names)}.", "--mapping")
    column = part.column(feature).combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(part.num_rows, -1)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64).reshape(part.num_rows, 1)


def _by_file(folder: Path, info: dict[str, Any], episodes: list[dict[str, Any]]) -> dict[Path, list[dict[str, Any]]]:
    found: dict[Path, list[dict[str, Any]]] = {}
    for e in sorted(episodes, key=lambda m: m["episode_index"]):
        keys = {"chunk_index": e["data/chunk_index"], "file_index": e["data/file_index"]}
        found.setdefault(folder / info["data_path"].format(**keys), []).append(e)
    return found


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads((folder / INFO).read_text())
    except (OSError, ValueError) as exc:
        raise RwmError(f"{folder} is not a LeRobot dataset: {INFO} cannot be read.") from exc
    if info.get("codebase_version") != VERSION:
        raise RwmError(
            f"{folder} is a LeRobot dataset {info.get('codebase_version')}, expected {VERSION}.",
            "LeRobot's own converter to v3.0",
        )
    return info


def _read_table(folder: Path, files: list[Path]) -> pa.Table:
    try:
        return pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as exc:
        raise RwmError(f"A file of {folder} cannot be read: {one_line(exc)}.") from exc
