"""Which base, which training, which uncertainty? Fits them side by side on one dataset, several seeds of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import Field

from reports.evaluate.dynamics import predictions
from reports.evaluate.model_evaluation import longest_rollout
from reports.evaluate.rollouts import Rollout, held_out_windows, roll_out
from reports.evaluate.statistics import T_95, Number, pearson, remove_step_and_trajectory_means, seeds_interval
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen, build
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Run
from rwmmodel.calibration_factors import coverage, step_factors
from rwmmodel.checkpoint import load_model
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig

VARIANTS: dict[str, dict[str, object]] = {
    "gru": {},
    "gru, teacher forcing": {"loss": {"teacher_forcing": True}},
    "gru, sequence term": {"loss": {"sequence_weight": 1.0}},
    "lstm": {"base": "lstm"},
    "mlp": {"base": "mlp"},
    "transformer": {"base": "transformer"},
    "rssm": {"base": "rssm"},
    "gru, nll": {"loss": {"kind": "nll"}},
    "gru, priors": {"prior_scale": 1.0},
    "gru, independent": {"shared_base": False},
}
"""What each changes about :func:`base_config`."""


class BenchModelsConfig(Frozen):
    """Options of :func:`bench_models`."""

    variants: tuple[str, ...] = Field(tuple(VARIANTS), min_length=1)
    seeds: int = Field(3, ge=1, le=len(T_95))
    updates: int = Field(1000, ge=1)
    hidden: int = Field(128, ge=1)
    lr: float = Field(2e-3, gt=0)
    windows: int = Field(128, ge=2)
    """Held-out trajectories, the same for all; as many of the val split fit the calibrations."""
    steps: int = Field(368, ge=1)
    device: str = "auto"


class ModelRow(NamedTuple):
    """One metric of a variant: the mean over seeds with its 95 % interval; what needs no seed has neither."""

    name: str
    metric: str
    horizon: int | None
    seeds: int | None
    value: Number
    low: Number = None
    high: Number = None


def base_config(config: BenchModelsConfig, variant: str, seed: int) -> FitConfig:
    """Return the fit of a variant: the reference's loss and normalised by the data, at a small size.

    Raises:
        RwmError: There is no such variant.
    """
    if variant not in VARIANTS:
        raise RwmError(f"Unknown variant '{variant}'; variants: {', '.join(VARIANTS)}.", "--variant gru")
    size = {"hidden": config.hidden, "head_hidden": config.hidden // 2, "mlp_hidden": (2 * config.hidden,) * 2}
    fixed = {"normalizer": "fitted", "batch": 64, "late_forecast": None, "bounded": False, "checkpoint_interval": 200}
    fixed |= {"precision": "float32"}  # The same for all: which is the fastest differs from base to base.
    training = {"loss": {"sequence_weight": None}, "lr": config.lr, "seed": seed, "device": config.device}
    length = {"updates": config.updates, "val_interval": config.updates}
    return build(FitConfig, "laptop", size, fixed, training, length, VARIANTS[variant])


def bench_models(
    home: Home, dataset: Dataset, config: BenchModelsConfig | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Fit every variant with every seed and score all on the same held-out trajectories.

    Fits are model runs of ``home``: finished ones of the same configuration are taken as they are, broken ones are
    resumed, so the benchmark can be interrupted.

    Returns:
        ``{"rows": [{name, metric, horizon, value, low, high, seeds}, ...]}``: mean over seeds with its 95 % interval
        (Student's t); what needs no seed (last state held, ridge) has none.

    Raises:
        RwmError: A variant is unknown, or the dataset has too short held-out episodes.
    """
    config = config or BenchModelsConfig()
    plans = [(v, s, base_config(config, v, s)) for v in config.variants for s in range(config.seeds)]
    history = plans[0][2].history
    steps = min(config.steps, longest_rollout(dataset, history))
    held_out = held_out_windows(dataset, config.windows, history, steps, 0)
    val_steps = min(steps, longest_rollout(dataset, history, ("val",)))
    val = held_out_windows(dataset, config.windows, history, val_steps, 0, ("val",))
    of_seeds: dict[tuple[str, str, int | None], list[float]] = {}
    for k, (variant, seed, plan) in enumerate(plans):
        model = load_model(fitted(home, dataset, plan).model_file, plan.device)
        rollout = roll_out(model, dataset.schema, held_out)
        calibrating = roll_out(model, dataset.schema, val)
        for key, value in scores(rollout, calibrating).items():
            of_seeds.setdefault((variant, *key), []).append(value)
        progress(k + 1, len(plans), {"seed": seed})
    rows = [
        ModelRow(name, metric, horizon, len(values), *seeds_interval(values))
        for (name, metric, horizon), values in of_seeds.items()
    ]
    predicted = predictions(model, dataset, held_out, rollout, 0)
    for name in ("hold_last", "ridge"):
        rows += [ModelRow(name, "rel_l1", h, None, value) for h, value in rollout.rel_l1(predicted[name]).items()]
    return {"benchmark": "models", "rows": [row._asdict() for row in rows]}


def fitted(home: Home, dataset: Dataset, plan: FitConfig) -> Run:
    """Return the finished fit of this configuration on this dataset; make or resume it where there is none."""
    run = home.run_of("model", plan, {"dataset": home.name_of(dataset)})
    return run if run and run.meta.status == "finished" else fit_model(home, dataset, plan, resume=run)


def scores(rollout: Rollout, calibrating: Rollout) -> dict[tuple[str, int | None], float]:
    """Return a model's numbers: error, coverage before and after calibration, and how its uncertainty ranks."""
    within = (remove_step_and_trajectory_means(rollout.epistemic), remove_step_and_trajectory_means(rollout.l1))
    numbers: dict[tuple[str, int | None], float] = {
        ("pearson_pooled", None): pearson(rollout.epistemic, rollout.l1) or 0.0,
        ("pearson_within", None): pearson(*within) or 0.0,
    }
    factors = step_factors(calibrating.error, calibrating.epistemic_std)
    for h, value in rollout.rel_l1(rollout.predicted).items():
        error, std = rollout.error[:, [h - 1]], rollout.epistemic_std[:, [h - 1]]
        factor = factors[min(h, len(factors)) - 1]
        numbers["rel_l1", h] = value
        numbers["coverage", h] = float(coverage(error, std).mean())
        numbers["coverage_calibrated", h] = float(coverage(error, factor * std).mean())
    return numbers
