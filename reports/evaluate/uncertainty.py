"""Does the ensemble know when it is wrong? Epistemic uncertainty against autoregressive error (RWM-U, Figure 3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch
from pydantic import Field

from reports.evaluate.model_evaluation import Evaluation, EvaluationConfig, model_evaluation, no_disagreement
from reports.evaluate.ranking import codes, ranking_numbers
from reports.evaluate.rollouts import MODES, Rollout, stale_actions
from reports.evaluate.statistics import bootstrap, mean_interval, ratio_up_to, scalars_of
from reports.evaluate.uncertainty_figures import STALE, draw_all
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.text import quoted

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


@model_evaluation("uncertainty", UncertaintyConfig)
def evaluate_uncertainty(ev: Evaluation[UncertaintyConfig]) -> None:
    """Roll a model out on held-out windows in both modes and relate uncertainty to error.

    Writes into the new ``eval`` run: ``summary.json``, ``uncertainty_error_rollout.{csv,parquet}``, and of each mode
    ``uncertainty_error_by_step_<mode>.png``, ``uncertainty_error_scatter_<mode>.png`` and
    ``uncertainty_sparsification_<mode>.png``; with the reference's alignment also ``reference_alignment.png``. A model
    with one member has no uncertainty to draw: the summary's ``not_computed`` says what is missing.

    Raises:
        RwmError: The dataset does not fit the model, has no long enough held-out episode, a prediction is not finite,
            or the model was never calibrated and calibrated uncertainty is asked for.
    """
    model_id = ev.run.meta.parents["model"]
    if ev.config.calibrated and ev.model.calibration is None:
        raise RwmError(f"Model {model_id} was never calibrated.", f"rwm model calibrate {quoted(model_id)}")
    rollouts = roll_out_modes(ev)
    table = pl.concat([rollout_table(m, r, ev.windows.start, ev.windows.episode) for m, r in rollouts.items()])
    commit_file(ev.run.path / "uncertainty_error_rollout.csv", table.write_csv)
    commit_file(ev.run.path / "uncertainty_error_rollout.parquet", table.write_parquet)
    draw_all(ev.run.path, rollouts, ev.dataset)
    falls = near_fall(ev.dataset, ev.windows.start, ev.history, ev.steps)
    numbers = [s for m, r in rollouts.items() for s in scalars(m, r) + ranking(m, r, falls, ev.config)]
    ev.finish(
        numbers + stale_costs(rollouts),
        "errors and uncertainties are sums over the state dimensions, in normalised units",
        not_computed=missing(ev.model.config.members, rollouts["mean"], falls),
    )


def roll_out_modes(ev: Evaluation[UncertaintyConfig]) -> dict[str, Rollout]:
    """Return a rollout of each mode, and of each mode with stale actions where they are asked for."""
    rollouts: dict[str, Rollout] = {m: ev.roll_out(m) for m in MODES}
    if ev.config.reference_alignment:
        rollouts |= {m + STALE: ev.roll_out(m, stale_actions) for m in MODES}
    if ev.config.calibrated and ev.model.calibration is not None:
        factors = ev.model.calibration.at(torch.arange(1, ev.steps + 1)).numpy()
        rollouts = {m: replace(r, epistemic=r.epistemic * factors) for m, r in rollouts.items()}
    return rollouts


def near_fall(dataset: Dataset, start: np.ndarray, history: int, steps: int) -> np.ndarray:
    """Return whether a forecast row is one of the last ``BEFORE_FALL`` before a recorded fall, ``(W, steps)``.

    The forecast begins ``history`` rows after each window's first row ``start (W,)``.
    """
    ends = dataset.episodes.start + dataset.episodes.length
    episode = np.searchsorted(dataset.episodes.start, start, side="right") - 1
    rows_left = ends[episode][:, None] - (start[:, None] + history + np.arange(steps))
    return (rows_left <= BEFORE_FALL) & np.asarray(dataset.episodes.terminated)[episode][:, None]


def missing(members: int, rollout: Rollout, falls: np.ndarray) -> list[str]:
    """Return in words what the evaluation could not compute."""
    gaps = []
    if not rollout.epistemic.any():
        gaps.append(f"everything about epistemic uncertainty: {no_disagreement(members)} (rwm fit --members 5)")
    if not rollout.l1.any():
        gaps.append("sparsification: there is no error")
    if not falls.any():
        gaps.append(f"auroc_before_fall: no window reaches the {BEFORE_FALL} steps before a recorded fall")
    return gaps


def rollout_table(mode: str, rollout: Rollout, start: np.ndarray, episode: np.ndarray) -> pl.DataFrame:
    """Return one row per mode, trajectory and step: error, relative error and both uncertainties."""
    count, steps = rollout.l1.shape
    relative = rollout.l1 / np.maximum(rollout.recorded_l1, 1e-12)
    windows = {"trajectory": np.arange(count), "episode": episode, "start_row": start}
    columns = {name: np.repeat(of_window, steps) for name, of_window in windows.items()}
    columns["step"] = np.tile(np.arange(1, steps + 1), count)
    measured = {"l1_error": rollout.l1, "relative_l1_error": relative, "epistemic": rollout.epistemic}
    measured |= {"aleatoric": rollout.aleatoric, "predicted_step_size": rollout.step_size}
    return pl.DataFrame({"mode": mode, **columns, **{name: values.ravel() for name, values in measured.items()}})


def warnings_of(rollout: Rollout) -> dict[str, np.ndarray]:
    """Return scores that may warn of an error, ``(W, steps)``: the members' disagreement and two that cost nothing."""
    steps = np.broadcast_to(np.arange(1, rollout.steps + 1), rollout.l1.shape)
    return {"": rollout.epistemic, "/step_index": steps, "/step_size": rollout.step_size}


def ranking(mode: str, rollout: Rollout, falls: np.ndarray, config: UncertaintyConfig) -> list[Scalar]:
    """Return how well each score sorts the errors, with intervals over trajectories: ``<metric>[/<free score>]``."""
    error_code, numbers = codes(rollout.l1), []
    for name, score in warnings_of(rollout).items():
        arrays = score, rollout.l1, falls, codes(score), error_code
        intervals = bootstrap(ranking_numbers, *arrays, seed=config.seed, draws=config.resamples)
        numbers += scalars_of(mode, {metric + name: interval for metric, interval in intervals.items()})
    return numbers


def stale_costs(rollouts: dict[str, Rollout]) -> list[Scalar]:
    """Return the error with stale actions over that with the right ones, summed up to every horizon."""
    return [
        ratio_up_to(h, rollouts[mode + STALE].l1, rollouts[mode].l1).scalar("stale_over_aligned_error", mode, h)
        for mode in [m for m in rollouts if m + STALE in rollouts]
        for h in rollouts[mode].horizons
    ]


def scalars(mode: str, rollout: Rollout) -> list[Scalar]:
    """Return the evaluation's numbers: final values and the relative error by horizon.

    ``rel_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. ``hold_last_rel_l1`` is the same for a prediction that repeats
    the last state of the history, the least a model has to beat.
    """
    error, recorded, held = rollout.l1, rollout.recorded_l1, rollout.l1_of(rollout.hold_last)
    final = {"final_l1": error, "final_epistemic": rollout.epistemic, "final_aleatoric": rollout.aleatoric}
    numbers = scalars_of(mode, {name: mean_interval(values[:, -1]) for name, values in final.items()}, rollout.steps)
    for h in rollout.horizons:
        ratios = {"rel_l1": ratio_up_to(h, error, recorded), "hold_last_rel_l1": ratio_up_to(h, held, recorded)}
        numbers += scalars_of(mode, ratios, h)
    return numbers
