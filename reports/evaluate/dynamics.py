"""How well does a model predict? Held-out trajectories by state group, beside no change and a linear model."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from reports.evaluate.dynamics_figures import draw_error_by_horizon, draw_trajectory
from reports.evaluate.linear_model import RidgeModel
from reports.evaluate.model_evaluation import HORIZONS, EvaluationConfig, model_evaluation
from reports.evaluate.rollouts import HeldOutWindows, Rollout
from reports.evaluate.statistics import ratio_interval
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Run
from rwmdata.schema import STATE_GROUPS, UNITS
from rwmmodel.ensemble import DynamicsEnsemble

PREDICTORS = ("model", "hold_last", "ridge")


class DynamicsConfig(EvaluationConfig):
    """Options of :func:`evaluate_dynamics`; fewer steps where no held-out episode is that long."""

    steps: int = 368


def evaluate_dynamics(
    home: Home,
    dataset: Dataset,
    model_run: Run,
    config: DynamicsConfig | None = None,
    progress: Progress = silent,
) -> Run:
    """Roll a model's mean out on held-out windows with the recorded actions, beside two baselines.

    Writes into the new ``eval`` run: ``summary.json``, ``dynamics_error.parquet`` (error of every predictor, group and
    step), ``dynamics_error_by_horizon.png`` and ``dynamics_trajectory.png``.

    Raises:
        RwmError: The dataset does not fit the model, has no long enough held-out episode, or a prediction is not
            finite.
    """
    with model_evaluation(home, dataset, model_run, "dynamics", config or DynamicsConfig(), shorten=True) as ev:
        rollout = ev.roll_out("mean", progress)
        predicted = predictions(ev.model, dataset, ev.windows, rollout, ev.seed)
        table = error_table(dataset, ev.model, rollout, predicted)
        commit_file(ev.run.path / "dynamics_error.parquet", table.write_parquet)
        draw_error_by_horizon(ev.run.path / "dynamics_error_by_horizon.png", rollout, predicted, dataset)
        draw_trajectory(ev.run.path / "dynamics_trajectory.png", rollout, ev.windows, ev.model, dataset)
        ev.finish(
            scalars(rollout, predicted, table),
            "rel_l1: share of the recorded magnitude, normalised space; rmse: the group's own unit",
        )
    return ev.run


def predictions(
    model: DynamicsEnsemble, dataset: Dataset, windows: HeldOutWindows, rollout: Rollout, seed: int
) -> dict[str, np.ndarray]:
    """Return what each predictor says, ``(W, steps, S)``, normalised."""
    normalizer = model.normalizer.cpu()
    parts = (normalizer.state_mean, normalizer.action_mean), (normalizer.state_std, normalizer.action_std)
    mean, std = (np.concatenate([p.numpy() for p in pair]).astype(np.float64) for pair in parts)
    state_dim = model.config.state_dim
    history = windows.rows.shape[1] - rollout.recorded.shape[1]
    actions = windows.rows[:, history:, dataset.schema.action]
    linear = RidgeModel(dataset, mean, std, seed)
    return {
        "model": rollout.predicted,
        "hold_last": np.broadcast_to(rollout.last[:, None], rollout.recorded.shape),
        "ridge": linear.roll_out(rollout.last.astype(np.float64), (actions - mean[state_dim:]) / std[state_dim:]),
    }


def error_table(
    dataset: Dataset, model: DynamicsEnsemble, rollout: Rollout, predicted: dict[str, np.ndarray]
) -> pl.DataFrame:
    """Return predictor, group, step, unit, root mean squared error and mean absolute error, in physical units."""
    std, rows = model.normalizer.cpu().state_std.numpy(), []
    steps = np.arange(1, rollout.recorded.shape[1] + 1)
    for name, values in predicted.items():
        error = (values.astype(np.float64) - rollout.recorded) * std
        for group in STATE_GROUPS:
            part = error[..., dataset.schema.group(group)]
            rows.append(
                pl.DataFrame(
                    {
                        "predictor": name,
                        "group": group,
                        "step": steps,
                        "unit": UNITS[group],
                        "rmse": np.sqrt((part**2).mean(axis=(0, 2))),
                        "mae": np.abs(part).mean(axis=(0, 2)),
                    }
                )
            )
    return pl.concat(rows)


def scalars(rollout: Rollout, predicted: dict[str, np.ndarray], table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the relative L1 error up to every horizon with its interval, and each group's error at it.

    ``rel_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. The mode is the predictor.
    """
    recorded, found = rollout.recorded_l1, []
    horizons = [h for h in HORIZONS if h <= recorded.shape[1]]
    for name, values in predicted.items():
        error = np.abs(values - rollout.recorded).sum(axis=-1)
        for h in horizons:
            value, low, high = ratio_interval(error[:, :h].sum(axis=1), recorded[:, :h].sum(axis=1))
            found.append({"metric": "rel_l1", "mode": name, "horizon": h, "value": value, "low": low, "high": high})
    for row in table.filter(pl.col("step").is_in(horizons)).iter_rows(named=True):
        found.append(
            {"metric": f"rmse/{row['group']}", "mode": row["predictor"], "horizon": row["step"], "value": row["rmse"]}
        )
    return found
