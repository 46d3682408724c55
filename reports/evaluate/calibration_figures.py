"""Figures of the calibration evaluation: coverage by step, reliability by horizon, sharpness beside the error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps

from reports.evaluate.rollouts import Rollout
from reports.evaluate.scoring_rules import interval_coverage
from reports.figures import BLUE, GREY, ORANGE, figure, leave_room, step_axis
from rwmdata.catalog import Dataset
from rwmmodel.calibration_factors import NOMINAL, coverage

NEAR = 0.1
"""Coverage this close to the nominal one is shaded."""
COLOURS = {"epistemic": BLUE, "total": ORANGE}
LEVELS = np.linspace(0.05, 0.95, 19)
SHOWN = (1, 8, 32, 100, 200)
"""Horizons of the reliability diagram."""


def look_of(mode: str, stds: dict[str, np.ndarray], what: str = "") -> dict[str, str]:
    """Return the colour, line and label of a kind of standard deviation: dashed where a calibrated one is beside it."""
    spread = mode.removesuffix("_calibrated")
    line = "--" if mode == spread and f"{spread}_calibrated" in stds else "-"
    label = f"{spread}{what}, {'as it is' if mode == spread else 'calibrated per step'}"
    return {"color": COLOURS[spread], "linestyle": line, "label": label}


def draw_coverage(path: Path, rollout: Rollout, stds: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Draw the coverage of one standard deviation over the steps of the forecast, dashed before calibration."""
    steps = np.arange(1, rollout.steps + 1)
    with figure(path) as axes:
        ax = axes[0, 0]
        ax.axhspan(100 * (NOMINAL - NEAR), 100 * (NOMINAL + NEAR), color=GREY, alpha=0.12, linewidth=0)
        ax.axhline(100 * NOMINAL, color=GREY, linewidth=1.4, label="nominal, ±10 points")
        for mode, std in stds.items():
            ax.plot(steps, 100 * coverage(rollout.error, std).mean(axis=0), **look_of(mode, stds))
        title = f"{dataset.robot}: {len(rollout.error)} held-out trajectories"
        ax.set(ylim=(0, 100), ylabel="recorded values within ±1 std (%)", title=title)
        step_axis(ax, len(steps))
        ax.legend(loc="upper right", fontsize=11)


def draw_reliability(path: Path, rollout: Rollout, stds: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Draw how many recorded values lie within the central interval of each level: a panel for every std."""
    horizons = [h for h in SHOWN if h <= rollout.error.shape[1]]
    spreads = list(dict.fromkeys(mode.removesuffix("_calibrated") for mode in stds))
    calibrated = len(stds) > len(spreads)
    with figure(path, len(spreads), 1 + calibrated, (6.5 * (1 + calibrated), 6 * len(spreads))) as axes:
        for row, spread in zip(axes, spreads, strict=True):
            for ax, ending in zip(row, ("", "_calibrated"), strict=False):
                ax.plot([0, 100], [0, 100], color=GREY, linewidth=1.4, label="true standard deviations")
                for place, h in zip(np.linspace(0.05, 0.85, len(horizons)), horizons, strict=True):
                    share = interval_coverage(rollout.error[:, h - 1], stds[spread + ending][:, h - 1], LEVELS)
                    ax.plot(100 * LEVELS, 100 * share, color=colormaps["viridis"](place), label=f"step {h}")
                ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
                ax.set(xlabel="level of the central interval (%)", ylabel="recorded values inside (%)")
                ax.set_title(f"{spread}, {'calibrated per step' if ending else 'as it is'}")
                ax.legend(loc="upper left", fontsize=11)
        axes[0, 0].figure.suptitle(f"{dataset.robot}: reliability on {len(rollout.error)} held-out trajectories")


def draw_sharpness(path: Path, rollout: Rollout, stds: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Draw the root mean predicted variance over the steps, beside the root mean squared error it should equal."""
    steps = np.arange(1, rollout.steps + 1)
    with figure(path) as axes:
        ax = axes[0, 0]
        rmse = np.sqrt((rollout.error.astype(float) ** 2).mean(axis=(0, 2)))
        ax.plot(steps, rmse, color="black", linewidth=1.6, label="error (root mean square)")
        for mode, std in stds.items():
            ax.plot(steps, np.sqrt((std.astype(float) ** 2).mean(axis=(0, 2))), **look_of(mode, stds, " std"))
        title = f"{dataset.robot}: sharpness on {len(rollout.error)} held-out trajectories"
        ax.set(yscale="log", ylabel="standard deviation, error\n(normalised units, per column)", title=title)
        step_axis(ax, len(steps))
        leave_room(ax, 0.35)
        ax.legend(loc="upper left", fontsize=11)
