"""How long until a model is good? Held-out error over the minutes of a fit, for every preset and arithmetic.

Every point is a whole fit of its own, because the error is good only at a fit's end, when its learning rate has fallen:
a fit cut in its middle would look worse than it has to. Each has twice the updates of the one before it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import Field, field_validator, model_validator

from reports.bench.curves import Curve, Panel, draw_over_minutes
from reports.bench.measure import BenchRow, content_of
from reports.bench.models import fitted
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen, build, read_settings
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Run
from rwmdata.schema import NormalizerKind
from rwmmodel.devices import Precision, reduced_precisions, resolve_device
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig
from rwmmodel.validation import HORIZONS

Name = tuple[str, Precision]
"""A preset, with what a variant changes in it, and an arithmetic."""

VARIANT = "loss.followers=5 auxiliary_hidden=256"
"""An example of what a variant changes."""


class BenchTimeToErrorConfig(Frozen):
    """Options of :func:`bench_time_to_error`."""

    fits: tuple[str, ...] = Field(("laptop", "demo", "paper", "reference"), min_length=1)
    """Presets; those that take the fastest arithmetic are fitted in every one this device has, others in float32."""
    variants: tuple[str, ...] = ()
    """Changes of the first preset, ``KEY=VALUE KEY=VALUE`` each, that are fitted beside it."""
    horizons: tuple[int, ...] = Field((100, 368), min_length=1)
    """Control steps up to which the error is taken."""
    marks: tuple[float, ...] = (0.3, 0.5)
    """Relative L1 to pass at each horizon."""
    minutes: float = Field(30.0, gt=0)
    """No fit takes longer."""
    updates: int | None = Field(None, ge=1)
    """Of the longest fits; None is what each preset has."""
    points: int | None = Field(None, ge=1)
    """Fits of a curve at most, the longest ones; None is as many as have ``fewest`` updates."""
    fewest: int = Field(70, ge=1)
    """Updates that a preset's first fit has at least, where the preset has as many."""
    windows: int = Field(256, ge=1)
    """Held-out trajectories, the same for all."""
    normalizer: NormalizerKind = "fitted"
    pace: int = Field(6400, ge=1)
    """Windows whose updates, two at least, tell the speed of a preset in an arithmetic."""
    seed: int = 0
    seeds: int = Field(1, ge=1)
    """Fits of a point, from ``seed`` on; curves are their means."""
    device: str = "auto"

    @field_validator("horizons")
    @classmethod
    def _known(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not set(value) <= set(HORIZONS):
            raise ValueError(f"a fit tells the error up to {', '.join(map(str, HORIZONS))}")
        return value

    @model_validator(mode="after")
    def _a_mark_for_each(self) -> BenchTimeToErrorConfig:
        if len(self.marks) != len(self.horizons):
            raise ValueError(f"{len(self.marks)} marks for {len(self.horizons)} horizons")
        return self


def bench_time_to_error(
    home: Home,
    dataset: Dataset,
    config: BenchTimeToErrorConfig | None = None,
    path: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit every preset with ever more updates until that would take too long; say when the error passed each mark.

    The clock runs in updates alone: the error is taken on the val split when a fit is over, and nothing is chosen by
    it. The fits are model runs of ``home``: finished ones of the same configuration are taken as they are, broken ones
    are resumed, so the benchmark can be interrupted. What an update takes is measured first, by short fits of all that
    take turns: the fits themselves may be made beside other work, or elsewhere.

    Args:
        home: Where the fits go.
        dataset: The rows, the same for all.
        config: What is fitted.
        path: Where the curves are drawn, PNG; None draws none.
        progress: Called after every fit.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...], "points": [{preset, precision, updates, seed, minutes,
        rel_l1_h<h>...}, ...]}``. The baseline of another arithmetic is float32 in the same preset, that of a variant
        the preset it changes, in the same arithmetic. Minutes are None where a mark was not passed.

    Raises:
        RwmError: A preset or a variant is unknown, or held-out episodes are too short for a horizon.
    """
    config = config or BenchTimeToErrorConfig()
    points: list[dict[str, Any]] = []
    kinds = fits_of(config)
    refuse_short(dataset, max(fit.history for fit in kinds.values()) + max(config.horizons))
    seconds = paces(dataset, kinds, config.pace)
    plans = [
        (name, alike(fit, updates, config.seed + k))
        for name, fit in kinds.items()
        for updates in lengths(fit.updates, config.fewest, config.points, int(config.minutes * 60 / seconds[name]))
        for k in range(config.seeds)
    ]
    for name, fit in plans:
        minutes = fit.updates * seconds[name] / 60
        points.append(point_of(fitted(home, dataset, fit), name, minutes, config.horizons))
        progress(len(points), len(plans), {"minutes": minutes})
    curves = {h: curves_of(points, h) for h in config.horizons}
    if path:
        panels = [
            Panel(f"up to h = {h}", "held-out relative L1", mark, list(curves[h].values()))
            for h, mark in zip(config.horizons, config.marks, strict=True)
        ]
        draw_over_minutes(path, f"{dataset.name}: every point is a whole fit", panels, log=True)
    settings: dict[str, str | int] = {"dataset": dataset.name, "device": str(resolve_device(config.device))}
    rows = rows_of(curves, config)
    return {**content_of("time-to-error", rows, **settings, threads=torch.get_num_threads()), "points": points}


def fits_of(config: BenchTimeToErrorConfig) -> dict[Name, FitConfig]:
    """Return the longest fit of every preset and variant, in each of its arithmetics.

    Raises:
        RwmError: A preset, or an option of a variant, is unknown.
    """
    device, first, fits = resolve_device(config.device), config.fits[0], {}
    common = {"normalizer": config.normalizer, "val_windows": config.windows, "device": config.device}
    common |= {"updates": config.updates} if config.updates else {}
    for preset, variant in [(first, ""), *((first, v) for v in config.variants), *((p, "") for p in config.fits[1:])]:
        usual = build(FitConfig, preset, common, read_settings(variant.split(), f"--variant '{VARIANT}'"))
        own = usual.precision == "auto"
        precisions: tuple[Precision, ...] = ("float32", *(reduced_precisions(device) if own else ()))
        for precision in precisions:
            fits[f"{preset} {variant}".strip(), precision] = usual.model_copy(update={"precision": precision})
    return fits


def alike(fit: FitConfig, updates: int, seed: int) -> FitConfig:
    """Return a fit of another length and seed, which is scored at its end."""
    return fit.model_copy(update={"updates": updates, "val_interval": updates, "seed": seed})


def paces(dataset: Dataset, fits: Mapping[Name, FitConfig], windows: int) -> dict[Name, float]:
    """Return the seconds an update of each fit takes: the faster of two short ones of so many windows, in turns."""
    fastest = dict.fromkeys(fits, math.inf)
    with tempfile.TemporaryDirectory() as folder:
        for _, (name, fit) in product(range(2), fits.items()):
            short = alike(fit, max(2, windows // fit.batch), fit.seed).model_copy(update={"val_windows": 1})
            speed = fit_model(Home(Path(folder)), dataset, short).meta.summary["windows_per_second"]
            fastest[name] = min(fastest[name], fit.batch / speed)
    return fastest


def lengths(updates: int, fewest: int, points: int | None = None, most: int | None = None) -> list[int]:
    """Return ``updates``, halved until they are ``most`` or one, then as long as ``fewest`` are left, in rising order.

    Of ``points`` the longest are kept.
    """
    halved = [updates]
    while most is not None and halved[0] > max(most, 1):
        halved[0] //= 2
    while halved[-1] // 2 >= fewest and len(halved) != points:
        halved.append(halved[-1] // 2)
    return halved[::-1]


def refuse_short(dataset: Dataset, needed: int) -> None:
    """Check that the val split has an episode of so many rows.

    Raises:
        RwmError: It has none.
    """
    longest = int(dataset.split_bounds("val")[1].max(initial=0))
    if longest < needed:
        fault = f"'{dataset.name}' has no held-out episode of {needed} rows, history and horizon"
        raise RwmError(f"{fault}; the longest has {longest}.", "a dataset with longer episodes")


def point_of(run: Run, name: Name, minutes: float, horizons: Iterable[int]) -> dict[str, Any]:
    """Return what a fit reached, and the minutes its updates take."""
    summary, (preset, precision) = run.meta.summary, name
    of = {"preset": preset, "precision": precision, "updates": summary["updates"], "seed": run.meta.seed}
    return of | {"minutes": minutes} | {f"rel_l1_h{h}": summary[f"val/rel_l1_h{h}"] for h in horizons}


def curves_of(points: list[dict[str, Any]], horizon: int) -> dict[Name, Curve]:
    """Return the error up to a horizon over minutes, for every preset and arithmetic, both as means over seeds."""
    curves = {}
    for name in dict.fromkeys((p["preset"], p["precision"]) for p in points):
        of_updates: dict[int, list[dict[str, Any]]] = {}
        for point in points:
            if (point["preset"], point["precision"]) == name:
                of_updates.setdefault(point["updates"], []).append(point)
        minutes, values = (
            tuple(fmean(p[key] for p in alike) for alike in of_updates.values())
            for key in ("minutes", f"rel_l1_h{horizon}")
        )
        curves[name] = Curve(", ".join(name), minutes, values)
    return curves


def rows_of(curves: dict[int, dict[Name, Curve]], config: BenchTimeToErrorConfig) -> list[BenchRow]:
    """Return when each curve passes each mark, and the best error it came to."""
    rows = []
    for horizon, mark in zip(config.horizons, config.marks, strict=True):
        for (preset, precision), curve in curves[horizon].items():
            varied = next((v for v in config.variants if preset == f"{config.fits[0]} {v}"), None)
            of = (config.fits[0], precision) if varied else (preset, "float32")
            exact = curves[horizon].get(of) if of != (preset, precision) else None
            passed = (curve.until(mark), exact.until(mark) if exact else None)
            rows.append(BenchRow(f"{curve.name}: until h = {horizon} is below {mark:g}", passed[0], "min", passed[1]))
            reached = (curve.values[-1], exact.values[-1] if exact else None)
            longest = f"{curve.name}: h = {horizon} after {curve.minutes[-1]:.1f} min"
            rows.append(BenchRow(longest, reached[0], "relative L1", reached[1]))
    return rows
