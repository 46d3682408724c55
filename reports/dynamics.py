"""How well does a model predict? Held-out trajectories by state group, beside no change and a linear model."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from reports.dynamics_figures import draw_error_by_horizon, draw_trajectory
from reports.linear_model import RidgeModel
from reports.rollouts import HeldOutWindows, Rollout, held_out_windows, longest_rollout, roll_out
from reports.statistics import ratio_interval
from reports.uncertainty import HORIZONS, SUMMARY_VERSION, refuse_mismatch
from rwmdata.atomic import commit_file, write_json
from rwmdata.catalog import Dataset
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import Frozen
from rwmdata.runs import Run
from rwmdata.schema import STATE_GROUPS, UNITS
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmmodel.ensemble import DynamicsEnsemble

PREDICTORS = ("model", "hold_last", "ridge")


class DynamicsConfig(Frozen):
    """Options of :func:`evaluate_dynamics`."""

    windows: int = Field(64, ge=2)
    """Number of held-out trajectories."""
    steps: int = Field(368, ge=1)
    """Autoregressive steps per trajectory; fewer where no held-out episode is that long."""
    seed: int = 0
    device: str = "auto"


def evaluate_dynamics(
    home: Home,
    dataset: Dataset,
    model_run: Run,
    config: DynamicsConfig | None = None,
    progress: Progress | None = None,
) -> Run:
    """Roll a model's mean out on held-out windows with the recorded actions, beside two baselines.

    Writes into the new ``eval`` run: ``summary.json``, ``dynamics_error.parquet`` (error of every predictor, group and
    step), ``dynamics_error_by_horizon.png`` and ``dynamics_trajectory.png``.

    Raises:
        RwmError: The dataset does not fit the model, has no long enough held-out episode, or a prediction is not
            finite.
    """
    config = config or DynamicsConfig()
    model = load_model(model_run.checkpoints / "model.safetensors", resolve_device(config.device))
    refuse_mismatch(dataset, model_run, (model.config.state_dim, model.config.action_dim))
    history = model.config.history
    steps = min(config.steps, longest_rollout(dataset, history))
    windows = held_out_windows(dataset, config.windows, history, steps, config.seed)
    parents: dict[str, str | None] = {"dataset": dataset.name, "model": model_run.id}
    run = Run.create(home, "eval", {"evaluation": "dynamics", **config.model_dump()}, parents, config.seed)
    with run.running():
        rollout = roll_out(model, dataset, windows, history, "mean", config.seed, progress)
        predicted = predictions(model, dataset, windows, rollout, config.seed)
        table = error_table(dataset, model, rollout, predicted)
        commit_file(run.path / "dynamics_error.parquet", table.write_parquet)
        draw_error_by_horizon(run.path / "dynamics_error_by_horizon.png", rollout, predicted, dataset)
        draw_trajectory(run.path / "dynamics_trajectory.png", rollout, windows, model, dataset)
        summary = {
            "summary_version": SUMMARY_VERSION, "evaluation": "dynamics", "run": run.id, **parents,
            "robot": dataset.robot, "split": windows.split, "windows": len(windows.start),
            "episodes": len(np.unique(windows.episode)), "history": history, "steps": steps,
            "members": model.config.members, "seed": config.seed,
            "units": "relative_l1: share of the recorded magnitude, normalised space; rmse: the group's own unit",
            "scalars": scalars(rollout, predicted, table),
        }  # fmt: skip
        write_json(run.path / "summary.json", summary)
        run.finish(summary)
    return run


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
            rows.append(pl.DataFrame({
                "predictor": name, "group": group, "step": steps, "unit": UNITS[group],
                "rmse": np.sqrt((part**2).mean(axis=(0, 2))), "mae": np.abs(part).mean(axis=(0, 2)),
            }))  # fmt: skip
    return pl.concat(rows)


def scalars(rollout: Rollout, predicted: dict[str, np.ndarray], table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the relative L1 error up to every horizon with its interval, and each group's error at it.

    ``relative_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. The mode is the predictor.
    """
    recorded, found = rollout.recorded_l1, []
    horizons = [h for h in HORIZONS if h <= recorded.shape[1]]
    for name, values in predicted.items():
        error = np.abs(values - rollout.recorded).sum(axis=-1)
        for h in horizons:
            value, low, high = ratio_interval(error[:, :h].sum(axis=1), recorded[:, :h].sum(axis=1))
            found.append({"metric": "relative_l1", "mode": name, "horizon": h, "value": value, "low": low,
                          "high": high})  # fmt: skip
    for row in table.filter(pl.col("step").is_in(horizons)).iter_rows(named=True):
        found.append({"metric": f"rmse/{row['group']}", "mode": row["predictor"], "horizon": row["step"],
                      "value": row["rmse"]})  # fmt: skip
    return found
