"""Figures of the uncertainty evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from reports.evaluate.ranking import sparsification
from reports.evaluate.rollouts import MODES, Mode, Rollout
from reports.evaluate.statistics import pearson
from reports.figures import BLUE, GREEN, GREY, ORANGE, band, figure, step_axis
from rwmdata.catalog import Dataset

WIDE_RANGE = 20.0
"""Values that span more than this factor are drawn on a logarithmic axis."""
TITLES = {"mean": "ensemble mean fed back", "sampled_member": "one sampled member fed back"}
STALE = "_reference_alignment"
"""Ends the name of a mode whose actions are fed one row late."""


def draw_all(folder: Path, rollouts: dict[str, Rollout], dataset: Dataset) -> None:
    """Draw every figure of the evaluation; where no member disagrees only those that show errors."""
    for mode in MODES:
        rollout = rollouts[mode]
        ensemble = bool(rollout.epistemic.any())
        draw_by_step(folder / f"uncertainty_error_by_step_{mode}.png", rollout, mode, dataset, ensemble)
        if ensemble:
            draw_scatter(folder / f"uncertainty_error_scatter_{mode}.png", rollout, mode)
        if ensemble and rollout.l1.any():
            draw_sparsification(folder / f"uncertainty_sparsification_{mode}.png", rollout, mode)
    if any(mode.endswith(STALE) for mode in rollouts):
        draw_alignment(folder / "reference_alignment.png", rollouts, dataset)


def draw_by_step(path: Path, rollout: Rollout, mode: Mode, dataset: Dataset, ensemble: bool = True) -> None:
    """Draw error and epistemic uncertainty over the forecast step, with their spread over trajectories."""
    count, steps = rollout.l1.shape
    x = np.arange(1, steps + 1)
    with figure(path, rows=1 + ensemble, size=(9, 4 + 4 * ensemble)) as axes:
        panels, what = axes[:, 0], "error and uncertainty" if ensemble else "error (no member disagrees)"
        band(panels[0], x, rollout.l1, BLUE, "error")
        panels[0].set_title(f"{TITLES[mode].capitalize()}: {what} by step\n{count} trajectories")
        panels[0].set_ylabel("L1 error\n[sum of normalised units]")
        if ensemble:
            band(panels[1], x, rollout.epistemic, ORANGE, "epistemic")
            panels[1].set_ylabel("epistemic uncertainty\n[sum of normalised std]")
        panels[-1].set_xlabel(f"autoregressive step [1 step = {1000 / dataset.control_hz:.0f} ms]")
        for ax in panels:
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


def draw_sparsification(path: Path, rollout: Rollout, mode: Mode) -> None:
    """Draw the mean error that is left as the points of highest score are left out, beside the best possible order."""
    count, steps = rollout.l1.shape
    by = {
        "epistemic uncertainty": (rollout.epistemic, BLUE, "-"),
        "step index": (np.broadcast_to(np.arange(1, steps + 1), rollout.l1.shape), ORANGE, "--"),
        "predicted step size": (rollout.step_size, GREEN, "-."),
        "the error itself (best possible)": (rollout.l1, GREY, ":"),
    }
    with figure(path) as axes:
        ax = axes[0, 0]
        ax.axhline(1, color=GREY, linewidth=1.2, label="random order")
        for name, (score, colour, line) in by.items():
            left = sparsification(score, rollout.l1)
            removed = 100 * (1 - np.arange(1, len(left) + 1) / len(left))
            shown = np.unique(np.linspace(0, len(left) - 1, 500).astype(int))
            ax.plot(removed[shown], left[shown], color=colour, linestyle=line, label=f"left out by {name}")
        ax.set(xlim=(0, 100), ylim=(0, None))
        ax.set(xlabel="points left out, highest score first [%]", ylabel="mean error of the rest / of all")
        ax.set_title(f"{TITLES[mode].capitalize()}: sparsification\n{count} trajectories x {steps} steps")
        ax.legend(loc="lower left", fontsize=11)


def draw_alignment(path: Path, rollouts: dict[str, Rollout], dataset: Dataset) -> None:
    """Draw the relative error up to each step with the right actions and with actions fed one row late."""
    with figure(path) as axes:
        ax = axes[0, 0]
        for mode, colour in zip(MODES, (BLUE, ORANGE), strict=True):
            for name, line, how in ((mode, "-", "right actions"), (mode + STALE, "--", "actions one row late")):
                rollout = rollouts[name]
                share = rollout.l1.sum(axis=0).cumsum() / rollout.recorded_l1.sum(axis=0).cumsum()
                label = f"{TITLES[mode]}, {how}"
                ax.plot(np.arange(1, len(share) + 1), share, color=colour, linestyle=line, label=label)
        count, steps = rollout.l1.shape
        title = f"{dataset.robot}: what the reference's stale actions cost\n{count} held-out trajectories"
        ax.set(ylim=(0, None), ylabel="error / recorded magnitude, up to the step", title=title)
        step_axis(ax, steps)
        ax.legend(loc="best", fontsize=11)
