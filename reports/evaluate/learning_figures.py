"""Figures of the learning evaluation: score, falls and the model's error, one above the other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from reports.evaluate.statistics import seeds_interval
from reports.figures import BLUE, GREEN, GREY, ORANGE, figure, leave_room

COLOURS = (BLUE, ORANGE, GREEN, GREY)
WIDTHS = {1: 0.9, 32: 1.5, 100: 2.6}
"""Line widths of the forecast horizons."""


class Curve(NamedTuple):
    """Means over runs ``(points,)`` with the ends of their 95 % intervals; NaN where there is none."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(table: pl.DataFrame, x: str) -> Curve:
    """Return the mean over runs at every iteration that all of them have, ``x`` (steps or minutes) averaged too.

    ``table`` holds one number of one training.
    """
    count, points = table["run"].n_unique(), []
    for _, part in table.sort("iteration").group_by("iteration", maintain_order=True):
        if len(part) == count:
            values = part["value"].to_list()
            mean, low, high = (np.nan,) * 3 if None in values else seeds_interval(values)
            points.append([part[x].mean(), mean, low, high])
    return Curve(*np.array(points, float).reshape(-1, 4).T)


def draw_learning(
    path: Path, table: pl.DataFrame, x: str, title: str, mark: float, references: tuple[float, float] | None
) -> None:
    """Draw score, share of episodes without a fall and, where there is one, the model's error over ``x``.

    Args:
        path: The figure's file.
        table: See :func:`reports.evaluate.learning.evaluate_learning`.
        x: ``steps`` or ``minutes``.
        title: Stands above.
        mark: Normalised score that is marked.
        references: Returns of random and expert, where the robot has them; without, the score is the return.
    """
    labels = table["label"].unique(maintain_order=True).to_list()
    many = colormaps["viridis"](np.linspace(0, 0.9, len(labels)))
    chosen = COLOURS if len(labels) <= len(COLOURS) else tuple(to_hex(c) for c in many)
    colours = dict(zip(labels, chosen, strict=False))
    has_model = "rel_l1" in table["metric"].to_list()
    scale, unit = scale_of(float(table["steps"].max())) if x == "steps" else (1.0, "")  # type: ignore[arg-type]
    table = table.with_columns(pl.col("steps") / scale)
    rows = 3 if has_model else 2
    with figure(path, rows, 1, (11, 4.3 * rows)) as axes:
        score, falls = axes[0, 0], axes[1, 0]
        _draw_scores(score, table, x, colours, "normalized_score" if references else "return", 1.0)
        _draw_scores(falls, table, x, colours, "share_without_fall", 100.0)
        falls.set(ylabel="episodes without a fall (%)", ylim=(max(min(falls.get_ylim()[0], 90), -3), 101))
        score.set_ylabel("normalised score" if references else "return of an episode")
        if references:
            low, high = references
            score.axhline(mark, color=GREY, linestyle=":", linewidth=1.2)
            span = high - low
            right = score.secondary_yaxis("right", functions=(lambda s: low + s * span, lambda r: (r - low) / span))
            right.set_ylabel("return, undisturbed")
        if has_model:
            _draw_errors(axes[2, 0], table, x, colours)
        score.set_title(title)
        _legend(score, table, colours, mark if references else None)
        label = f"control steps of simulated robots{unit}" if x == "steps" else "training time (min)"
        for ax in axes[:, 0]:
            ax.set_xlim(0, 1.02 * float(table[x].max()))  # type: ignore[arg-type]
        axes[-1, 0].set_xlabel(label)


def scale_of(most: float) -> tuple[float, str]:
    """Return what to divide steps by, and how an axis calls that."""
    if most >= 1e6:
        return 1e6, " (million)"
    return (1e3, " (thousand)") if most >= 1e4 else (1.0, "")


def _draw_scores(ax: Axes, table: pl.DataFrame, x: str, colours: dict[str, str], metric: str, factor: float) -> None:
    """Draw a number by scenario: means thick with their intervals, every run thin."""
    for label, colour in colours.items():
        for mode, style in (("undisturbed", "-"), ("disturbed", "--")):
            mine = table.filter(label=label, metric=metric, mode=mode).with_columns(pl.col("value") * factor)
            if mine.is_empty():
                continue
            mean = curve(mine, x)
            ax.plot(mean.x, mean.mean, style, color=colour, marker="o", markersize=5)
            if mode == "undisturbed":
                ax.fill_between(mean.x, mean.low, mean.high, color=colour, alpha=0.15, linewidth=0)
            for _, run in mine.sort("iteration").group_by("run") if mine["run"].n_unique() > 1 else ():
                ax.plot(run[x], run["value"], style, color=colour, alpha=0.4, linewidth=0.8)


def _draw_errors(ax: Axes, table: pl.DataFrame, x: str, colours: dict[str, str]) -> None:
    """Draw the model's held-out error by horizon, and that of holding the last state at the longest one."""
    errors = table.filter(metric="rel_l1")
    horizons = sorted(errors["horizon"].unique().to_list())
    longest = horizons[-1]
    for label, colour in colours.items():
        for horizon in horizons:
            mean = curve(errors.filter(label=label, mode="model", horizon=horizon), x)
            alpha = 1 if horizon == longest else 0.7
            ax.plot(mean.x, mean.mean, color=colour, linewidth=WIDTHS[horizon], marker=".", alpha=alpha)
            if horizon == longest:
                ax.fill_between(mean.x, mean.low, mean.high, color=colour, alpha=0.15, linewidth=0)
        held = curve(errors.filter(label=label, mode="hold_last", horizon=longest), x)
        ax.plot(held.x, held.mean, ":", color=colour, linewidth=1.8)
    ax.set(ylabel="held-out relative L1 of the model", yscale="log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    styles = [
        Line2D([], [], color=GREY, linewidth=WIDTHS[h], label=f"model, {h} step{'s' if h > 1 else ''}")
        for h in reversed(horizons)
    ]
    styles.append(Line2D([], [], color=GREY, linestyle=":", label=f"last state held, {longest} steps"))
    leave_room(ax, 0.2)
    ax.legend(handles=styles, fontsize=11, ncols=4, loc="upper right")


def _legend(ax: Axes, table: pl.DataFrame, colours: dict[str, str], mark: float | None) -> None:
    """Name the trainings, with their runs, and the kinds of lines."""
    handles = []
    for label, colour in colours.items():
        runs = table.filter(label=label)["run"].n_unique()
        seeds = f" ({runs} seeds, mean and 95 %)" if runs > 1 else " (1 seed)"
        handles.append(Line2D([], [], color=colour, marker="o", markersize=5, label=label + seeds))
    if "disturbed" in table["mode"].to_list():
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="disturbed"))
    if mark is not None:
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.2, label=f"mark, {mark:g}"))
    ax.legend(handles=handles, fontsize=11, loc="best")
