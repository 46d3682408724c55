"""How robust is a model to noise on its inputs? Relative error by noise scale and step (RWM, Figure 3b)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from matplotlib import colormaps
from pydantic import Field
from torch import Tensor

from reports.evaluate.model_evaluation import Evaluation, EvaluationConfig, model_evaluation
from reports.evaluate.rollouts import Disturbance, Rollout
from reports.evaluate.statistics import Number, bootstrap, scalars_of
from reports.figures import GREY, figure, step_axis
from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.evaluation_summary import Scalar
from rwmdata.progress import Progress

SCALES = (0.0, 0.1, 0.2, 0.4, 0.5, 0.8)
"""Standard deviations of the noise, normalised units."""


class NoiseConfig(EvaluationConfig):
    """Options of :func:`evaluate_noise`; fewer steps where no held-out episode is that long."""

    windows: int = Field(100, ge=2)
    steps: int = 400
    scales: tuple[float, ...] = Field(SCALES, min_length=1)
    resamples: int = Field(300, ge=20)
    """Bootstrap resamples of the trajectories behind every interval."""


@model_evaluation("noise", NoiseConfig, shorten=True)
def evaluate_noise(ev: Evaluation[NoiseConfig]) -> None:
    """Roll a model's mean out on held-out windows with noise on what it is fed, once for every scale.

    Gaussian noise is added to every state of the history and to every action, of history and forecast, in normalised
    space; the predictions that are fed back get none of their own. All scales use the same draw. Errors are
    against the record without noise.

    Writes into the new ``eval`` run: ``summary.json``, ``noise_error.parquet`` (every scale, trajectory and step) and
    ``noise_error_by_step.png``.

    Raises:
        RwmError: The dataset does not fit the model, held-out episodes are too short, or a prediction is not finite.
    """
    scales = tuple(sorted({0.0, *ev.config.scales}))
    shape = (*ev.windows.rows.shape[:2], ev.model.config.state_dim + ev.model.config.action_dim)
    noise = torch.from_numpy(np.random.default_rng(ev.config.seed).standard_normal(shape, np.float32))
    rollouts = {
        scale: ev.roll_out("mean", disturbed(noise, scale), part_of(ev.progress, k, len(scales)))
        for k, scale in enumerate(scales)
    }
    table = pl.concat([error_table(s, r, noise_of_targets(noise, s, r)) for s, r in rollouts.items()])
    commit_file(ev.run.path / "noise_error.parquet", table.write_parquet)
    draw_noise(ev.run.path / "noise_error_by_step.png", rollouts, ev.dataset)
    ev.finish(
        scalars(rollouts, noise, ev.config),
        "rel_l1: sum |error| / sum |recorded| up to the horizon; mean_step_rel_l1: mean over steps of the same of "
        "one step; noise scales are standard deviations in normalised space",
        scales=list(scales),
        shortened=ev.steps < ev.config.steps,
    )


def disturbed(noise: Tensor, scale: float) -> Disturbance:
    """Return a disturbance that adds ``scale * noise (W, rows, S + A)`` to normalised states and actions."""

    def add(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        scaled = scale * noise.to(states.device)
        return states + scaled[..., : states.shape[-1]], actions + scaled[..., states.shape[-1] :]

    return add


def noise_of_targets(noise: Tensor, scale: float, rollout: Rollout) -> np.ndarray:
    """Return the noise of the recorded states that are predicted, ``(W, steps, S)``."""
    _, steps, width = rollout.recorded.shape
    return scale * noise[:, -steps:, :width].numpy()


def error_table(scale: float, rollout: Rollout, noise: np.ndarray) -> pl.DataFrame:
    """Return scale, trajectory, step, error, recorded magnitude, and both of them against the noised record."""
    count, steps = rollout.l1.shape
    target = rollout.recorded + noise
    errors = {"l1_error": rollout.l1, "recorded_l1": rollout.recorded_l1}
    errors["noised_l1_error"] = np.abs(rollout.predicted - target).sum(axis=-1)
    errors["noised_recorded_l1"] = np.abs(target).sum(axis=-1)
    columns = {"trajectory": np.repeat(np.arange(count), steps), "step": np.tile(np.arange(1, steps + 1), count)}
    return pl.DataFrame({"scale": scale, **columns, **{name: values.ravel() for name, values in errors.items()}})


def scalars(rollouts: dict[float, Rollout], noise: Tensor, config: NoiseConfig) -> list[Scalar]:
    """Return relative errors by scale and horizon, and over those without noise; the mode is ``noise_<scale>``.

    ``mean_step_rel_l1`` is the mean over trajectories and steps of sum |error| / sum |recorded| of one step, the
    paper's number; ``mean_step_rel_l1_noised_target`` measures against the noised record, as the authors' code does,
    so that noise no model could know counts as error. ``hold_last_rel_l1`` repeats the noised last state.
    """
    clean, numbers = rollouts[0.0], []
    resampling = {"seed": config.seed, "draws": config.resamples}
    for scale, rollout in rollouts.items():
        mode, target_noise = f"noise_{scale:g}", noise_of_targets(noise, scale, rollout)
        target = rollout.recorded + target_noise
        last = noise[:, -target.shape[1] - 1, : target.shape[2]].numpy() * scale + rollout.last
        held = rollout.l1_of(last[:, None])
        noised = np.abs(rollout.predicted - target).sum(axis=-1) / np.abs(target).sum(axis=-1)
        for h in dict.fromkeys([*clean.horizons, clean.steps]):
            sums = (part[:, :h].sum(axis=1) for part in (rollout.l1, clean.l1, held, rollout.recorded_l1))
            numbers += scalars_of(mode, bootstrap(_ratios, *sums, **resampling), h)
        shares = (rollout.l1 / rollout.recorded_l1).mean(axis=1), noised.mean(axis=1)
        numbers += scalars_of(mode, bootstrap(_means, *shares, **resampling), clean.steps)
    return numbers


def _ratios(error: np.ndarray, clean: np.ndarray, held: np.ndarray, recorded: np.ndarray) -> dict[str, Number]:
    whole = recorded.sum()
    over = float(error.sum() / clean.sum()) if clean.sum() > 0 else None
    return {"rel_l1": float(error.sum() / whole), "over_clean": over, "hold_last_rel_l1": float(held.sum() / whole)}


def _means(share: np.ndarray, noised_share: np.ndarray) -> dict[str, Number]:
    return {"mean_step_rel_l1": float(share.mean()), "mean_step_rel_l1_noised_target": float(noised_share.mean())}


def part_of(progress: Progress, k: int, count: int) -> Progress:
    """Return the progress of rollout ``k`` of ``count``."""
    return lambda done, total, numbers: progress(k * total + done, count * total, numbers)


def draw_noise(path: Path, rollouts: dict[float, Rollout], dataset: Dataset) -> None:
    """Draw the relative error of every step, a line for every noise scale, beside holding the last clean state."""
    clean = rollouts[0.0]
    count, steps = clean.l1.shape
    x = np.arange(1, steps + 1)
    with figure(path) as axes:
        ax = axes[0, 0]
        places = np.linspace(0.0, 0.85, len(rollouts))
        for place, (scale, rollout) in zip(places, rollouts.items(), strict=True):
            share = rollout.l1 / rollout.recorded_l1
            half = 1.96 * share.std(axis=0) / np.sqrt(count)
            colour, label = colormaps["viridis"](place), f"noise {scale:g}"
            ax.plot(x, share.mean(axis=0), color=colour, label=label)
            ax.fill_between(x, share.mean(axis=0) - half, share.mean(axis=0) + half, color=colour, alpha=0.15, lw=0)
        held = clean.l1_of(clean.hold_last) / clean.recorded_l1
        ax.plot(x, held.mean(axis=0), color=GREY, linestyle=":", label="last state held, no noise")
        title = f"{dataset.robot}: noise on what the model is fed\n{count} held-out trajectories, 95 % intervals"
        ax.set(ylabel="relative error of the step\nsum |error| / sum |recorded|", ylim=(0, None), title=title)
        step_axis(ax, steps)
        ax.set_ylim(0, 1.35 * ax.get_ylim()[1])  # room for the legend
        ax.legend(loc="upper left", ncols=2, fontsize=11, title="standard deviation, normalised units")
