"""One look for every figure: large enough to read at half size, colour-blind safe, no screen needed.

``RWM_FIGURES=pdf`` writes every figure as a vector PDF too, beside its PNG.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError

FORMATS = ("png", "pdf")
RASTER_DPI = 300
"""Resolution of what a PDF does not hold as vectors: clouds of points, pictures."""
# Apart from each other for every kind of colour blindness; the grey is dark because green turns grey for some.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
PURPLE, SKY = "#CC79A7", "#56B4E9"
TICKS = (1, 2, 4, 8, 16, 32, 64, 100, 200, 400)
"""Forecast steps an axis names."""
STYLE: dict[Any, Any] = {
    "font.size": 14, "axes.titlesize": 15, "axes.labelsize": 14, "legend.fontsize": 12, "axes.grid": True,
    "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.2,
    "figure.constrained_layout.use": True, "pdf.fonttype": 42,
}  # fmt: skip


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (9, 6)) -> Iterator[np.ndarray]:
    """Give the axes, ``(rows, columns)``, of a new figure and save it at the end, see :func:`wanted_suffixes`."""
    suffixes = wanted_suffixes(path)
    with plt.rc_context(STYLE):
        canvas: Figure
        canvas, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        try:
            yield axes
            for suffix in suffixes:
                commit_file(path.with_suffix(f".{suffix}"), partial(_save, canvas, suffix))
        finally:
            plt.close(canvas)


def wanted_suffixes(path: Path) -> list[str]:
    """Return the formats a figure is written in: that of its path, and what ``RWM_FIGURES`` names.

    Raises:
        RwmError: It names an unknown format.
    """
    named = [name.strip().lower() for name in os.environ.get("RWM_FIGURES", "").split(",") if name.strip()]
    unknown = [name for name in named if name not in FORMATS]
    if unknown:
        raise RwmError(f"RWM_FIGURES names {', '.join(unknown)}; formats: {', '.join(FORMATS)}.", "RWM_FIGURES=pdf")
    return list(dict.fromkeys([path.suffix.lstrip("."), *named]))


def _save(canvas: Figure, suffix: str, path: Path) -> None:
    """Write a figure; a PDF without the time, so that equal figures are equal files."""
    dpi, metadata = (RASTER_DPI, {"CreationDate": None}) if suffix == "pdf" else (120, {})
    canvas.savefig(path, dpi=dpi, format=suffix, metadata=metadata)


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


def leave_room(ax: Axes, share: float) -> None:
    """Raise the upper end of the y axis by a share of its span, so that a legend there hides no line."""
    low, high = ax.get_ylim()
    log = ax.get_yscale() == "log"
    ax.set_ylim(low, high * (high / low) ** share if log else high + share * (high - low))
