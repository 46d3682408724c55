"""How do time and memory grow? With rows, members, horizon, windows of a batch, imagined robots, and processes.

Every point is measured in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from reports.bench.data import EPISODE, NAME, write_synthetic
from reports.bench.fit import BenchFitConfig, fastest_update, random_problem
from reports.bench.imagine import BenchImagineConfig, imagined_speeds
from reports.bench.measure import BenchRow, child, content_of, in_child, timed
from rwmdata.config import Frozen, build
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.windows import WindowSampler, split_starts
from rwmmodel.data import RowStore
from rwmmodel.devices import resolve_device, use_precision
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import LossConfig, ensemble_loss
from rwmmodel.normalizer import Normalizer

MODULE = "reports.bench.scale"
"""Its name in a process that runs it, too."""
AHEAD = 1_000_000_000
"""Rows that the growth is continued to."""

BATCH = 64
"""Windows of an update where they are not what grows."""
FIT_ROWS, UPDATES = 20_000, 16
"""Of a fit on several processes."""
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class BenchScaleConfig(Frozen):
    """Options of :func:`bench_scale`; the first of each list is what the others are compared with."""

    rows: Annotated[tuple[Annotated[int, Field(ge=2 * EPISODE)], ...], Field(min_length=1)] = (
        100_000, 1_000_000, 10_000_000,
    )  # fmt: skip
    """Rows of a dataset that a fit opens."""
    members: Counts = (1, 2, 5, 10)
    forecast: Counts = (1, 8, 16, 32)
    """Forecast horizon N of an update."""
    batch: Counts = (64, 256, 1024)
    """Windows of an update."""
    robots: Counts = (256, 1024, 4096, 16_384)
    """Imagined robots side by side."""
    processes: Counts = (1, 2)
    """Of a fit under torchrun, which share the batch."""
    hidden: int = Field(256, ge=1)
    robot: str = "anymal_d"
    device: str = "auto"
    seed: int = 0


class Point(Frozen):
    """What one process measures."""

    axis: str
    value: int
    config: BenchScaleConfig


class Axis(NamedTuple):
    """Something that grows, and what is measured of it."""

    name: str
    of: str
    """What its numbers count."""
    measure: Callable[[Path, Point], dict[str, float]]


def bench_scale(
    config: BenchScaleConfig | None = None, folder: Path | None = None, progress: Progress = silent
) -> dict[str, object]:
    """Measure time and memory along every axis, all else at its default.

    Args:
        config: The values of every axis.
        folder: Where the datasets go meanwhile; a temporary folder of the system when None.
        progress: Called after every point.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: seconds and MiB at every value beside those at the
        first, and the power with which each grew from the first value to the last. Of the rows also what ``AHEAD`` of
        them would take on a straight line through the last two, as a process has its size without any.

    Raises:
        RwmError: A measurement failed.
    """
    config = config or BenchScaleConfig()
    chosen = {name: getattr(config, name) for name in AXES}
    total, rows = sum(map(len, chosen.values())), list[BenchRow]()
    done = 0
    with tempfile.TemporaryDirectory(dir=folder) as home:
        for name, values in chosen.items():
            found: list[dict[str, float]] = []
            for value in values:
                point = Point(axis=name, value=value, config=config)
                found.append(in_child(MODULE, "point", Path(home), point))
                done += 1
                progress(done, total, {"seconds": found[-1]["seconds"]})
            rows += rows_of(AXES[name], values, found)
    device = str(resolve_device(config.device))
    return content_of("scale", rows, device=device, threads=torch.get_num_threads())


def rows_of(axis: Axis, values: Sequence[int], found: list[dict[str, float]]) -> list[BenchRow]:
    """Return the rows of one axis: what every value took, and how that grows."""
    rows = []
    for key, unit in (("seconds", "s"), ("peak_mib", "MiB")):
        what = f"{axis.name}{', peak memory' if key == 'peak_mib' else ''}"
        first = found[0][key]
        rows += [
            BenchRow(f"{what}, {value:,} {axis.of}", point[key], unit, first)
            for value, point in zip(values, found, strict=True)
        ]
        if len(values) > 1:
            power = math.log(found[-1][key] / first) / math.log(values[-1] / values[0])
            rows.append(BenchRow(f"{what}: grows with the power", power, "1"))
            if axis.of == "rows":
                slope = max(0.0, found[-1][key] - found[-2][key]) / (values[-1] - values[-2])
                ahead = found[-1][key] + slope * (AHEAD - values[-1])
                rows.append(BenchRow(f"{what}, {AHEAD:,} rows at the last two's slope", ahead, unit))
    return rows


def _open_rows(folder: Path, point: Point) -> dict[str, float]:
    """Time the way from a dataset to a fit's first batch."""
    home, config, name = Home(folder), BenchFitConfig(), f"{NAME}-{point.value}"
    write_synthetic(home, name, point.config.robot, point.value)

    def first_batch() -> None:
        dataset = home.dataset(name)
        dims, window = dataset.schema.dims, config.history + config.forecast
        normalizer = Normalizer(dims["state"], dims["action"], *dataset.normalizer())
        store = RowStore(dataset, normalizer, resolve_device(point.config.device))
        store.windows(WindowSampler(split_starts(dataset, "train", window), config.seed).draw(0, config.batch), window)

    return {"seconds": timed(first_batch)}


def _update(_: Path, point: Point) -> dict[str, float]:
    """Time an update with one of its sizes changed."""
    sizes = {"batch": BATCH, point.axis: point.value}
    config = BenchFitConfig(**point.config.model_dump(include={"hidden", "robot", "device", "seed"}), **sizes)
    device = resolve_device(config.device)
    use_precision("float32", device)
    model, windows, noise, _drawn, weights = random_problem(config, device)

    def loss() -> Tensor:
        return ensemble_loss(model, windows, LossConfig(), noise, weights).total

    return {"seconds": fastest_update(model, loss, config.repeats, device)}


def _imagined_step(_: Path, point: Point) -> dict[str, float]:
    """Time one imagined step of all robots, the policy's own share included."""
    config = BenchImagineConfig(**point.config.model_dump(include={"hidden", "robot", "device", "seed"}))
    return {"seconds": point.value / imagined_speeds(config, point.value)[0]}


def _processes(folder: Path, point: Point) -> dict[str, float]:
    """Time an update of a fit on so many processes."""
    write_synthetic(Home(folder), f"{NAME}-on-{point.value}", point.config.robot, FIT_ROWS)
    return in_child(MODULE, "rank", folder, point, point.value)


def _rank(folder: Path, point: Point) -> dict[str, float]:
    """Fit as one of several processes under torchrun."""
    home, config = Home(folder), point.config
    own = {"hidden": config.hidden, "device": config.device, "seed": config.seed, "precision": "float32"}
    length = {"updates": UPDATES, "val_interval": UPDATES, "val_windows": 8}
    run = fit_model(home, home.dataset(f"{NAME}-on-{point.value}"), build(FitConfig, "laptop", own, length))
    return {"seconds": run.configuration(FitConfig).batch / run.meta.summary["windows_per_second"]}


AXES = {
    "rows": Axis("open to first batch", "rows", _open_rows),
    "members": Axis("update", "members", _update),
    "forecast": Axis("update", "forecast steps", _update),
    "batch": Axis("update", "windows", _update),
    "robots": Axis("imagined step", "robots", _imagined_step),
    "processes": Axis("update of a fit", "processes", _processes),
}
"""By the option that holds the values."""


def _point(folder: Path, point: Point) -> dict[str, float]:
    return AXES[point.axis].measure(folder, point)


if __name__ == "__main__":
    child({"point": _point, "rank": _rank}, Point)
