"""Something over training time, for several trainings: when it passes a mark, and a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.ticker import NullFormatter

from reports.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, figure

COLOURS = (BLUE, ORANGE, GREEN, GREY, PURPLE)
DASHES = {"bfloat16": "--", "tf32": ":"}
"""Of curves whose name ends with an arithmetic; others are solid."""

MARGIN = 1.25
"""Of a logarithmic axis, on both sides of what it shows."""


@dataclass(frozen=True)
class Curve:
    """Values of one training after ever more minutes of it."""

    name: str
    minutes: tuple[float, ...]
    values: tuple[float, ...]

    def until(self, mark: float, rising: bool = False) -> float | None:
        """Return the minutes until the value first is at the mark, below it, or above where it is ``rising``.

        Between two points the value is taken as straight over the logarithm of time; None where it never is.
        """
        sign = -1 if rising else 1
        points = [(t, sign * (v - mark)) for t, v in zip(self.minutes, self.values, strict=True)]
        if points and points[0][1] <= 0:
            return points[0][0]
        for (t, above), (later, below) in pairwise(points):
            if below <= 0:
                return float(t * (later / t) ** (above / (above - below)))
        return None


@dataclass(frozen=True)
class Panel:
    """A pair of axes: curves and the mark they are to pass."""

    title: str
    unit: str
    mark: float
    curves: Sequence[Curve]


def draw_over_minutes(path: Path, title: str, panels: Sequence[Panel], log: bool = False) -> None:
    """Draw curves over minutes of training, a point for every value; ``log`` is the values' axis."""
    names = dict.fromkeys(curve.name.rpartition(", ")[0] or curve.name for panel in panels for curve in panel.curves)
    colours: Mapping[str, str] = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
    with figure(path, 1, len(panels), (8 * len(panels), 6)) as axes:
        for ax, panel in zip(axes[0], panels, strict=True):
            ax.axhline(panel.mark, color=GREY, linewidth=1, linestyle="-.")
            for curve in panel.curves:
                group, _, kind = curve.name.rpartition(", ")
                colour, dash = colours[group or curve.name], DASHES.get(kind, "-")
                ax.plot(curve.minutes, curve.values, "o", linestyle=dash, color=colour, label=curve.name)
            ax.set(xscale="log", xlabel="training time (minutes)", ylabel=panel.unit)
            ax.set_title(f"{panel.title} (mark: {panel.mark:g})")
            _plain_ticks(ax.xaxis, [t for curve in panel.curves for t in curve.minutes])
            if log:
                ax.set_yscale("log")
                _plain_ticks(ax.yaxis, [panel.mark, *(v for curve in panel.curves for v in curve.values)])
        axes[0, 0].legend()
        axes[0, 0].figure.suptitle(title)


def _plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Let an axis hold the values closely, and name 1, 2 and 5 times the powers of ten there."""
    low, high = min(values) / MARGIN, max(values) * MARGIN
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_formatter(NullFormatter())
    axis.set_view_interval(low, high, ignore=True)
