"""Values that no sensor of a robot can have measured: far outside what a column usually holds, or for one row alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.text import quoted

FLOOR = {"base_lin_vel": 1.0, "base_ang_vel": 2.0, "projected_gravity": 0.2, "joint_pos": 0.5, "joint_vel": 5.0,
         "joint_torque": 20.0, "action": 1.0, "extension": 0.0}  # fmt: skip
"""Least span of a column by group, in its unit: a robot that mostly stands may walk at times."""
OUTER_SHARE, OUTER_LEAST = 0.02, 3
"""Rows at either end that the span leaves out: this share, and at least as many."""
FAR, FAR_EXTENSION = 10.0, 100.0
"""Spans from the median beyond which a value is an error. In the embedded simulator, walks to falls, both robots, none
is further than 2.8; gravity, which is a unit vector, is not asked. Of extensions no floor is known."""
ALONE = 6.0
"""A row that differs from both neighbours, to one side, by this many large steps (the 99 % quantile, or a tenth of the
floor) is a spike too. In the embedded simulator impacts reach 2.5."""

SAMPLED_STEPS = 200_000


@dataclass(frozen=True)
class Spikes:
    """The spikes of one column."""

    column: str
    rows: np.ndarray
    """Their rows in the dataset, ``(n,)``."""
    value: float
    """The first one."""
    usual: tuple[float, float]
    """The span of the others."""

    def __str__(self) -> str:
        low, high = self.usual
        count = "" if len(self.rows) == 1 else f", and {len(self.rows) - 1} more rows"
        return f"is {self.value:.4g}, and usually between {low:.3g} and {high:.3g}{count}"


def far_spikes(dataset: Dataset, matrix: np.ndarray | None = None) -> list[Spikes]:
    """Return the columns of state, action and extension with values far outside of what they usually hold.

    Without the rows ``(R, width)``, only columns whose extremes in the manifest are suspicious are read: none of a
    sound dataset.

    Raises:
        RwmError: A shard cannot be read.
    """
    found = []
    for j, column in enumerate(dataset.manifest.columns):
        if column.group not in FLOOR or column.group == "projected_gravity":
            continue
        extension = column.group == "extension"
        suspicious = 5 * column.std if extension else 0.5 * FAR * FLOOR[column.group]
        if max(column.max - column.mean, column.mean - column.min) <= suspicious:
            continue
        values = matrix[:, j] if matrix is not None else _read_column(dataset, column.name)
        low, high, span = usual_span(values, FLOOR[column.group])
        limit = (FAR_EXTENSION if extension else FAR) * span
        rows = np.flatnonzero(np.abs(values - np.median(values)) > limit) if span > 0 else np.zeros(0, int)
        if len(rows):
            found.append(Spikes(column.name, rows, float(values[rows[0]]), (low, high)))
    return found


def _read_column(dataset: Dataset, name: str) -> np.ndarray:
    try:
        return dataset.scan().select(name).collect()[name].to_numpy()
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise RwmError(
            f"Column {name} of '{dataset.name}' cannot be read.", f"rwm data validate {quoted(dataset.name)}"
        ) from exc


def lone_spikes(dataset: Dataset, matrix: np.ndarray, missing: Sequence[str] = ()) -> Iterator[Spikes]:
    """Give the columns of state and action in which single rows ``(R, width)`` stand out from both neighbours."""
    ends = np.zeros(dataset.rows, bool)
    ends[dataset.episodes.start] = ends[dataset.episodes.start + dataset.episodes.length - 1] = True
    for j, column in enumerate(dataset.schema.columns[: dataset.schema.action.stop]):
        if column.group in missing or dataset.rows < 3:
            continue
        values = np.ascontiguousarray(matrix[:, j])
        step = np.diff(values)
        usual = np.quantile(np.abs(step[:: len(step) // SAMPLED_STEPS + 1]), 0.99)
        least = ALONE * max(usual, FLOOR[column.group] / 10)
        up, down = step[:-1] > least, step[:-1] < -least
        rows = np.flatnonzero((up & (step[1:] < -least)) | (down & (step[1:] > least))) + 1
        rows = rows[~ends[rows]]
        if len(rows):
            low, high, _ = usual_span(values, FLOOR[column.group])
            yield Spikes(column.name, rows, float(values[rows[0]]), (low, high))


def usual_span(values: np.ndarray, floor: float) -> tuple[float, float, float]:
    """Return the bounds of a column without its outermost rows, and their distance, at least ``floor``."""
    outer = min(max(OUTER_LEAST, round(OUTER_SHARE * len(values))), (len(values) - 1) // 2)
    ordered = np.partition(values, (outer, len(values) - 1 - outer)).astype(np.float64)
    low, high = float(ordered[outer]), float(ordered[len(values) - 1 - outer])
    return low, high, max(high - low, floor)
