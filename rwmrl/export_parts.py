"""A large export in parts: workers export them side by side, then they become one dataset.

How rows are divided into parts does not depend on the workers, and a part's rows depend on its seed alone.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import torch

from rwmdata.atomic import PARTS_MARK, remove_folder
from rwmdata.catalog import Dataset
from rwmdata.episodes import read_episodes
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.locks import exclusive
from rwmdata.manifest import MANIFEST_FILE
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot, robot_folders
from rwmdata.text import quoted
from rwmdata.writer import DatasetWriter, new_dataset_path
from rwmrl.behaviours import shipped_policies
from rwmrl.engines import Engine, Outcome, run_jobs
from rwmrl.export import ExportConfig, default_name, export_dataset

ROWS_PER_PART = 200_000
PART_SEED = 15_485_863
"""Difference between the seeds of two parts."""
PARTS_FOLDER = PARTS_MARK + "{}"
"""Of a dataset's finished parts, beside the datasets: no reader takes it for one."""
SHOWN_FAILURES = 3

Job = tuple[str, str]
"""Home of the parts, and configuration."""


def export_in_parts(
    home: Home,
    config: ExportConfig,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Export in parts on several workers, and join these in order; the same seed and parts give the same rows.

    Parts that are finished when another fails are kept, and the same export made again goes on with them.

    Args:
        home: Where the dataset goes; on a cluster a folder all machines see.
        config: What is exported; ``parts`` is one per ``ROWS_PER_PART`` rows when None.
        engine: ``local`` for processes of this machine, ``ray`` for a cluster.
        workers: Parts at the same time.
        address: Of the Ray cluster; None starts one on this machine.
        progress: Called with the rows of the finished parts.

    Raises:
        RwmError: The engine is unknown, Ray is missing, the name is taken or in use, there are more parts than rows,
            or parts failed (the message says why, once the others are done).
    """
    if engine not in get_args(Engine):
        raise RwmError(f"Unknown engine '{engine}'; engines: {', '.join(get_args(Engine))}.", "--engine local")
    if address and engine != "ray":
        raise RwmError("An address is that of a Ray cluster; it needs --engine ray.", "--engine ray")
    name = config.name or default_name(config)
    count = config.parts or -(-config.transitions // ROWS_PER_PART)
    if count > config.transitions:
        raise RwmError(f"{config.transitions} rows cannot be {count} parts.", f"--parts {config.transitions}")
    config = config.model_copy(update={"name": name, "parts": count})
    new_dataset_path(home.data_dir, name)
    own = Home(home.data_dir.resolve() / PARTS_FOLDER.format(name))
    own.data_dir.mkdir(parents=True, exist_ok=True)
    with exclusive(home.data_dir / f".lock-parts-{name}", f"Dataset '{name}'", "--name NEW_NAME"):
        configs = [part_config(config, k) for k in range(count)]
        jobs = {k: (str(own.root), c.model_dump_json()) for k, c in enumerate(configs) if not _is_made(own, c)}
        _make_parts(configs, jobs, engine, workers, address, name, progress)
        parts = [own.dataset(str(c.name)) for c in configs]
        dataset = _joined(home, config, parts)
        shutil.rmtree(own.root, ignore_errors=True)
    return dataset


def part_config(config: ExportConfig, number: int) -> ExportConfig:
    """Return the configuration of one part; the first one's seed is that of the whole."""
    count, rows = config.parts or 1, config.transitions
    changes: dict[str, Any] = {
        "transitions": rows * (number + 1) // count - rows * number // count,
        "seed": config.seed + PART_SEED * number,
        "name": f"part-{number:05d}",
        "parts": None,
    }
    # A worker may run in another folder.
    if config.robot not in robot_folders():
        changes["robot"] = str(Path(config.robot).resolve())
    if Path(config.policy).is_file() and config.policy not in shipped_policies(load_robot(config.robot)):
        changes["policy"] = str(Path(config.policy).resolve())
    return config.model_copy(update=changes)


def export_part(job: Job, threads: int) -> Outcome:
    """Export one part in this process; return its name."""
    torch.set_num_threads(1)
    root, text = job
    config = ExportConfig.model_validate_json(text)
    try:
        return export_dataset(Home(Path(root)), config).name, ""
    except RwmError as exc:
        return None, str(exc)


def _is_made(own: Home, config: ExportConfig) -> bool:
    """Whether a part is there already; one of another configuration is removed."""
    folder = own.data_dir / str(config.name)
    if not folder.exists():
        return False
    if (folder / MANIFEST_FILE).is_file():
        made = Dataset.open(folder).manifest.provenance.get("config")
        if made == config.model_dump(mode="json"):
            return True
    remove_folder(folder)
    return False


def _make_parts(
    configs: list[ExportConfig],
    jobs: dict[int, Job],
    engine: Engine,
    workers: int,
    address: str | None,
    name: str,
    progress: Progress,
) -> None:
    """Let workers make the parts that are missing."""
    rows, total = (
        sum(c.transitions for k, c in enumerate(configs) if k not in jobs),
        sum(c.transitions for c in configs),
    )
    failures: list[str] = []
    progress(rows, total, {"parts": len(configs) - len(jobs)})
    finished = len(configs) - len(jobs)
    with closing(run_jobs(export_part, jobs, engine, min(workers, max(1, len(jobs))), address)) as outcomes:
        for k, (made, error) in outcomes:
            if made is None:
                failures.append(error)
                continue
            rows, finished = rows + configs[k].transitions, finished + 1
            progress(rows, total, {"parts": finished})
    if failures:
        reasons = "; ".join(list(dict.fromkeys(failures))[:SHOWN_FAILURES])
        text = f"{len(failures)} of {len(configs)} parts failed ({reasons}); the others are kept"
        raise RwmError(f"{text}.", f"the same command again, with --name {quoted(name)}")


def _joined(home: Home, config: ExportConfig, parts: list[Dataset]) -> Dataset:
    """Write the episodes of all parts, in order, as one dataset."""
    first, robot = parts[0], load_robot(config.robot)
    origin = {k: v for k, v in first.manifest.provenance.items() if k != "notes"}  # Notes are on the part's splits.
    origin |= {"policy": config.policy, "seed": config.seed}
    origin |= {"config": config.model_dump(mode="json"), "num_envs": sum(_number(p, "num_envs") for p in parts)}
    origin["dropped_unstable_episodes"] = sum(_number(p, "dropped_unstable_episodes") for p in parts)
    about = robot.name, first.schema, first.control_hz, origin
    with DatasetWriter(home.data_dir, str(config.name), *about, seed=config.seed) as writer:
        for part in parts:
            for episode in read_episodes(part):
                writer.append(episode)
        return writer.commit()


def _number(part: Dataset, key: str) -> int:
    return int(part.manifest.provenance.get(key, 0))
