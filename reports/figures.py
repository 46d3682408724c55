"""One look for every figure: large enough to read at half size, colour-blind safe, no screen needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwmdata.atomic import commit_file

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B6B6B"
TICKS = (1, 2, 4, 8, 16, 32, 64, 100, 200, 400)
"""Forecast steps an axis names."""
STYLE: dict[Any, Any] = {
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.labelsize": 14,
    "legend.fontsize": 12,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "figure.constrained_layout.use": True,
}


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (9, 6)) -> Iterator[np.ndarray]:
    """Give the axes, ``(rows, columns)``, of a new figure and save it to ``path`` at the end, atomically."""
    with plt.rc_context(STYLE):
        canvas: Figure
        canvas, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        try:
            yield axes
            commit_file(path, lambda p: canvas.savefig(p, dpi=120, format=path.suffix.lstrip(".")))
        finally:
            plt.close(canvas)


def band(ax: Axes, x: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """Draw mean, median and the 10-90 % range of ``values (trajectories, steps)`` over ``x (steps,)``."""
    low, median, high = np.percentile(values, [10, 50, 90], axis=0)
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, label="10-90 % of trajectories")
    ax.plot(x, values.mean(axis=0), color=colour, label=f"{label}, mean")
    ax.plot(x, median, color=colour, linestyle="--", linewidth=1.4, label="median")


def step_axis(ax: Axes, steps: int) -> None:
    """Make the x axis that of forecast steps 1 to ``steps``, logarithmic with plain numbers."""
    ax.set(xscale="log", xlim=(1, steps), xlabel="step of the forecast (control steps)")
    shown = [k for k in TICKS if k <= steps]
    ax.set_xticks(shown, [str(k) for k in shown])
    ax.minorticks_off()
