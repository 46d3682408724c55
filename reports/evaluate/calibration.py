"""Are an ensemble's standard deviations right? Per-horizon calibration, and coverage before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import polars as pl
from pydantic import Field

from reports.evaluate.calibration_figures import draw_coverage, draw_reliability, draw_sharpness
from reports.evaluate.model_evaluation import (
    Evaluation,
    EvaluationConfig,
    longest_rollout,
    model_evaluation,
    no_disagreement,
)
from reports.evaluate.rollouts import Rollout, held_out_windows, roll_out
from reports.evaluate.scoring_rules import ence, gaussian_crps, gaussian_nll
from reports.evaluate.statistics import Interval, Number, bootstrap, scalars_of
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.progress import Progress, silent
from rwmdata.runs import Checkpoint
from rwmdata.schema import STATE_GROUPS, Schema
from rwmmodel.calibration_factors import SPREADS, TINY, Calibration, Factors, Spread, step_factors
from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.devices import resolve_device
from rwmmodel.matching import refuse_mismatch

CALIBRATION_SPLIT = "val"
DRAWN = {"coverage": draw_coverage, "reliability": draw_reliability, "sharpness": draw_sharpness}


class CalibrationConfig(EvaluationConfig):
    """Options of :func:`calibrate` and :func:`evaluate_calibration`; fewer steps where episodes are shorter."""

    windows: int = 256
    resamples: int = Field(300, ge=20)
    """Bootstrap resamples of the trajectories behind every interval."""


def calibrate(
    dataset: Dataset, checkpoint: Checkpoint, config: CalibrationConfig | None = None, progress: Progress = silent
) -> Calibration:
    """Fit a model's per-horizon factors on the val split and store them in its file; its weights stay as they are.

    Raises:
        RwmError: The dataset does not fit the model or has no long enough val episode, or the model has one member.
    """
    config = config or CalibrationConfig()
    model = load_model(checkpoint.file, resolve_device(config.device))
    refuse_mismatch(dataset, checkpoint.id, model)
    if model.config.members == 1:
        raise RwmError("A model of one member has no disagreement to calibrate.", "rwm fit --members 5")
    history, splits = model.config.history, (CALIBRATION_SPLIT,)
    steps = min(config.steps, longest_rollout(dataset, history, splits))
    windows = held_out_windows(dataset, config.windows, history, steps, config.seed, splits)
    rollout = roll_out(model, dataset.schema, windows, "mean", config.seed, progress)

    def factors(columns: slice) -> dict[str, tuple[float, ...]]:
        error = rollout.error[..., columns]
        return {s: tuple(step_factors(error, spread_of(rollout, s)[..., columns]).tolist()) for s in SPREADS}

    about = {"dataset": dataset.name, "split": windows.split, "windows": len(windows.start), "seed": config.seed}
    groups = {}
    for name, columns in groups_of(dataset.schema).items():
        with suppress(RwmError):  # Members that agree about a group exactly: it has the factors of all.
            groups[name] = Factors(**factors(columns))
    model.calibration = Calibration(**about, **factors(slice(None)), groups=groups)
    save_model(model, checkpoint.file)
    return model.calibration


@model_evaluation("calibration", CalibrationConfig, shorten=True)
def evaluate_calibration(ev: Evaluation[CalibrationConfig]) -> None:
    """Measure on the test split how well a model's standard deviations match its errors, as they are and calibrated.

    Writes into the new ``eval`` run: ``summary.json``, ``calibration.parquet`` (every number of every spread, state
    group and step) and ``calibration_{coverage,reliability,sharpness}.png``. Numbers that need a standard deviation
    which one member does not have are left out, and the summary's ``not_computed`` says so.

    Raises:
        RwmError: The dataset does not fit the model, a prediction is not finite, no test episode is left that the
            calibration has not seen, or the model gives no standard deviation at all.
    """
    dataset, used = ev.dataset, ev.model.calibration
    if used is not None and (used.dataset, used.split) == (dataset.name, ev.windows.split):
        raise RwmError(
            f"The model was calibrated on the {used.split} split of '{dataset.name}', and no test episode is left.",
            "rwm data split, or another dataset",
        )
    rollout = ev.roll_out()
    stds = deviations(rollout, used, groups_of(dataset.schema))
    if not stds:
        raise RwmError("Neither the members' disagreement nor their predicted stds differ from 0.", "rwm fit")
    table = calibration_table(dataset, rollout, stds)
    commit_file(ev.run.path / "calibration.parquet", table.write_parquet)
    for name, draw in DRAWN.items():
        draw(ev.run.path / f"calibration_{name}.png", rollout, stds, dataset)
    numbers = scalars(rollout, stds, table, ev.config)
    ev.finish(
        numbers,
        "coverage: share of state columns within one std (0.683 for a Gaussian), coverage_2std: two (0.954); "
        "error_over_std: 0.8 for one; nll in nats and crps in normalised units, per column",
        calibrated_on=None if used is None else used.model_dump(include={"dataset", "split", "windows", "seed"}),
        not_computed=missing(ev.model.config.members, stds, numbers),
    )


def spread_of(rollout: Rollout, spread: Spread) -> np.ndarray:
    """Return the standard deviations of every column, ``(W, steps, S)``."""
    return rollout.epistemic_std if spread == "epistemic" else rollout.total_std


def groups_of(schema: Schema) -> dict[str, slice]:
    """Return the state columns of each group."""
    return {name: schema.group(name) for name in STATE_GROUPS}


def deviations(
    rollout: Rollout, calibration: Calibration | None, groups: Mapping[str, slice] | None = None
) -> dict[str, np.ndarray]:
    """Return each spread's standard deviations, and with a calibration also ``<spread>_calibrated``.

    Columns of ``groups`` have their group's factors, others those of all. A spread that is 0 throughout, the
    disagreement of one member, is no standard deviation and left out.
    """
    spreads = [spread for spread in SPREADS if spread_of(rollout, spread).any()]
    stds: dict[str, np.ndarray] = {spread: spread_of(rollout, spread) for spread in spreads}
    if calibration is None:
        return stds
    steps, width = rollout.error.shape[1:]
    return stds | {f"{s}_calibrated": stds[s] * calibration.of_columns(s, steps, groups or {}, width) for s in spreads}


def calibration_table(dataset: Dataset, rollout: Rollout, stds: dict[str, np.ndarray]) -> pl.DataFrame:
    """Return mode, group (``all`` first), step and every number of :func:`calibration_numbers`, with rmse and std."""
    groups = {"all": slice(None)} | groups_of(dataset.schema)
    rows = []
    for mode, std in stds.items():
        for group, columns in groups.items():
            errors, claimed = rollout.error[..., columns].astype(float), std[..., columns].astype(float)
            for k in range(rollout.steps):
                numbers = calibration_numbers(*parts_of(errors[:, k], claimed[:, k]))
                sizes = {"rmse": float(np.sqrt((errors[:, k] ** 2).mean())), "mean_std": float(claimed[:, k].mean())}
                rows.append({"mode": mode, "group": group, "step": k + 1, **numbers, **sizes})
    return pl.DataFrame(rows, infer_schema_length=None)


def parts_of(error: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what :func:`calibration_numbers` takes, all ``(W, D)``, of one step's errors and standard deviations."""
    size = np.abs(error)
    return error, std, size <= std, size <= 2 * std, gaussian_nll(error, std), gaussian_crps(error, std)


def calibration_numbers(
    error: np.ndarray, std: np.ndarray, within: np.ndarray, within_2: np.ndarray, nll: np.ndarray, crps: np.ndarray
) -> dict[str, Number]:
    """Return the numbers that say how well standard deviations match errors; None for one that is not finite."""
    ratio = np.abs(error).sum() / max(std.sum(), TINY)
    numbers = {"coverage": within.mean(), "coverage_2std": within_2.mean(), "error_over_std": ratio}
    numbers |= {"ence": ence(error, std), "nll": nll.mean(), "crps": crps.mean()}
    return {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}


def scalars(
    rollout: Rollout, stds: dict[str, np.ndarray], table: pl.DataFrame, config: CalibrationConfig
) -> list[Scalar]:
    """Return every number with its interval over trajectories at every horizon; the mode is the std's.

    Coverage by state group follows as ``coverage/<group>``.
    """
    numbers: list[Scalar] = []
    for mode, std in stds.items():
        for h in rollout.horizons:
            parts = parts_of(rollout.error[:, h - 1].astype(float), std[:, h - 1].astype(float))
            intervals = bootstrap(calibration_numbers, *parts, seed=config.seed, draws=config.resamples)
            numbers += scalars_of(mode, intervals, h)
    by_group = table.filter(pl.col("step").is_in(rollout.horizons) & (pl.col("group") != "all"))
    return numbers + [
        Interval(row["coverage"]).scalar(f"coverage/{row['group']}", row["mode"], row["step"])
        for row in by_group.iter_rows(named=True)
    ]


def missing(members: int, stds: dict[str, np.ndarray], numbers: list[Scalar]) -> list[str]:
    """Return in words what the evaluation could not compute."""
    gaps = []
    if "epistemic" not in stds:
        gaps.append(f"everything about the epistemic std: {no_disagreement(members)}")
    undefined = sorted({f"{number.metric} of {number.mode}" for number in numbers if number.value is None})
    if undefined:
        gaps.append(f"{', '.join(undefined)}: some standard deviations are 0")
    return gaps
