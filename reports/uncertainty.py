"""Does the ensemble know when it is wrong? Epistemic uncertainty against autoregressive error (RWM-U, Figure 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from reports.evaluation import HORIZONS, EvaluationConfig, model_evaluation
from reports.rollouts import MODES, Mode, Rollout
from reports.statistics import pearson, ratio_interval, remove_step_and_trajectory_means
from reports.uncertainty_figures import draw_by_step, draw_scatter
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.runs import Run


class UncertaintyConfig(EvaluationConfig):
    """Options of :func:`evaluate_uncertainty`."""

    windows: int = 32
    calibrated: bool = False
    """Scale the epistemic uncertainty by the factors of the model's calibration, step by step."""


def evaluate_uncertainty(
    home: Home,
    dataset: Dataset,
    model_run: Run,
    config: UncertaintyConfig | None = None,
    progress: Progress | None = None,
) -> Run:
    """Roll a model out on held-out windows in both modes and relate uncertainty to error.

    Writes into the new ``eval`` run: ``summary.json``, ``uncertainty_error_rollout.csv``,
    ``uncertainty_error_by_step_{mean,sampled_member}.png`` and ``uncertainty_error_scatter_{mean,sampled_member}.png``.

    Raises:
        RwmError: The dataset does not fit the model, has no long enough held-out episode, a prediction is not finite,
            or the model was never calibrated and calibrated uncertainty is asked for.
    """
    config = config or UncertaintyConfig()
    with model_evaluation(home, dataset, model_run, "uncertainty", config) as ev:
        if config.calibrated and ev.model.calibration is None:
            raise RwmError(f"Model {model_run.id} was never calibrated.", f"rwm model calibrate {model_run.id}")
        rollouts = {m: ev.roll_out(m, progress) for m in MODES}
        if config.calibrated and ev.model.calibration is not None:
            factors = ev.model.calibration.at(torch.arange(1, ev.steps + 1)).numpy()
            rollouts = {m: replace(r, epistemic=r.epistemic * factors) for m, r in rollouts.items()}
        table = pl.concat([rollout_table(m, r, ev.windows.start, ev.windows.episode) for m, r in rollouts.items()])
        commit_file(ev.run.path / "uncertainty_error_rollout.csv", table.write_csv)
        for mode, rollout in rollouts.items():
            draw_by_step(ev.run.path / f"uncertainty_error_by_step_{mode}.png", rollout, mode, dataset)
            draw_scatter(ev.run.path / f"uncertainty_error_scatter_{mode}.png", rollout, mode)
        ev.finish(
            [s for m, r in rollouts.items() for s in scalars(m, r)],
            "errors and uncertainties are sums over the state dimensions, in normalised units",
        )
    return ev.run


def rollout_table(mode: Mode, rollout: Rollout, start: np.ndarray, episode: np.ndarray) -> pl.DataFrame:
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
        }
    )


def scalars(mode: Mode, rollout: Rollout) -> list[dict[str, Any]]:
    """Return the evaluation's numbers: correlations, final values and the relative error by horizon.

    ``rel_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. ``hold_last_rel_l1`` is the same for a prediction that repeats
    the last state of the history, the least a model has to beat.
    """
    error, recorded, epistemic = rollout.l1, rollout.recorded_l1, rollout.epistemic
    within = (remove_step_and_trajectory_means(epistemic), remove_step_and_trajectory_means(error))
    found: list[tuple[str, int | None, float | None]] = [
        ("pearson_pooled", None, pearson(epistemic, error)),
        ("pearson_step_averaged", None, pearson(epistemic.mean(axis=0), error.mean(axis=0))),
        ("pearson_within", None, pearson(*within)),
        ("final_l1", error.shape[1], float(error[:, -1].mean())),
        ("final_epistemic", error.shape[1], float(epistemic[:, -1].mean())),
        ("final_aleatoric", error.shape[1], float(rollout.aleatoric[:, -1].mean())),
    ]
    rows: list[dict[str, Any]] = [{"metric": k, "mode": mode, "horizon": h, "value": v} for k, h, v in found]
    held = np.abs(rollout.last[:, None] - rollout.recorded).sum(axis=-1)
    for h in [h for h in HORIZONS if h <= error.shape[1]]:
        for metric, l1 in (("rel_l1", error), ("hold_last_rel_l1", held)):
            value, low, high = ratio_interval(l1[:, :h].sum(axis=1), recorded[:, :h].sum(axis=1))
            rows.append({"metric": metric, "mode": mode, "horizon": h, "value": value, "low": low, "high": high})
    return rows
