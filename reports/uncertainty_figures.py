"""The two figures of the uncertainty evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from reports.figures import BLUE, GREY, ORANGE, band, figure
from reports.rollouts import Mode, Rollout
from reports.statistics import pearson
from rwmdata.catalog import Dataset

WIDE_RANGE = 20.0
"""Values that span more than this factor are drawn on a logarithmic axis."""
TITLES = {"mean": "ensemble mean fed back", "sampled_member": "one sampled member fed back"}


def draw_by_step(path: Path, rollout: Rollout, mode: Mode, dataset: Dataset) -> None:
    """Draw error and epistemic uncertainty over the forecast step, with their spread over trajectories."""
    count, steps = rollout.l1.shape
    x = np.arange(1, steps + 1)
    with figure(path, rows=2, size=(9, 8)) as axes:
        top, bottom = axes[:, 0]
        band(top, x, rollout.l1, BLUE, "error")
        band(bottom, x, rollout.epistemic, ORANGE, "epistemic")
        top.set_title(f"{TITLES[mode].capitalize()}: error and uncertainty by step\n{count} trajectories")
        top.set_ylabel("L1 error\n[sum of normalised units]")
        bottom.set_ylabel("epistemic uncertainty\n[sum of normalised std]")
        bottom.set_xlabel(f"autoregressive step [1 step = {1000 / dataset.control_hz:.0f} ms]")
        for ax in (top, bottom):
            ax.set_xlim(1, steps)
            ax.set_ylim(0, 1.2 * ax.get_ylim()[1])  # room for the legend
            ax.legend(loc="upper left", ncols=3)


def draw_scatter(path: Path, rollout: Rollout, mode: Mode) -> None:
    """Draw every (uncertainty, error) pair, coloured by step, with the median error per uncertainty decile."""
    count, steps = rollout.l1.shape
    error, epistemic = rollout.l1.ravel(), rollout.epistemic.ravel()
    step = np.tile(np.arange(1, steps + 1), count)
    order = np.random.default_rng(0).permutation(len(step))
    r = pearson(epistemic, error)
    with figure(path) as axes:
        ax = axes[0, 0]
        points = ax.scatter(
            epistemic[order], error[order], c=step[order], s=7, alpha=0.5, cmap="viridis", linewidths=0, rasterized=True
        )
        colours = ax.figure.colorbar(points, ax=ax, label="autoregressive step")
        colours.solids.set_alpha(1)
        for set_scale, values in ((ax.set_xscale, epistemic), (ax.set_yscale, error)):
            if values.min() > 0 and values.max() / values.min() > WIDE_RANGE:
                set_scale("log")
        _draw_deciles(ax, epistemic, error)
        label = "undefined (constant)" if r is None else f"{r:.2f}"
        ax.set_title(f"{TITLES[mode].capitalize()}: Pearson r = {label}\n{count} trajectories x {steps} steps")
        ax.set_xlabel("epistemic uncertainty [sum of normalised std]")
        ax.set_ylabel("L1 error [sum of normalised units]")
        ax.legend(loc="upper left")


def _draw_deciles(ax: Axes, epistemic: np.ndarray, error: np.ndarray) -> None:
    edges = np.quantile(epistemic, np.linspace(0, 1, 11))
    index = np.clip(np.searchsorted(edges, epistemic, side="right") - 1, 0, 9)
    used = [i for i in range(10) if (index == i).any()]
    x = [np.median(epistemic[index == i]) for i in used]
    quartiles = np.array([np.percentile(error[index == i], [25, 50, 75]) for i in used])
    ax.plot(x, quartiles[:, 1], color=ORANGE, marker="o", label="median error per uncertainty decile")
    ax.vlines(x, quartiles[:, 0], quartiles[:, 2], color=GREY, linewidth=1.6, label="25-75 %")
