"""Scores that may warn of a fall, a row for every window; how many falls they find, and how many false alarms."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl

from reports.evaluate.falls_forecasts import Forecast, tilt_deg
from reports.evaluate.falls_windows import Windows
from reports.evaluate.ranking import auroc
from reports.evaluate.statistics import Interval, Number, bootstrap
from rwmdata.schema import Schema
from rwmmodel.normalizer import Normalizer

CRITERIA = {"termination": 0.5, "any_member": 0.5, "cumulative": 0.5}
"""Probabilities above these values foresee a fall; so does a tilt beyond the limit."""
TILTS_DEG = (15, 20, 30, 45, 60)
"""Limits of the predicted tilt that are compared."""
SCORES = (
    "termination", "any_member", "cumulative", "tilt", "epistemic_max", "epistemic_mean", "combined", "state_error",
    "tilt_now", "age",
)  # fmt: skip
"""What ranks windows: the model's, then with hindsight the error of its states, then what is free."""
COMBINED = ("termination", "tilt", "epistemic_max")
ALARMS = 0.05
"""Share of false alarms that scores are compared at."""
LYING_DEG = 30.0
"""A base that stays tilted further until the fall has begun to fall."""
CONTACT_STEPS = 10
"""Steps before a fall in which thighs are looked at."""
MOST_LOGIT = 30.0


def score_table(
    windows: Windows, prediction: Forecast, mode: str, schema: Schema, normalizer: Normalizer
) -> pl.DataFrame:
    """Return a row for each window: what is known of it, the ``SCORES``, and what was predicted at its last row.

    ``cumulative`` is the probability that one of the steps ends the episode, if they were independent; ``state_error``
    the mean over ``lead`` steps of the L1 error, in standard deviations; ``tilt...`` in degrees, ``..._at_fall`` of the
    last row, where ``velocity_error`` is that of the base, m/s; ``rows_tilted`` the last rows of the window that are
    all tilted further than ``LYING_DEG``. Thigh contacts are counted over the last ``CONTACT_STEPS`` rows: those there
    were, were predicted, and both.
    """
    lead = windows.lead
    true = windows.rows[:, -lead:]
    tilt, true_state = tilt_deg(prediction.states, schema), true[..., schema.state]
    difference = prediction.states[:, :lead] - true_state
    velocity = schema.group("base_lin_vel")
    columns = {
        "termination": prediction.termination.max(axis=1),
        "any_member": prediction.any_member.max(axis=1),
        "cumulative": 1 - np.prod(1 - prediction.termination, axis=1),
        "tilt": tilt.max(axis=1),
        "epistemic_max": prediction.epistemic.max(axis=1),
        "epistemic_mean": prediction.epistemic.mean(axis=1),
        "state_error": np.abs(difference / normalizer.state_std.cpu().numpy()).sum(axis=2).mean(axis=1),
        "tilt_now": tilt_deg(windows.rows[:, -lead - 1, schema.state], schema),
        "tilt_at_fall": tilt[:, lead - 1],
        "true_tilt_at_fall": tilt_deg(true_state[:, -1], schema),
        "rows_tilted": last_rows_above(tilt_deg(windows.rows[..., schema.state], schema), LYING_DEG),
        "velocity_error": np.linalg.norm(difference[:, -1, velocity], axis=1),
        **thigh_contacts(true[..., schema.contact], prediction.contact[:, :lead], schema),
    }
    numbers = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    numbers["combined"] = combined(np.stack([numbers[name] for name in COMBINED], axis=1), windows.fall)
    about = windows.about.with_columns(pl.col("age").cast(pl.Float64), lead=pl.lit(lead), mode=pl.lit(mode))
    return pl.concat([about, pl.DataFrame(numbers)], how="horizontal")


def last_rows_above(values: np.ndarray, limit: float) -> np.ndarray:
    """Return how many of the last ``values (W, rows)`` in a row lie above a limit, ``(W,)``."""
    return np.cumprod(values[:, ::-1] > limit, axis=1).sum(axis=1)


def thigh_contacts(true: np.ndarray, predicted: np.ndarray, schema: Schema) -> dict[str, np.ndarray]:
    """Return how many thigh contacts of the last ``CONTACT_STEPS`` rows there were, were predicted, and both.

    Takes contacts ``(W, rows, C)`` and probabilities of the same shape; returns ``(W,)`` each.
    """
    thighs = slice(0, len(schema.legs))
    there, claimed = (values[:, -CONTACT_STEPS:, thighs] > 0.5 for values in (true, predicted))
    counts = {"thigh_true": there, "thigh_predicted": claimed, "thigh_both": there & claimed}
    return {name: values.sum(axis=(1, 2)) for name, values in counts.items()}


def combined(scores: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """Return the largest of a probability's logit and other scores, ``(W, n)``, in standard deviations of no falls.

    Mean and standard deviation are those of windows without a fall, or of all where there are fewer than two.
    """
    probability = np.clip(scores[:, 0], np.exp(-MOST_LOGIT), None)
    logit = np.minimum(np.log(probability) - np.log1p(-np.minimum(probability, 1 - 1e-15)), MOST_LOGIT)
    scores = np.column_stack((logit, scores[:, 1:]))
    usual = scores[~fall] if (~fall).sum() >= 2 else scores
    return np.asarray(((scores - usual.mean(axis=0)) / np.maximum(usual.std(axis=0), 1e-9)).max(axis=1))


def score_intervals(table: pl.DataFrame, tilt_deg: float, seed: int, draws: int) -> dict[str, Interval]:
    """Return how well each score tells falls from other windows, rows of one lead and mode; intervals over episodes.

    A fall after a push that no window's history shows cannot be foreseen and is left out.
    """
    foreseeable = table.filter(~(pl.col("fall") & pl.col("pushed")))
    return bootstrap(partial(warning_numbers, tilt_deg=tilt_deg), by_episode(foreseeable), seed=seed, draws=draws)


def by_episode(table: pl.DataFrame) -> np.ndarray:
    """Return the ``SCORES`` by episode, ``(E, 2, scores)``: before its fall, and where it goes on; NaN without."""
    ids, index = np.unique(table["episode"].to_numpy(), return_inverse=True)
    values = np.full((len(ids), 2, len(SCORES)), np.nan)
    values[index, np.where(table["fall"].to_numpy(), 0, 1)] = table.select(SCORES).to_numpy()
    return values


def warning_numbers(values: np.ndarray, tilt_deg: float) -> dict[str, Number]:
    """Return every metric of the ``SCORES (E, 2, scores)`` of :func:`by_episode`.

    ``foreseen`` and ``false_alarms`` are the shares of falls and of other windows beyond the ``CRITERIA`` or tilted
    further than ``tilt_deg``, ``either`` that of termination or tilt; ``..._by_tilt`` likewise by ``TILTS_DEG``.
    ``limit_at_5_percent`` is the value that all but 5 % of other windows stay below, ``foreseen_at_5_percent`` the
    share of falls above it.
    """
    falls, others = (part[~np.isnan(part[:, 0])] for part in (values[:, 0], values[:, 1]))
    criteria = CRITERIA | {"tilt": tilt_deg, "tilt_now": tilt_deg}
    numbers: dict[str, Number] = {}
    for metric, part in {"foreseen": falls, "false_alarms": others}.items():
        beyond = {name: part[:, SCORES.index(name)] > limit for name, limit in criteria.items()}
        beyond["either"] = beyond["termination"] | beyond["tilt"]
        numbers |= {f"{metric}/{name}": share(which) for name, which in beyond.items()}
        tilt = part[:, SCORES.index("tilt")]
        numbers |= {f"{metric}_by_tilt/{limit}_deg": share(tilt > limit) for limit in TILTS_DEG}
    fall = np.arange(len(falls) + len(others)) < len(falls)
    for k, name in enumerate(SCORES):
        score = np.concatenate((falls[:, k], others[:, k]))
        numbers[f"auroc/{name}"] = auroc(score, fall) if len(score) else None
        limit = limit_of(others[:, k])
        numbers[f"limit_at_5_percent/{name}"] = limit
        numbers[f"foreseen_at_5_percent/{name}"] = None if limit is None else share(falls[:, k] > limit)
    return numbers


def share(which: np.ndarray) -> Number:
    """Return the share of ``which (n,)`` that is true; None of none."""
    return float(which.mean()) if len(which) else None


def limit_of(others: np.ndarray) -> Number:
    """Return the lowest score that at most ``ALARMS`` of the others' ``(n,)`` exceed; None of none."""
    return float(np.quantile(others, 1 - ALARMS, method="higher")) if len(others) else None
