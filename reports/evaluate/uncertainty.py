"""Does the ensemble know when it is wrong? Epistemic uncertainty against autoregressive error (RWM-U, Figure 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import Field

from reports.evaluate.model_evaluation import HORIZONS, Evaluation, EvaluationConfig, model_evaluation
from reports.evaluate.ranking import codes, ranking_numbers
from reports.evaluate.rollouts import MODES, Rollout, stale_actions
from reports.evaluate.statistics import bootstrap, ratio_interval, rows_of
from reports.evaluate.uncertainty_figures import STALE, draw_all
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Run

BEFORE_FALL = 25
"""Rows (0.5 s at 50 Hz) before a fall in which a warning should rise."""


class UncertaintyConfig(EvaluationConfig):
    """Options of :func:`evaluate_uncertainty`."""

    windows: int = 32
    calibrated: bool = False
    """Scale the epistemic uncertainty by the factors of the model's calibration, step by step."""
    reference_alignment: bool = False
    """Also feed the actions one row late, as the authors' evaluation does, and show what that costs."""
    resamples: int = Field(300, ge=20)
    """Bootstrap resamples of the trajectories behind every interval of a ranking number."""


def evaluate_uncertainty(
    home: Home,
    dataset: Dataset,
    model_run: Run,
    config: UncertaintyConfig | None = None,
    progress: Progress = silent,
) -> Run:
    """Roll a model out on held-out windows in both modes and relate uncertainty to error.

    Writes into the new ``eval`` run: ``summary.json``, ``uncertainty_error_rollout.{csv,parquet}``, and of each mode
    ``uncertainty_error_by_step_<mode>.png``, ``uncertainty_error_scatter_<mode>.png`` and
    ``uncertainty_sparsification_<mode>.png``; with the reference's alignment also ``reference_alignment.png``. A model
    with one member has no uncertainty to draw: the summary's ``not_computed`` says what is missing.

    Raises:
        RwmError: The dataset does not fit the model, has no long enough held-out episode, a prediction is not finite,
            or the model was never calibrated and calibrated uncertainty is asked for.
    """
    config = config or UncertaintyConfig()
    with model_evaluation(home, dataset, model_run, "uncertainty", config) as ev:
        if config.calibrated and ev.model.calibration is None:
            raise RwmError(f"Model {model_run.id} was never calibrated.", f"rwm model calibrate {model_run.id}")
        rollouts = _roll_out(ev, config, progress)
        table = pl.concat([rollout_table(m, r, ev.windows.start, ev.windows.episode) for m, r in rollouts.items()])
        commit_file(ev.run.path / "uncertainty_error_rollout.csv", table.write_csv)
        commit_file(ev.run.path / "uncertainty_error_rollout.parquet", table.write_parquet)
        draw_all(ev.run.path, rollouts, dataset)
        falls = near_fall(dataset, ev.windows.start, ev.history, ev.steps)
        ev.finish(
            [s for m, r in rollouts.items() for s in scalars(m, r) + ranking(m, r, falls, config)] + costs(rollouts),
            "errors and uncertainties are sums over the state dimensions, in normalised units",
            not_computed=missing(ev.model.config.members, rollouts["mean"], falls),
        )
    return ev.run


def _roll_out(ev: Evaluation, config: UncertaintyConfig, progress: Progress) -> dict[str, Rollout]:
    """Return a rollout of each mode, and of each mode with stale actions where they are asked for."""
    rollouts: dict[str, Rollout] = {m: ev.roll_out(m, progress) for m in MODES}
    if config.reference_alignment:
        rollouts |= {m + STALE: ev.roll_out(m, progress, stale_actions) for m in MODES}
    if config.calibrated and ev.model.calibration is not None:
        factors = ev.model.calibration.at(torch.arange(1, ev.steps + 1)).numpy()
        rollouts = {m: replace(r, epistemic=r.epistemic * factors) for m, r in rollouts.items()}
    return rollouts


def near_fall(dataset: Dataset, start: np.ndarray, history: int, steps: int) -> np.ndarray:
    """Return whether a forecast row is one of the last ``BEFORE_FALL`` of an episode that ends in a fall.

    Args:
        dataset: Gives the episodes; a fall is a recorded termination.
        start: First row of each window, ``(W,)``.
        history: Rows before the forecast.
        steps: Of the forecast.

    Returns:
        ``(W, steps)``.
    """
    ends = dataset.episodes.start + dataset.episodes.length
    episode = np.searchsorted(dataset.episodes.start, start, side="right") - 1
    left = ends[episode][:, None] - (start[:, None] + history + np.arange(steps))
    return (left <= BEFORE_FALL) & np.asarray(dataset.episodes.terminated)[episode][:, None]


def missing(members: int, rollout: Rollout, falls: np.ndarray) -> list[str]:
    """Return in words what the evaluation could not compute."""
    found = []
    if not rollout.epistemic.any():
        why = "the model has one member" if members == 1 else "the members agree exactly"
        found.append(f"everything about epistemic uncertainty: {why}, so there is none (rwm fit --members 5)")
    if not rollout.l1.any():
        found.append("sparsification: there is no error")
    if not falls.any():
        found.append(f"auroc_before_fall: no window reaches the {BEFORE_FALL} steps before a recorded fall")
    return found


def rollout_table(mode: str, rollout: Rollout, start: np.ndarray, episode: np.ndarray) -> pl.DataFrame:
    """Return one row per mode, trajectory and step: error, relative error and both uncertainties."""
    count, steps = rollout.l1.shape
    return pl.DataFrame(
        {
            "mode": [mode] * (count * steps),
            "trajectory": np.repeat(np.arange(count), steps),
            "episode": np.repeat(episode, steps),
            "start_row": np.repeat(start, steps),
            "step": np.tile(np.arange(1, steps + 1), count),
            "l1_error": rollout.l1.ravel(),
            "relative_l1_error": (rollout.l1 / np.maximum(rollout.recorded_l1, 1e-12)).ravel(),
            "epistemic": rollout.epistemic.ravel(),
            "aleatoric": rollout.aleatoric.ravel(),
            "predicted_step_size": rollout.step_size.ravel(),
        }
    )


def scores(rollout: Rollout) -> dict[str, np.ndarray]:
    """Return what may warn of an error, ``(W, steps)``: the members' disagreement and two scores that cost nothing."""
    steps = np.broadcast_to(np.arange(1, rollout.l1.shape[1] + 1), rollout.l1.shape)
    return {"": rollout.epistemic, "/step_index": steps, "/step_size": rollout.step_size}


def ranking(mode: str, rollout: Rollout, falls: np.ndarray, config: UncertaintyConfig) -> list[dict[str, Any]]:
    """Return how well each score sorts the errors, with intervals over trajectories: ``<metric>[/<free score>]``."""
    error_code, found = codes(rollout.l1), []
    for name, score in scores(rollout).items():
        arrays = score, rollout.l1, falls, codes(score), error_code
        numbers = bootstrap(ranking_numbers, *arrays, seed=config.seed, draws=config.resamples)
        found += rows_of(mode, {metric + name: value for metric, value in numbers.items()})
    return found


def costs(rollouts: dict[str, Rollout]) -> list[dict[str, Any]]:
    """Return the error with stale actions over that with the right ones, summed up to every horizon."""
    found: list[dict[str, Any]] = []
    for mode in [m for m in rollouts if m + STALE in rollouts]:
        late, right = rollouts[mode + STALE].l1, rollouts[mode].l1
        for h in [h for h in HORIZONS if h <= right.shape[1]]:
            value, low, high = ratio_interval(late[:, :h].sum(axis=1), right[:, :h].sum(axis=1))
            found.append(
                {
                    "metric": "stale_over_aligned_error",
                    "mode": mode,
                    "horizon": h,
                    "value": value,
                    "low": low,
                    "high": high,
                }
            )
    return found


def scalars(mode: str, rollout: Rollout) -> list[dict[str, Any]]:
    """Return the evaluation's numbers: final values and the relative error by horizon.

    ``rel_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. ``hold_last_rel_l1`` is the same for a prediction that repeats
    the last state of the history, the least a model has to beat.
    """
    error, recorded, rows = rollout.l1, rollout.recorded_l1, []
    last = {"final_l1": error, "final_epistemic": rollout.epistemic, "final_aleatoric": rollout.aleatoric}
    for metric, values in last.items():
        value, low, high = ratio_interval(values[:, -1], np.ones(len(values)))
        rows.append(
            {"metric": metric, "mode": mode, "horizon": error.shape[1], "value": value, "low": low, "high": high}
        )
    held = np.abs(rollout.last[:, None] - rollout.recorded).sum(axis=-1)
    for h in [h for h in HORIZONS if h <= error.shape[1]]:
        for metric, l1 in (("rel_l1", error), ("hold_last_rel_l1", held)):
            value, low, high = ratio_interval(l1[:, :h].sum(axis=1), recorded[:, :h].sum(axis=1))
            rows.append({"metric": metric, "mode": mode, "horizon": h, "value": value, "low": low, "high": high})
    return rows
