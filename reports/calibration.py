"""Are an ensemble's standard deviations true? Per-horizon calibration, and coverage before and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reports.evaluation import HORIZONS, EvaluationConfig, longest_rollout, model_evaluation, refuse_mismatch
from reports.figures import BLUE, GREY, ORANGE, figure
from reports.rollouts import Rollout, held_out_windows, roll_out
from reports.statistics import ratio_interval
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.runs import Run
from rwmdata.schema import STATE_GROUPS
from rwmmodel.calibration import NOMINAL, SPREADS, Calibration, Spread, coverage, step_factors
from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.devices import resolve_device

CALIBRATION_SPLIT = "val"
NEAR = 0.1
"""Coverage this close to the nominal one is shaded."""
COLOURS = {"epistemic": BLUE, "total": ORANGE}


class CalibrationConfig(EvaluationConfig):
    """Options of :func:`calibrate` and :func:`evaluate_calibration`; fewer steps where episodes are shorter."""

    windows: int = 256


def calibrate(
    dataset: Dataset, model_run: Run, config: CalibrationConfig | None = None, progress: Progress | None = None
) -> Calibration:
    """Fit a model's per-horizon factors on the val split and store them in its file; its weights stay as they are.

    Raises:
        RwmError: The dataset does not fit the model or has no long enough val episode, or the model has one member.
    """
    c = config or CalibrationConfig()
    path = model_run.checkpoints / "model.safetensors"
    model = load_model(path, resolve_device(c.device))
    refuse_mismatch(dataset, model_run, model)
    if model.config.members == 1:
        raise RwmError("A model of one member has no disagreement to calibrate.", "rwm fit --members 5")
    history, splits = model.config.history, (CALIBRATION_SPLIT,)
    steps = min(c.steps, longest_rollout(dataset, history, splits))
    windows = held_out_windows(dataset, c.windows, history, steps, c.seed, splits)
    rollout = roll_out(model, dataset, windows, history, "mean", c.seed, progress)
    factors = {s: tuple(step_factors(rollout.error, spread_of(rollout, s)).tolist()) for s in SPREADS}
    model.calibration = Calibration(
        dataset=dataset.name, split=windows.split, windows=len(windows.start), seed=c.seed, **factors
    )
    save_model(model, path)
    return model.calibration


def evaluate_calibration(
    home: Home,
    dataset: Dataset,
    model_run: Run,
    config: CalibrationConfig | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure on the test split how often the truth lies within one standard deviation, as it is and calibrated.

    Writes into the new ``eval`` run: ``summary.json``, ``calibration.parquet`` (coverage of every spread, group and
    step) and ``calibration_coverage.png``.

    Raises:
        RwmError: The dataset does not fit the model, a prediction is not finite, or no test episode is left that the
            calibration has not seen.
    """
    c = config or CalibrationConfig()
    with model_evaluation(home, dataset, model_run, "calibration", c, shorten=True) as ev:
        used = ev.model.calibration
        if used is not None and (used.dataset, used.split) == (dataset.name, ev.windows.split):
            raise RwmError(
                f"The model was calibrated on the {used.split} split of '{dataset.name}', and no test episode is left.",
                "rwm data split, or another dataset",
            )
        rollout = ev.roll_out("mean", progress)
        stds = deviations(rollout, used)
        table = coverage_table(dataset, rollout, stds)
        commit_file(ev.run.path / "calibration.parquet", table.write_parquet)
        draw_coverage(ev.run.path / "calibration_coverage.png", rollout, stds, dataset)
        ev.finish(
            scalars(rollout, stds, table),
            "coverage: share of state columns within one std (0.683 for a Gaussian); error_over_std: 0.8 for one",
            calibrated_on=None if used is None else used.model_dump(include={"dataset", "split", "windows", "seed"}),
        )
    return ev.run


def spread_of(rollout: Rollout, spread: Spread) -> np.ndarray:
    """Return the standard deviations of every column, ``(W, steps, S)``."""
    return rollout.epistemic_std if spread == "epistemic" else rollout.total_std


def deviations(rollout: Rollout, calibration: Calibration | None) -> dict[str, np.ndarray]:
    """Return each spread's standard deviations, and with a calibration also ``<spread>_calibrated``."""
    found: dict[str, np.ndarray] = {spread: spread_of(rollout, spread) for spread in SPREADS}
    if calibration is None:
        return found
    last = np.minimum(np.arange(rollout.error.shape[1]), calibration.steps - 1)
    scaled = {f"{s}_calibrated": found[s] * calibration.of(s)[last, None] for s in SPREADS}
    return found | scaled


def coverage_table(dataset: Dataset, rollout: Rollout, stds: dict[str, np.ndarray]) -> pl.DataFrame:
    """Return mode, group (``all`` first), step, coverage and error over std: sum |error| / sum std."""
    groups = {"all": slice(None)} | {group: dataset.schema.group(group) for group in STATE_GROUPS}
    steps, tables = np.arange(1, rollout.error.shape[1] + 1), []
    for mode, std in stds.items():
        for group, columns in groups.items():
            error, part = rollout.error[..., columns], std[..., columns]
            over = np.abs(error).sum(axis=(0, 2), dtype=float) / np.maximum(part.sum(axis=(0, 2), dtype=float), 1e-12)
            tables.append(pl.DataFrame({
                "mode": mode, "group": group, "step": steps, "coverage": coverage(error, part).mean(axis=0),
                "error_over_std": over,
            }))  # fmt: skip
    return pl.concat(tables)


def scalars(rollout: Rollout, stds: dict[str, np.ndarray], table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return coverage with its interval over trajectories, and error over std, at every horizon; the mode is the std's.

    Coverage by state group follows as ``coverage/<group>``.
    """
    found: list[dict[str, Any]] = []
    horizons = [h for h in HORIZONS if h <= rollout.error.shape[1]]
    for mode, std in stds.items():
        inside = coverage(rollout.error, std)
        for h in horizons:
            value, low, high = ratio_interval(inside[:, h - 1], np.ones(len(inside)))
            found.append({"metric": "coverage", "mode": mode, "horizon": h, "value": value, "low": low, "high": high})
    for row in table.filter(pl.col("step").is_in(horizons)).iter_rows(named=True):
        at = {"mode": row["mode"], "horizon": row["step"]}
        if row["group"] == "all":
            found.append({"metric": "error_over_std", **at, "value": row["error_over_std"]})
        else:
            found.append({"metric": f"coverage/{row['group']}", **at, "value": row["coverage"]})
    return found


def draw_coverage(path: Path, rollout: Rollout, stds: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Draw the coverage of one standard deviation over the steps of the forecast, dashed before calibration."""
    steps = np.arange(1, rollout.error.shape[1] + 1)
    calibrated = any(mode.endswith("_calibrated") for mode in stds)
    with figure(path) as axes:
        ax = axes[0, 0]
        ax.axhspan(100 * (NOMINAL - NEAR), 100 * (NOMINAL + NEAR), color=GREY, alpha=0.12, linewidth=0)
        ax.axhline(100 * NOMINAL, color=GREY, linewidth=1.4, label="nominal, ±10 points")
        for mode, std in stds.items():
            spread = mode.removesuffix("_calibrated")
            before = calibrated and mode == spread
            label = f"{spread}, {'as it is' if mode == spread else 'calibrated per step'}"
            line = 100 * coverage(rollout.error, std).mean(axis=0)
            ax.plot(steps, line, color=COLOURS[spread], linestyle="--" if before else "-", label=label)
        ax.set(
            xscale="log", ylim=(0, 100), xlabel="step of the forecast (control steps)",
            ylabel="recorded values within ±1 std (%)",
            title=f"{dataset.robot}: {len(rollout.error)} held-out trajectories",
        )  # fmt: skip
        shown = [h for h in (1, 2, 4, 8, 16, 32, 64, 100, 200, 368) if h <= len(steps)]
        ax.set_xticks(shown, [str(h) for h in shown])
        ax.minorticks_off()
        ax.legend(loc="upper right", fontsize=11)
