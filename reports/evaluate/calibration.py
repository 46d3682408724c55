"""Are an ensemble's standard deviations true? Per-horizon calibration, and coverage before and after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from reports.evaluate.calibration_figures import draw_coverage, draw_reliability, draw_sharpness
from reports.evaluate.model_evaluation import (
    HORIZONS,
    EvaluationConfig,
    longest_rollout,
    model_evaluation,
    refuse_mismatch,
)
from reports.evaluate.rollouts import Rollout, held_out_windows, roll_out
from reports.evaluate.scoring_rules import ence, gaussian_crps, gaussian_nll
from reports.evaluate.statistics import Number, bootstrap, rows_of
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Run
from rwmdata.schema import STATE_GROUPS
from rwmmodel.calibration_factors import SPREADS, TINY, Calibration, Spread, step_factors
from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.devices import resolve_device

CALIBRATION_SPLIT = "val"
DRAWN = {"coverage": draw_coverage, "reliability": draw_reliability, "sharpness": draw_sharpness}


class CalibrationConfig(EvaluationConfig):
    """Options of :func:`calibrate` and :func:`evaluate_calibration`; fewer steps where episodes are shorter."""

    windows: int = 256
    resamples: int = Field(300, ge=20)
    """Bootstrap resamples of the trajectories behind every interval."""


def calibrate(
    dataset: Dataset, model_run: Run, config: CalibrationConfig | None = None, progress: Progress = silent
) -> Calibration:
    """Fit a model's per-horizon factors on the val split and store them in its file; its weights stay as they are.

    Raises:
        RwmError: The dataset does not fit the model or has no long enough val episode, or the model has one member.
    """
    c = config or CalibrationConfig()
    path = model_run.model_file
    model = load_model(path, resolve_device(c.device))
    refuse_mismatch(dataset, model_run, model)
    if model.config.members == 1:
        raise RwmError("A model of one member has no disagreement to calibrate.", "rwm fit --members 5")
    history, splits = model.config.history, (CALIBRATION_SPLIT,)
    steps = min(c.steps, longest_rollout(dataset, history, splits))
    windows = held_out_windows(dataset, c.windows, history, steps, c.seed, splits)
    rollout = roll_out(model, dataset.schema, windows, history, "mean", c.seed, progress)
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
    progress: Progress = silent,
) -> Run:
    """Measure on the test split how true a model's standard deviations are, as they are and calibrated.

    Writes into the new ``eval`` run: ``summary.json``, ``calibration.parquet`` (every number of every spread, state
    group and step) and ``calibration_{coverage,reliability,sharpness}.png``. What one member has no standard deviation
    for is left out, and the summary's ``not_computed`` says so.

    Raises:
        RwmError: The dataset does not fit the model, a prediction is not finite, no test episode is left that the
            calibration has not seen, or the model gives no standard deviation at all.
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
        if not stds:
            raise RwmError("Neither the members' disagreement nor their predicted stds differ from 0.", "rwm fit")
        table = calibration_table(dataset, rollout, stds)
        commit_file(ev.run.path / "calibration.parquet", table.write_parquet)
        for name, draw in DRAWN.items():
            draw(ev.run.path / f"calibration_{name}.png", rollout, stds, dataset)
        rows = scalars(rollout, stds, table, c)
        ev.finish(
            rows,
            "coverage: share of state columns within one std (0.683 for a Gaussian), coverage_2std: two (0.954); "
            "error_over_std: 0.8 for one; nll in nats and crps in normalised units, per column",
            calibrated_on=None if used is None else used.model_dump(include={"dataset", "split", "windows", "seed"}),
            not_computed=missing(ev.model.config.members, stds, rows),
        )
    return ev.run


def spread_of(rollout: Rollout, spread: Spread) -> np.ndarray:
    """Return the standard deviations of every column, ``(W, steps, S)``."""
    return rollout.epistemic_std if spread == "epistemic" else rollout.total_std


def deviations(rollout: Rollout, calibration: Calibration | None) -> dict[str, np.ndarray]:
    """Return each spread's standard deviations, and with a calibration also ``<spread>_calibrated``.

    A spread that is 0 throughout, the disagreement of one member, is no standard deviation and left out.
    """
    spreads = [spread for spread in SPREADS if spread_of(rollout, spread).any()]
    found: dict[str, np.ndarray] = {spread: spread_of(rollout, spread) for spread in spreads}
    if calibration is None:
        return found
    last = np.minimum(np.arange(rollout.error.shape[1]), calibration.steps - 1)
    return found | {f"{s}_calibrated": found[s] * calibration.of(s)[last, None] for s in spreads}


def calibration_table(dataset: Dataset, rollout: Rollout, stds: dict[str, np.ndarray]) -> pl.DataFrame:
    """Return mode, group (``all`` first), step and every number of :func:`calibration_numbers`, with rmse and std."""
    groups = {"all": slice(None)} | {group: dataset.schema.group(group) for group in STATE_GROUPS}
    rows = []
    for mode, std in stds.items():
        for group, columns in groups.items():
            error, part = rollout.error[..., columns].astype(float), std[..., columns].astype(float)
            for k in range(error.shape[1]):
                numbers = calibration_numbers(*parts_of(error[:, k], part[:, k]))
                wide = {"rmse": float(np.sqrt((error[:, k] ** 2).mean())), "mean_std": float(part[:, k].mean())}
                rows.append({"mode": mode, "group": group, "step": k + 1, **numbers, **wide})
    return pl.DataFrame(rows, infer_schema_length=None)


def parts_of(error: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what :func:`calibration_numbers` takes, all ``(W, D)``, of one step's errors and standard deviations."""
    size = np.abs(error)
    return error, std, size <= std, size <= 2 * std, gaussian_nll(error, std), gaussian_crps(error, std)


def calibration_numbers(
    error: np.ndarray, std: np.ndarray, within: np.ndarray, within_2: np.ndarray, nll: np.ndarray, crps: np.ndarray
) -> dict[str, Number]:
    """Return the numbers that say how true standard deviations are; None for one that is not finite."""
    found = {
        "coverage": within.mean(),
        "coverage_2std": within_2.mean(),
        "error_over_std": np.abs(error).sum() / max(std.sum(), TINY),
        "ence": ence(error, std),
        "nll": nll.mean(),
        "crps": crps.mean(),
    }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}


def scalars(
    rollout: Rollout, stds: dict[str, np.ndarray], table: pl.DataFrame, config: CalibrationConfig
) -> list[dict[str, Any]]:
    """Return every number with its interval over trajectories at every horizon; the mode is the std's.

    Coverage by state group follows as ``coverage/<group>``.
    """
    found: list[dict[str, Any]] = []
    horizons = [h for h in HORIZONS if h <= rollout.error.shape[1]]
    for mode, std in stds.items():
        for h in horizons:
            parts = parts_of(rollout.error[:, h - 1].astype(float), std[:, h - 1].astype(float))
            numbers = bootstrap(calibration_numbers, *parts, seed=config.seed, draws=config.resamples)
            found += rows_of(mode, numbers, h)
    at_horizons = table.filter(pl.col("step").is_in(horizons) & (pl.col("group") != "all"))
    return found + [
        {"metric": f"coverage/{row['group']}", "mode": row["mode"], "horizon": row["step"], "value": row["coverage"]}
        for row in at_horizons.iter_rows(named=True)
    ]


def missing(members: int, stds: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> list[str]:
    """Return in words what the evaluation could not compute."""
    found = []
    if "epistemic" not in stds:
        why = "the model has one member" if members == 1 else "the members agree exactly"
        found.append(f"everything about the epistemic std: {why}, so there is none")
    undefined = sorted({f"{row['metric']} of {row['mode']}" for row in rows if row["value"] is None})
    if undefined:
        found.append(f"{', '.join(undefined)}: some standard deviations are 0")
    return found
