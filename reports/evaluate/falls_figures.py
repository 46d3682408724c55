"""Figure of the falls evaluation: what is foreseen how far ahead, what ranks falls, one fall, why others are missed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from reports.evaluate.falls_causes import CAUSES
from reports.evaluate.falls_forecasts import Forecast, tilt_deg
from reports.evaluate.falls_windows import BEYOND, Windows
from reports.figures import BLUE, GREEN, GREY, ORANGE, figure, leave_room
from rwmdata.evaluation_summary import Scalar
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema

GIVEN, IMAGINED = "recorded_actions", "imagined"
SHOWN = {
    "termination": (BLUE, "predicted termination"),
    "tilt": (ORANGE, "predicted tilt"),
    "epistemic_max": (GREEN, "epistemic uncertainty"),
    "tilt_now": (GREY, "tilt of the last known row"),
}
"""Scores that are drawn: colour and label."""
CAUSE_LOOKS = {"foreseen": (GREEN, "foreseen"), "head": (BLUE, "head silent on true states"),
               "state": (ORANGE, "base predicted too upright"), "head_and_state": ("#8c6bb1", "both"),
               "rest": (GREY, "neither")}  # fmt: skip
HISTORY_SHOWN = 32
"""Rows of the history that are drawn."""


def draw(
    path: Path,
    robot: RobotSpec,
    scalars: list[Scalar],
    table: pl.DataFrame,
    windows: Windows,
    forecasts: Mapping[str, Forecast],
) -> None:
    """Draw the four panels.

    Args:
        path: File to write.
        robot: The robot.
        scalars: The evaluation's numbers.
        table: A row for each window, lead and mode.
        windows: Those of the lead that single falls are shown for.
        forecasts: Their forecasts by mode.
    """
    with figure(path, 2, 2, (15, 11)) as axes:
        draw_by_lead(axes[0, 0], scalars)
        draw_roc(axes[0, 1], table.filter((pl.col("lead") == windows.lead) & (pl.col("mode") == GIVEN)))
        draw_fall(axes[1, 0], robot, windows, forecasts)
        draw_causes(axes[1, 1], scalars)
        falls = table.filter("fall")["episode"].n_unique()
        axes[0, 0].figure.suptitle(f"{robot.title}: {falls} falls of one policy, and what the model makes of them")


def draw_by_lead(ax: Axes, scalars: list[Scalar]) -> None:
    """Draw the share of falls that is foreseen by how far ahead, with the false alarms."""
    values = {s.key: s.value for s in scalars}
    leads = sorted({s.horizon for s in scalars if s.metric == "foreseen/tilt" and s.horizon is not None})

    def line(metric: str, mode: str) -> list[float]:
        return [np.nan if (v := values[metric, mode, lead]) is None else 100 * v for lead in leads]

    for name in ("termination", "tilt"):
        colour, label = SHOWN[name]
        ax.plot(leads, line(f"foreseen/{name}", GIVEN), "o-", color=colour, label=f"{label}, recorded actions")
        ax.plot(leads, line(f"foreseen/{name}", IMAGINED), "s--", color=colour, label=f"{label}, policy acts")
        at_alarms = line(f"foreseen_at_5_percent/{name}", GIVEN)
        ax.plot(leads, at_alarms, "^:", color=colour, linewidth=1.4, label="the same, limit for 5 % false alarms")
    ax.plot(leads, line("foreseen/tilt_now", GIVEN), "o-", color=GREY, label="the last known row is tilted")
    ax.plot(leads, line("false_alarms/either", GIVEN), "x:", color=GREEN, linewidth=1.4, label="false alarms of either")
    ax.set(xticks=leads, ylim=(-3, 103), xlabel="steps before the fall", ylabel="falls foreseen (%)")
    ax.set_title("foreseen: predicted end, or tilt beyond the limit")
    leave_room(ax, 0.35)
    ax.set_yticks(range(0, 101, 20))
    ax.legend(loc="upper left", ncols=2, fontsize=10)


def draw_roc(ax: Axes, part: pl.DataFrame) -> None:
    """Draw the share of falls over the share of false alarms for some scores, of one lead and mode."""
    part = part.filter(~(pl.col("fall") & pl.col("pushed")))
    fall = part["fall"].to_numpy()
    for name, (colour, label) in SHOWN.items():
        alarms, found = roc(part[name].to_numpy(), fall)
        ax.step(100 * alarms, 100 * found, where="post", color=colour, label=label)
    ax.axvline(5, color=GREY, linewidth=1, linestyle=":")
    lead = part["lead"][0] if len(part) else 0
    ax.set(xlim=(-0.5, 20), ylim=(0, 103), xlabel="false alarms on walks that go on (%)", ylabel="falls found (%)")
    ax.set_title(f"ranked by a score, {lead} steps ahead, recorded actions")
    ax.legend(loc="lower right")


def roc(score: np.ndarray, fall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of others and of falls above each limit, from (0, 0) on; scores and falls are ``(W,)``."""
    limits = np.unique(score)[::-1]
    shares = [np.array([0.0, *(np.mean(part[:, None] >= limits, axis=0) if len(part) else limits * np.nan)])
              for part in (score[~fall], score[fall])]  # fmt: skip
    return shares[0], shares[1]


def draw_fall(ax: Axes, robot: RobotSpec, windows: Windows, forecasts: Mapping[str, Forecast]) -> None:
    """Draw the tilt of the fall whose predicted tilt is off by the median, true and predicted."""
    schema, lead = Schema.from_robot(robot), windows.lead
    true = tilt_deg(windows.rows[..., schema.state], schema)
    tilts = {mode: tilt_deg(made.states, schema) for mode, made in forecasts.items()}
    falls = np.flatnonzero(windows.fall)
    if not len(falls):
        return
    error = np.abs(tilts[GIVEN][falls, lead - 1] - true[falls, -1])
    one = falls[np.argsort(error)[len(falls) // 2]]
    shown = true[one, -(lead + HISTORY_SHOWN) :]
    ax.plot(np.arange(1 - len(shown), 1), shown, color=GREEN, label="simulated")
    after = np.arange(1 - lead, BEYOND + 1)
    ax.plot(after, tilts[GIVEN][one], color=BLUE, label="predicted, recorded actions")
    ax.plot(after, tilts[IMAGINED][one], color=ORANGE, linestyle="--", label="predicted, policy acts")
    ax.axvspan(1 - len(shown), -lead, color=GREY, alpha=0.12, linewidth=0)
    ax.axvline(0, color=GREY, linewidth=1, linestyle=":")
    ax.set(xlabel="control steps, the fall at 0; the known rows are shaded", ylabel="tilt of the base (degrees)")
    ax.set_title("the fall of median error")
    ax.set_ylim(0)
    leave_room(ax, 0.2)
    ax.legend(loc="upper left")


def draw_causes(ax: Axes, scalars: list[Scalar]) -> None:
    """Draw why the predicted termination misses falls, a bar for each lead."""
    values = {s.key: s.value for s in scalars}
    leads = sorted({s.horizon for s in scalars if s.metric == "falls/foreseen" and s.horizon is not None})
    below = np.zeros(len(leads))
    for cause in CAUSES:
        height = np.array([100 * (values[f"falls/{cause}", GIVEN, lead] or 0.0) for lead in leads])
        colour, label = CAUSE_LOOKS[cause]
        ax.bar([str(lead) for lead in leads], height, bottom=below, color=colour, label=label)
        below += height
    ax.set(ylim=(0, 100), xlabel="steps before the fall", ylabel="falls (%)")
    ax.set_title("why the predicted termination misses them")
    leave_room(ax, 0.25)
    ax.set_yticks(range(0, 101, 20))
    ax.legend(loc="upper left", ncols=2, fontsize=11)
