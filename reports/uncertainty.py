"""Does the ensemble know when it is wrong? Epistemic uncertainty against autoregressive error (RWM-U, Figure 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from reports.rollouts import MODES, Mode, Rollout, held_out_windows, roll_out
from reports.statistics import pearson, ratio_interval, remove_step_and_trajectory_means
from reports.uncertainty_figures import draw_by_step, draw_scatter
from rwmdata.atomic import commit_file, write_json
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import Frozen
from rwmdata.runs import Run
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device

SUMMARY_VERSION = 1
HORIZONS = (1, 8, 32, 100, 200, 368)


class UncertaintyConfig(Frozen):
    """Options of :func:`evaluate_uncertainty`."""

    windows: int = 32
    """Number of held-out trajectories."""
    steps: int = 200
    """Autoregressive steps per trajectory (control steps)."""
    seed: int = 0
    device: str = "auto"


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
        RwmError: The dataset does not fit the model, has no long enough held-out episode, or a prediction is not
            finite.
    """
    config = config or UncertaintyConfig()
    device = resolve_device(config.device)
    model = load_model(model_run.checkpoints / "model.safetensors", device).eval()
    refuse_mismatch(dataset, model_run, (model.config.state_dim, model.config.action_dim))
    history = model.config.history
    windows = held_out_windows(dataset, config.windows, history, config.steps, config.seed)
    parents: dict[str, str | None] = {"dataset": dataset.name, "model": model_run.id}
    run = Run.create(home, "eval", {"evaluation": "uncertainty", **config.model_dump()}, parents, config.seed)
    with run.running():
        rollouts = {m: roll_out(model, dataset, windows, history, m, config.seed, progress) for m in MODES}
        table = pl.concat([rollout_table(m, r, windows.start, windows.episode) for m, r in rollouts.items()])
        commit_file(run.path / "uncertainty_error_rollout.csv", table.write_csv)
        for mode, rollout in rollouts.items():
            draw_by_step(run.path / f"uncertainty_error_by_step_{mode}.png", rollout, mode, dataset)
            draw_scatter(run.path / f"uncertainty_error_scatter_{mode}.png", rollout, mode)
        summary = {
            "summary_version": SUMMARY_VERSION,
            "evaluation": "uncertainty",
            "run": run.id,
            **parents,
            "robot": dataset.robot,
            "split": windows.split,
            "windows": len(windows.start),
            "episodes": len(np.unique(windows.episode)),
            "history": history,
            "steps": config.steps,
            "members": model.config.members,
            "seed": config.seed,
            "units": "errors and uncertainties are sums over the state dimensions, in normalised units",
            "scalars": [s for m, r in rollouts.items() for s in scalars(m, r)],
        }
        write_json(run.path / "summary.json", summary)
        run.finish(summary)
    return run


def refuse_mismatch(dataset: Dataset, model_run: Run, model_dims: tuple[int, int]) -> None:
    """Refuse a dataset of other sizes than the model's.

    Raises:
        RwmError: They differ.
    """
    dims = (dataset.schema.dims["state"], dataset.schema.dims["action"])
    if dims != model_dims:
        raise RwmError(
            f"Model {model_run.id} takes {model_dims[0]} state and {model_dims[1]} action columns, "
            f"dataset '{dataset.name}' ({dataset.robot}) has {dims[0]} and {dims[1]}.",
            f"rwm fit {dataset.name}",
        )


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

    ``relative_l1`` at horizon h is sum |error| / sum |recorded| over all steps up to h and all trajectories; its
    interval comes from resampling trajectories. ``hold_last_relative_l1`` is the same for a prediction that repeats
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
        for metric, l1 in (("relative_l1", error), ("hold_last_relative_l1", held)):
            value, low, high = ratio_interval(l1[:, :h].sum(axis=1), recorded[:, :h].sum(axis=1))
            rows.append({"metric": metric, "mode": mode, "horizon": h, "value": value, "low": low, "high": high})
    return rows
