"""Figures of the dynamics evaluation: error by horizon beside its baselines, and one trajectory by state group."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np

from reports.evaluate.rollouts import HeldOutWindows, Rollout
from reports.evaluate.statistics import ratio_interval
from reports.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, figure
from rwmdata.catalog import Dataset
from rwmdata.schema import STATE_GROUPS, UNITS
from rwmmodel.ensemble import DynamicsEnsemble

COLOURS = (BLUE, ORANGE, GREEN)
COLOURS_OF_PREDICTIONS = (BLUE, GREY, ORANGE, GREEN, PURPLE, SKY)
HORIZONS = (1, 2, 4, 8, 16, 32, 64, 100, 200, 368)
NAMES = {"model": "model", "hold_last": "last state held", "ridge": "linear model (ridge)"}
SHOWN = 3
"""Columns of a group that are drawn."""


def draw_error_by_horizon(
    path: Path, rollout: Rollout, predicted: dict[str, np.ndarray], hz: float, title: str
) -> None:
    """Draw the relative L1 error cumulated up to each step, with 95 % intervals over trajectories.

    ``predicted`` are predictions ``(W, steps, S)`` by name, ``hz`` the control steps a second.
    """
    recorded = rollout.recorded_l1.cumsum(axis=1)
    steps = np.arange(1, recorded.shape[1] + 1)
    shown = np.unique(np.geomspace(1, len(steps), 60).astype(int)) - 1
    with figure(path) as axes:
        ax = axes[0, 0]
        for (name, values), colour in zip(predicted.items(), cycle(COLOURS_OF_PREDICTIONS), strict=False):
            error = rollout.l1_of(values).cumsum(axis=1)
            line = np.array([ratio_interval(error[:, k], recorded[:, k], draws=200) for k in shown])
            ax.plot(steps[shown], line[:, 0], color=colour, label=NAMES.get(name, name))
            ax.fill_between(steps[shown], line[:, 1], line[:, 2], color=colour, alpha=0.2, linewidth=0)
        worst = float(rollout.l1.sum() / recorded[:, -1].sum())
        ax.set(xscale="log", ylim=(0, 1.2 * max(worst, 1.2)), xlabel="step of the forecast (control steps)")
        ax.set_ylabel("error / recorded magnitude, up to the step")
        ax.set_title(title)
        seconds = ax.secondary_xaxis("top", functions=(lambda x: x / hz, lambda x: x * hz))
        seconds.set_xlabel("time (s)", fontsize=12)
        times = [time_s for time_s in (0.02, 0.1, 0.5, 2, 7) if time_s * hz <= len(steps)]
        for axis, ticks in ((ax, [h for h in HORIZONS if h <= len(steps)]), (seconds, times)):
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        ax.legend(loc="upper left")


def shown_columns(dataset: Dataset, columns: slice) -> list[int]:
    """Return up to ``SHOWN`` columns of a group: its axes, or the joints of the robot's first leg."""
    every = list(range(columns.start, columns.stop))
    of_leg = [j for j in every if dataset.schema.legs[0] in dataset.schema.names[j]]
    return (of_leg or every)[:SHOWN]


def draw_trajectory(
    path: Path, rollout: Rollout, windows: HeldOutWindows, model: DynamicsEnsemble, dataset: Dataset
) -> None:
    """Draw the trajectory of median error: recorded solid, predicted dashed, a panel for every state group."""
    total = rollout.l1.sum(axis=1)
    chosen = int(np.argsort(total)[len(total) // 2])
    mean, std = model.normalizer.cpu().state_mean.numpy(), model.normalizer.cpu().state_std.numpy()
    steps = rollout.recorded.shape[1]
    history = windows.rows.shape[1] - steps
    time = (np.arange(history + steps) - history + 1) / dataset.control_hz
    predicted = rollout.predicted[chosen] * std + mean
    recorded = windows.rows[chosen][:, dataset.schema.state]
    with figure(path, 3, 2, (15, 11)) as axes:
        for ax, group in zip(axes.ravel(), STATE_GROUPS, strict=True):
            columns = dataset.schema.group(group)
            for j, colour in zip(shown_columns(dataset, columns), COLOURS, strict=False):
                label = dataset.schema.names[j].removeprefix(f"{group}_")
                ax.plot(time, recorded[:, j], color=colour, linewidth=1.6, label=label)
                ax.plot(time[history:], predicted[:, j], color=colour, linewidth=1.8, linestyle="--")
            ax.axvspan(time[0], 0, color=GREY, alpha=0.12, linewidth=0)
            ax.set(xlabel="time after the history (s)", ylabel=f"{group} ({UNITS[group]})")
            ax.margins(x=0.01)
            ax.legend(loc="lower right", ncols=3, fontsize=10)
        axes[0, 0].figure.suptitle(
            f"{dataset.robot}: the held-out trajectory of median error, from row {windows.start[chosen]} on\n"
            "solid: recorded; dashed: predicted from the history (grey) and the actions alone"
        )
