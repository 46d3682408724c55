"""How well does a model predict? Error by horizon and state group, beside the last state held and a linear model."""

from __future__ import annotations

import numpy as np
import polars as pl

from reports.evaluate.dynamics_figures import draw_error_by_horizon, draw_trajectory
from reports.evaluate.linear_model import RidgeModel
from reports.evaluate.model_evaluation import Evaluation, EvaluationConfig, model_evaluation
from reports.evaluate.rollouts import HeldOutWindows, Rollout
from reports.evaluate.statistics import Interval, ratio_up_to
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.evaluation_summary import Scalar
from rwmdata.schema import STATE_GROUPS, UNITS
from rwmmodel.ensemble import DynamicsEnsemble


class DynamicsConfig(EvaluationConfig):
    """Options of :func:`evaluate_dynamics`; fewer steps where no held-out episode is that long."""

    steps: int = 368


@model_evaluation("dynamics", DynamicsConfig, shorten=True)
def evaluate_dynamics(ev: Evaluation[DynamicsConfig]) -> None:
    """Roll a model's mean out on held-out windows with the recorded actions, beside two baselines.

    Writes into the new ``eval`` run: ``summary.json``, ``dynamics_error.parquet`` (error of every predictor, group and
    step), ``dynamics_error_by_horizon.png`` and ``dynamics_trajectory.png``.

    Raises:
        RwmError: The dataset does not fit the model, held-out episodes are too short, or a prediction is not finite.
    """
    rollout, folder = ev.roll_out(), ev.run.path
    predicted = predictions(ev.model, ev.dataset, ev.windows, rollout, ev.config.seed)
    table = error_table(ev.dataset, ev.model, rollout, predicted)
    commit_file(folder / "dynamics_error.parquet", table.write_parquet)
    title = f"{ev.dataset.robot}: {len(rollout.recorded)} held-out trajectories, 95 % intervals"
    file = folder / "dynamics_error_by_horizon.png"
    draw_error_by_horizon(file, rollout, predicted, ev.dataset.control_hz, title)
    draw_trajectory(folder / "dynamics_trajectory.png", rollout, ev.windows, ev.model, ev.dataset)
    units = "rel_l1: share of the recorded magnitude, normalised space; rmse: the group's own unit"
    ev.finish(scalars(rollout, predicted, table), units)


def predictions(
    model: DynamicsEnsemble, dataset: Dataset, windows: HeldOutWindows, rollout: Rollout, seed: int
) -> dict[str, np.ndarray]:
    """Return the prediction of the model and of each baseline, ``(W, steps, S)``, normalised."""
    normalizer = model.normalizer.cpu()
    parts = (normalizer.state_mean, normalizer.action_mean), (normalizer.state_std, normalizer.action_std)
    mean, std = (np.concatenate([p.numpy() for p in pair]).astype(np.float64) for pair in parts)
    state_dim = model.config.state_dim
    actions = windows.rows[:, -rollout.steps :, dataset.schema.action]
    linear = RidgeModel(dataset, mean, std, seed)
    return {
        "model": rollout.predicted,
        "hold_last": rollout.hold_last,
        "ridge": linear.roll_out(rollout.last.astype(np.float64), (actions - mean[state_dim:]) / std[state_dim:]),
    }


def error_table(
    dataset: Dataset, model: DynamicsEnsemble, rollout: Rollout, predicted: dict[str, np.ndarray]
) -> pl.DataFrame:
    """Return predictor, group, step, unit, root mean squared error and mean absolute error, in physical units."""
    std, rows = model.normalizer.cpu().state_std.numpy(), []
    steps = np.arange(1, rollout.steps + 1)
    for name, values in predicted.items():
        error = (values.astype(np.float64) - rollout.recorded) * std
        for group in STATE_GROUPS:
            part = error[..., dataset.schema.group(group)]
            rmse, mae = np.sqrt((part**2).mean(axis=(0, 2))), np.abs(part).mean(axis=(0, 2))
            names = {"predictor": name, "group": group, "step": steps, "unit": UNITS[group]}
            rows.append(pl.DataFrame({**names, "rmse": rmse, "mae": mae}))
    return pl.concat(rows)


def scalars(rollout: Rollout, predicted: dict[str, np.ndarray], table: pl.DataFrame) -> list[Scalar]:
    """Return the relative L1 error up to every horizon with its interval, and each group's error at it.

    ``rel_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. The mode is the predictor.
    """
    errors = {name: rollout.l1_of(values) for name, values in predicted.items()}
    relative = [
        ratio_up_to(h, error, rollout.recorded_l1).scalar("rel_l1", name, h)
        for name, error in errors.items()
        for h in rollout.horizons
    ]
    by_group = table.filter(pl.col("step").is_in(rollout.horizons)).iter_rows(named=True)
    return relative + [
        Interval(row["rmse"]).scalar(f"rmse/{row['group']}", row["predictor"], row["step"]) for row in by_group
    ]
