"""Learning curves of a run, or of two over each other, from the metrics they recorded."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from reports.figures import BLUE, GREEN, GREY, ORANGE, figure
from rwmdata.evaluation_summary import current_name
from rwmdata.runs import Run

COLOURS = (BLUE, ORANGE, GREEN, GREY)
PANELS_A_ROW = 2
PARTS = 2_000
"""Parts of a curve whose extremes are drawn where it has more points: more than the columns of pixels of a panel."""
Series = dict[str, tuple[np.ndarray, np.ndarray]]
"""Steps and values of every metric."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    unit: str
    metrics: tuple[tuple[str, str], ...]
    """Metric, or a pattern that fits several, and its label; ``{}`` stands for the pattern's group."""
    log: bool = False
    beside: str = ""
    """What the names of metrics begin with that are dashed, in the colours of those they are compared with."""


LENGTH = Panel("episode length", "control steps", (("episode/length", "episode length"),))
REWARDS = (("imagined/reward", "before the penalty"), ("imagined/penalised_reward", "after the penalty"))
EPISTEMIC = Panel("epistemic uncertainty, per step", "sum of normalised std", (("imagined/epistemic", "epistemic"),))
HORIZONS = ((r"val/rel_l1_h(\d+)", "model, {} steps"), (r"val/hold_last_h(\d+)", "last state held, {}"))
CLONING = (("train/action_mse", "training"), ("val/action_mse", "held out"))
PANELS = {
    "model": (
        Panel("loss", "loss", (("train/total", "training"), ("val/total", "held out")), log=True),
        Panel("held-out error", "relative L1", ((r"val/rel_l1_h(\d+)", "up to {} steps"),), log=True),
    ),
    "policy": (
        Panel("reward in imagination", "per step", REWARDS),
        EPISTEMIC,
        LENGTH,
        Panel("cloning error", "mean squared", CLONING, log=True),
    ),
    "train": (
        Panel("return", "per episode", (("episode/return", "return"),)),
        LENGTH,
        Panel("loss of the model", "loss", (("model/total", "training"), ("val/total", "held out")), log=True),
        Panel("held-out error of the model", "relative L1", HORIZONS, log=True, beside="val/hold_last"),
        Panel("reward in imagination", "per step", REWARDS),
        EPISTEMIC,
    ),
}
STEP = {"model": "update", "policy": "iteration", "train": "iteration"}


def recorded(run: Run) -> Series:
    """Return a run's metrics under their names of today; values that were not finite are left as gaps."""
    points: dict[str, tuple[array[float], array[float]]] = {}
    for row in run.metrics_file.rows():
        steps, values = points.setdefault(current_name(row["metric"]), (array("d"), array("d")))
        steps.append(row["step"])
        values.append(np.nan if row["value"] is None else row["value"])
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in points.items()}


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve of points ``(n,)`` that looks the same drawn, with at most ``5 * PARTS`` points.

    Of each part a long curve keeps its first and last point, the lowest and highest one, and a gap if it has one.
    """
    if len(x) <= 5 * PARTS:
        return x, y
    kept = set()
    for part in np.array_split(np.arange(len(x)), PARTS):
        values, gaps = y[part], np.isnan(y[part])
        low, high = np.where(gaps, np.inf, values).argmin(), np.where(gaps, -np.inf, values).argmax()
        kept |= {part[0], part[-1], part[low], part[high], part[gaps.argmax() if gaps.any() else 0]}
    rows = np.array(sorted(kept))
    return x[rows], y[rows]


def minutes_a_step(run: Run, series: Series) -> float | None:
    """Return what an update or an iteration took on average, minutes; None where the run did not record it."""
    parts = [series[name][1] for name in ("perf/collect_s", "perf/learn_s") if name in series]
    if parts:
        return sum(float(np.nansum(seconds)) / len(seconds) for seconds in parts) / 60
    speed = run.meta.summary.get("windows_per_second")
    return run.meta.config["batch"] / speed / 60 if speed else None


def draw_curves(path: Path, runs: list[Run]) -> bool:
    """Draw the learning curves of runs of one kind; return whether there was anything to draw.

    One run has a panel for every quantity, with its minutes above; several share a panel for every metric they all
    have, a colour each.
    """
    series = [recorded(run) for run in runs]
    panels = [shown for panel in PANELS.get(runs[0].kind, ()) if (shown := _lines(panel, series))]
    if len(runs) > 1:
        panels = [(panel, [line]) for panel, lines in panels for line in lines]
    if not panels:
        return False
    columns = min(PANELS_A_ROW, len(panels))
    lines_of_panels = -(-len(panels) // columns)
    with figure(path, lines_of_panels, columns, (7 * columns, 4.4 * lines_of_panels)) as axes:
        minutes = minutes_a_step(runs[0], series[0]) if len(runs) == 1 else None
        for ax, (panel, lines) in zip(axes.ravel(), panels, strict=False):
            _draw(ax, panel, lines, series, [run.id for run in runs], STEP[runs[0].kind])
            if minutes:
                above = ax.secondary_xaxis("top", functions=(lambda k: k * minutes, lambda m: m / minutes))
                above.set_xlabel("minutes", fontsize=11)
        for ax in axes.ravel()[len(panels) :]:
            ax.axis("off")
    return True


def _lines(panel: Panel, series: list[Series]) -> tuple[Panel, list[tuple[str, str]]] | None:
    """Return a panel with the metrics (and labels) that every run has; None when there is none."""
    lines = []
    for pattern, label in panel.metrics:
        matches = [match for name in series[0] if (match := re.fullmatch(pattern, name))]
        matches.sort(key=lambda match: [int(group) for group in match.groups()])
        lines += [(m[0], label.format(*m.groups())) for m in matches if all(m[0] in one for one in series)]
    return (panel, lines) if lines else None


def _draw(
    ax: Axes, panel: Panel, lines: list[tuple[str, str]], series: list[Series], names: list[str], step: str
) -> None:
    values = []
    compared = [metric for metric, _ in lines if panel.beside and metric.startswith(panel.beside)]
    colours = max(len(lines) - len(compared), 1)
    for k, (metric, label) in enumerate(lines):
        for run, name, of_run in zip(series, names, COLOURS, strict=False):
            colour: str | tuple[float, ...] = of_run if len(series) > 1 else COLOURS[k % len(COLOURS)]
            if len(lines) > 2:
                colour = colormaps["viridis"](0.9 * (k % colours) / max(colours - 1, 1))
            x, y = thinned(*run[metric])
            values.append(y)
            marker, text = "o" if len(x) < 20 else "", name if len(series) > 1 else label
            line = "--" if metric in compared else "-"
            ax.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=4, linewidth=1.8, label=text)
    if panel.log and all((y[np.isfinite(y)] > 0).all() for y in values):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    one_of_many = len(series) > 1 and (len(panel.metrics) > 1 or "{}" in panel.metrics[0][1])
    title = f"{panel.title}, {lines[0][1]}" if one_of_many else panel.title
    ax.set(title=title, xlabel=step, ylabel=panel.unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 1 or len(series) > 1:
        ax.legend(fontsize=11, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False)
