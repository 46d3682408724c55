"""The data stage at scale: writing, opening, drawing windows, and CSV against pandas; each in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from reports.bench.measure import BenchRow, child, content_of, in_child, timed
from rwmdata.config import Frozen
from rwmdata.episodes import Episode
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter

NAME, EPISODE = "bench", 1000
HISTORY, FORECAST, BATCH = 32, 8, 1000
DRAW_S = 5.0
RUNS = 1000
QUERY = "select behaviour, avg(reward), avg(base_lin_vel_x), count(*) from transitions group by 1"
BYTES_PER_ROW = 640
"""About what a row of 66 numbers takes as text."""


class BenchDataConfig(Frozen):
    """Options of :func:`bench_data`."""

    rows: int = Field(6_000_000, ge=2 * EPISODE)
    csv_mb: int = Field(1000, ge=1)
    """Size of the CSV that is converted, MB."""
    robot: str = "anymal_d"


def bench_data(
    config: BenchDataConfig | None = None, folder: Path | None = None, progress: Progress = silent
) -> dict[str, object]:
    """Measure the data stage on synthetic rows; its files lie in a temporary folder, inside ``folder`` where given.

    Every step runs in a process of its own, so that its peak memory is its own; imports are not counted.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``.
    """
    config = config or BenchDataConfig()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        measured: dict[str, dict[str, float]] = {}
        for k, step in enumerate(STEPS):
            measured[step] = in_child(__name__, step, Path(home), config)
            progress(k + 1, len(STEPS), {})
    return content_of("data", rows_of(measured, config), transitions=config.rows)


def rows_of(measured: dict[str, dict[str, float]], config: BenchDataConfig) -> list[BenchRow]:
    """Return the measurements of every step as rows."""
    write, check, fit = measured["write"], measured["validate"], measured["fit"]
    ours, pandas = measured["convert"], measured["pandas"]
    return [
        BenchRow("write a dataset", config.rows / write["seconds"], "rows/s"),
        BenchRow("write a dataset, peak memory", write["peak_mib"], "MiB"),
        BenchRow("validate", config.rows / check["seconds"], "rows/s"),
        BenchRow("validate, peak memory", check["peak_mib"], "MiB"),
        BenchRow("open to first training batch", fit["first_batch_s"], "s"),
        BenchRow("fit process, peak memory", fit["peak_mib"], "MiB"),
        BenchRow("windows of 40 rows drawn", fit["windows_per_s"], "windows/s"),
        BenchRow("average by behaviour over all transitions, warm", measured["sql"]["group_s"], "s"),
        BenchRow(f"views opened and all of {RUNS} runs selected", measured["sql"]["runs_s"], "s"),
        BenchRow("csv to parquet (baseline: pandas)", ours["mb_per_s"], "MB/s", pandas["mb_per_s"]),
        BenchRow("csv to parquet, peak memory (baseline: pandas)", ours["peak_mib"], "MiB", pandas["peak_mib"]),
    ]


def _synthetic(schema: Schema, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return one episode of plausible, smooth rows."""
    rows = np.cumsum(rng.normal(0, 0.02, (count, schema.width)), axis=0).astype(np.float32)
    rows[:, schema.group("projected_gravity")] = (0.0, 0.0, -1.0)
    rows[:, schema.contact] = rows[:, schema.contact] > 0
    rows[0, schema.action] = 0.0
    rows[:, -1] = 0.0
    return rows


def write_synthetic(home: Home, name: str, robot_name: str, rows: int) -> None:
    """Write a dataset of plausible rows, whole episodes of ``EPISODE``."""
    robot = load_robot(robot_name)
    schema, rng = Schema.from_robot(robot), np.random.default_rng(0)
    parts = [_synthetic(schema, EPISODE, rng) for _ in range(20)]
    with DatasetWriter(home.data_dir, name, robot.name, schema, 50.0, {"source": "bench"}) as writer:
        for k in range(rows // EPISODE):
            writer.append(Episode(parts[k % 20] + np.float32(0), truncated=True, behaviour="bench"))
        writer.commit()


def _write(folder: Path, config: BenchDataConfig) -> dict[str, float]:
    return {"seconds": timed(lambda: write_synthetic(Home(folder), NAME, config.robot, config.rows))}


def _validate(folder: Path, _: BenchDataConfig) -> dict[str, float]:
    from rwmdata.validate import validate

    dataset = Home(folder).dataset(NAME)
    return {"seconds": timed(lambda: validate(dataset))}


def _fit(folder: Path, _: BenchDataConfig) -> dict[str, float]:
    """Do what a fit does before its first update, then draw windows for a while."""
    import torch

    from rwmdata.windows import WindowSampler, window_starts
    from rwmmodel.data import RowStore
    from rwmmodel.normalizer import Normalizer

    started = time.perf_counter()
    dataset = Home(folder).dataset(NAME)
    dims = dataset.schema.dims
    starts = window_starts(*dataset.split_bounds("train"), HISTORY + FORECAST)
    sampler = WindowSampler(starts, 0)
    store = RowStore(dataset, Normalizer(dims["state"], dims["action"], *dataset.normalizer()), torch.device("cpu"))
    store.windows(sampler.draw(0, BATCH), HISTORY + FORECAST)
    first = time.perf_counter() - started
    started, drawn = time.perf_counter(), 0
    while time.perf_counter() - started < DRAW_S:
        drawn += len(store.windows(sampler.draw(1 + drawn // BATCH, BATCH), HISTORY + FORECAST).states)
    return {"first_batch_s": first, "windows_per_s": drawn / (time.perf_counter() - started)}


def _sql(folder: Path, _: BenchDataConfig) -> dict[str, float]:
    from rwmdata.views import run_sql

    home = Home(folder)
    many = Home(home.root / "many")
    first = Run.create(many, "model", {"updates": 200}, {"dataset": NAME}, seed=0)
    first.finish({"val/total": 1.0})
    for k in range(1, RUNS):
        run_id = f"{first.id}-{k}"
        path = first.path.with_name(run_id)
        path.mkdir()
        Run(path, first.meta.model_copy(update={"id": run_id, "seed": k})).save()
    queries = {"group_s": (home, QUERY), "runs_s": (many, "select * from runs")}
    return {name: _warm(partial(run_sql, *query)) for name, query in queries.items()}


def _warm(call: Callable[[], object]) -> float:
    """Return the seconds of the second call."""
    call()
    return timed(call)


def _csv(folder: Path, config: BenchDataConfig) -> Path:
    """Return the CSV to convert, written where it is not there yet."""
    file = folder / "big.csv"
    if not file.exists():
        import polars as pl

        schema, rng = Schema.from_robot(load_robot(config.robot)), np.random.default_rng(1)
        with file.open("wb") as out:
            for _ in range(max(1, config.csv_mb * 1_000_000 // (BYTES_PER_ROW * EPISODE))):
                pl.DataFrame(_synthetic(schema, EPISODE, rng)).write_csv(out, include_header=False)
    return file


def _convert(folder: Path, config: BenchDataConfig) -> dict[str, float]:
    from rwmdata.formats.convert import convert

    file = _csv(folder, config)
    seconds = timed(lambda: convert(Home(folder), [file], "converted", config.robot))
    return {"mb_per_s": file.stat().st_size / 1e6 / seconds}


def _pandas(folder: Path, config: BenchDataConfig) -> dict[str, float]:
    import pandas as pd

    file = _csv(folder, config)

    def convert() -> None:
        frame = pd.read_csv(file, header=None, dtype=np.float32)
        frame.columns = frame.columns.astype(str)
        frame.to_parquet(folder / "pandas.parquet")

    return {"mb_per_s": file.stat().st_size / 1e6 / timed(convert)}


STEPS = {"write": _write, "validate": _validate, "fit": _fit, "sql": _sql, "convert": _convert, "pandas": _pandas}


if __name__ == "__main__":
    child(STEPS, BenchDataConfig)
