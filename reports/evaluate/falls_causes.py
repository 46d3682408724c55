"""Which error carries a falling policy through: the termination head, the state, contacts, or what no state shows."""

from __future__ import annotations

import numpy as np
import polars as pl

from reports.evaluate.falls_forecasts import Forecast
from reports.evaluate.falls_scores import thigh_contacts
from reports.evaluate.falls_windows import Windows
from reports.evaluate.ranking import auroc
from reports.evaluate.statistics import Interval, bootstrap, ratio_interval, scalars_of
from rwmdata.evaluation_summary import Scalar
from rwmdata.schema import Schema

HEAD_ROWS = 6
"""The row of the fall and five before it, in which the termination head should say so when shown true states."""
DRIFTED_DEG = 15.0
"""A base predicted this much less tilted than it is at the fall has gone another way."""
THIRDS = ("low", "middle", "high")
CAUSES = ("foreseen", "head", "state", "head_and_state", "rest")
GIVEN, TRUE = "recorded_actions", "true_states"
WHY = {
    "head": "the termination head is silent on true states too",
    "state": "the base is predicted too upright",
    "head_and_state": "the head is silent on true states too and the base is predicted too upright",
    "rest": "the head is silent on predicted states alone, though the base is predicted as tilted as it is",
}
AT_FALL = ("true_tilt_at_fall", "tilt_at_fall", "velocity_error", "rows_tilted")
NOT_DRAWN = ("episode", "robot", "first", "length", "fell", "scenario")
"""Columns of episodes that are no parameters."""


def true_state_table(windows: Windows, prediction: Forecast, schema: Schema) -> pl.DataFrame:
    """Return what the model says one step ahead of true states in the last rows of each window, a row for each.

    ``head`` is the highest termination probability in the last ``HEAD_ROWS`` rows, ``head_at_fall`` that of the last,
    ``head_any_member`` and ``head_cumulative`` as in the scores.
    """
    late, members = prediction.termination[:, -HEAD_ROWS:], prediction.any_member[:, -HEAD_ROWS:]
    columns = {
        "head": late.max(axis=1),
        "head_at_fall": late[:, -1],
        "head_any_member": members.max(axis=1),
        "head_cumulative": 1 - np.prod(1 - late, axis=1),
        **thigh_contacts(windows.rows[:, -windows.lead :, schema.contact], prediction.contact, schema),
    }
    return pl.concat([windows.about, pl.DataFrame(columns)], how="horizontal")


def head_numbers(table: pl.DataFrame, seed: int, draws: int) -> list[Scalar]:
    """Return how often the head fires on true states, before falls and on other walks, with intervals over windows."""
    columns = ("head", "head_at_fall", "head_any_member", "head_cumulative")
    arrays = table.select(columns).to_numpy(), table["fall"].to_numpy()

    def numbers(scores: np.ndarray, fall: np.ndarray) -> dict[str, float | None]:
        fired = scores > 0.5
        parts = {"head_fires": fired[fall], "head_false_alarms": fired[~fall]}
        found = {
            f"{metric}/{name}": float(part[:, k].mean()) if len(part) else None
            for metric, part in parts.items()
            for k, name in enumerate(columns)
        }
        return found | {f"head_auroc/{name}": auroc(scores[:, k], fall) for k, name in enumerate(columns)}

    return scalars_of(TRUE, bootstrap(numbers, *arrays, seed=seed, draws=draws))


def with_causes(falls: pl.DataFrame, heads: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of falls, one lead and mode, with the ``cause`` that the model's termination missed each for.

    ``head``: it is silent on true states too. ``state``: the predicted base is ``DRIFTED_DEG`` less tilted than it is
    at the fall. ``head_and_state``: both. ``rest``: neither.
    """
    known = heads.filter("fall").select("episode", "head")
    silent, drifted = pl.col("head") <= 0.5, pl.col("tilt_at_fall") < pl.col("true_tilt_at_fall") - DRIFTED_DEG
    cause = (
        pl.when(pl.col("termination") > 0.5).then(pl.lit("foreseen"))
        .when(silent & drifted).then(pl.lit("head_and_state"))
        .when(silent).then(pl.lit("head"))
        .when(drifted).then(pl.lit("state"))
        .otherwise(pl.lit("rest"))
    )  # fmt: skip
    return falls.join(known, on="episode", how="inner").with_columns(cause=cause)


def cause_numbers(falls: pl.DataFrame, mode: str, lead: int, tilt_deg: float) -> list[Scalar]:
    """Return how falls were missed and how far the prediction is from each, of the rows of :func:`with_causes`.

    ``at_fall/tilted`` is the share of falls whose base is tilted further than ``tilt_deg``.
    """
    values = {name: falls[name].to_numpy() for name in AT_FALL}
    ones, cause = np.ones(len(falls)), falls["cause"].to_numpy()
    numbers = {f"falls/{name}": ratio_interval((cause == name).astype(float), ones) for name in CAUSES}
    values["tilted"] = (values["true_tilt_at_fall"] > tilt_deg).astype(float)
    numbers |= {f"at_fall/{name}": ratio_interval(value, ones) for name, value in values.items()}
    return scalars_of(mode, numbers | contact_numbers(falls), lead)


def contact_numbers(falls: pl.DataFrame) -> dict[str, Interval]:
    """Return the share of true thigh contacts that is predicted, and of predicted ones that is true."""
    there, claimed, both = (falls[f"thigh_{name}"].to_numpy().astype(float) for name in ("true", "predicted", "both"))
    ratios = {"recall": (both, there), "precision": (both, claimed)}
    return {
        f"thigh_contacts/{name}": _ratio(numerator, denominator) for name, (numerator, denominator) in ratios.items()
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """Return a ratio of sums; without an interval where a resample may divide by 0."""
    if not denominator.sum():
        return Interval(None)
    if (denominator > 0).sum() < 5:
        return Interval(float(numerator.sum() / denominator.sum()))
    return ratio_interval(numerator, denominator)


def parameter_numbers(episodes: pl.DataFrame, falls: pl.DataFrame, tilt_deg: float) -> list[Scalar]:
    """Return where falls lie in what randomisation drew and no state shows, and how many are foreseen there.

    Args:
        episodes: All simulated ones; the time walked is cut into thirds by each parameter.
        falls: Rows of falls of one lead and mode, with the scores.
        tilt_deg: A base predicted to tilt further is foreseen to fall.
    """
    numbers = []
    for name in [c for c in episodes.columns if c not in NOT_DRAWN]:
        drawn = episodes.filter(pl.col(name).is_not_null())
        limits = np.quantile(np.repeat(drawn[name].to_numpy(), drawn["length"].to_numpy()), [1 / 3, 2 / 3])
        known = falls.filter(pl.col(name).is_not_null())
        found = ((known["termination"] > 0.5) | (known["tilt"] > tilt_deg)).to_numpy().astype(float)
        fallen = drawn.filter("fell")[name].to_numpy()
        third_of_all, third = (np.searchsorted(limits, v) for v in (fallen, known[name].to_numpy()))
        for k, part in enumerate(THIRDS):
            numbers.append(_share_of(third_of_all == k).scalar(f"falls_in_third/{part}", name))
            numbers.append(_share_of(found[third == k]).scalar(f"foreseen_in_third/{part}", name))
    return numbers


def _share_of(which: np.ndarray) -> Interval:
    return ratio_interval(which.astype(float), np.ones(len(which))) if len(which) else Interval(None)


def verdict(scalars: list[Scalar], lead: int) -> str:
    """Return in words what is foreseen ``lead`` steps ahead, and which error hides the falls that are not."""
    values = {s.key: s.value for s in scalars}

    def percent(metric: str, mode: str | None = GIVEN, horizon: int | None = lead) -> str:
        value = values[metric, mode, horizon]
        return "-" if value is None else f"{100 * value:.0f} %"

    missed = {cause: values[f"falls/{cause}", GIVEN, lead] or 0.0 for cause in CAUSES[1:]}
    main = max(missed, key=lambda cause: missed[cause])
    why = f"What hides most others, {percent(f'falls/{main}')} of falls: {WHY[main]}. " if missed[main] else ""
    auroc_of_head = values["head_auroc/head", TRUE, None]
    true_tilt, tilt = (values[f"at_fall/{name}", GIVEN, lead] for name in ("true_tilt_at_fall", "tilt_at_fall"))
    return (
        f"{lead} steps ahead, given the actions, the model foresees {percent('foreseen/termination')} of falls by its "
        f"termination, {percent('foreseen/tilt')} by its tilt, {percent('foreseen/either')} by either, with "
        f"{percent('false_alarms/either')} false alarms; under the policy's own actions "
        f"{percent('foreseen/either', 'imagined')} by either. {why}"
        f"Shown true states the head fires at {percent('head_fires/head', TRUE, None)} of falls"
        + ("" if auroc_of_head is None else f", and ranks them at an AUROC of {auroc_of_head:.2f}")
        + f". With limits set for 5 % false alarms the termination finds "
        f"{percent('foreseen_at_5_percent/termination')}, the predicted tilt {percent('foreseen_at_5_percent/tilt')}, "
        f"the tilt of the last known row alone {percent('foreseen_at_5_percent/tilt_now')}. "
        f"At the fall {percent('at_fall/tilted')} of bases are tilted "
        f"beyond the limit, by {true_tilt:.0f} degrees in the mean of all, "
        f"predicted {tilt:.0f}; {percent('thigh_contacts/recall')} of thigh contacts before it are predicted. "
        f"{percent('pushed_after_window', None)} of falls follow a push that came later, and are not counted."
    )
