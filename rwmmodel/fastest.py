"""Which arithmetic is fastest here: what ``precision: auto`` stands for, measured once and remembered on this machine.

Measured is a pass through a small model's base of the same layers: conversions and kernels count, not products alone.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from rwmdata.atomic import write_json
from rwmdata.errors import RwmError
from rwmdata.machine import processor
from rwmmodel.devices import Precision, PrecisionChoice, reduced_precisions, use_precision
from rwmmodel.ensemble import Architecture, EnsembleConfig, build_base
from rwmmodel.fit_config import UpdateConfig

CLEARLY = 1.3
"""So many times as fast as float32 must another arithmetic be to be taken."""
ROWS, PAIRS = 128, 8
"""Most rows and pairs of history of a measured pass: more take longer, at about the same ratio."""
ROUNDS, ENOUGH_S = 3, 0.5
"""Fewest passes in every arithmetic, the first not counted, and the time that is filled with more."""
LAYERS = ("base", "hidden", "layers", "attention_heads", "latent", "mlp_hidden")
"""Options of an architecture that the speed of its base depends on."""
DIMS = {"state_dim": 45, "action_dim": 12, "contact_dim": 8}
"""A robot of twelve joints stands for all: the base's width decides."""

Seconds = dict[Precision, float]
"""Seconds of a pass in every arithmetic that a device has, float32 first."""
Updating = TypeVar("Updating", bound=UpdateConfig)


def with_precision(config: Updating, device: torch.device) -> Updating:
    """Return the configuration of a model's updates with the arithmetic that is meant, see :func:`settled`."""
    return config.model_copy(update={"precision": settled(config.precision, config, config.batch, device)})


def settled(
    choice: PrecisionChoice, architecture: Architecture, rows: int, device: torch.device, learning: bool = True
) -> Precision:
    """Return the arithmetic that is meant: ``choice``, or for ``auto`` the fastest on this machine.

    Args:
        choice: What was asked for.
        architecture: Its base is measured.
        rows: Rows that it reads at a time: windows of a batch, or imagined robots.
        device: Where it runs.
        learning: Whether gradients are needed.
    """
    return fastest(pass_seconds(architecture, rows, device, learning)) if choice == "auto" else choice


def fastest(seconds: Seconds) -> Precision:
    """Return the arithmetic of the shortest pass, but float32 where that is not ``CLEARLY`` slower."""
    best = min(seconds, key=lambda precision: seconds[precision])
    return best if seconds["float32"] >= CLEARLY * seconds[best] else "float32"


def pass_seconds(architecture: Architecture, rows: int, device: torch.device, learning: bool = True) -> Seconds:
    """Return the seconds of a pass in every arithmetic of ``device``, measured or remembered; see :func:`settled`.

    A device with float32 alone is not measured, as there is nothing to choose from: its seconds are NaN.
    """
    precisions: tuple[Precision, ...] = ("float32", *reduced_precisions(device))
    if len(precisions) == 1:
        return {"float32": math.nan}
    own = {name: getattr(architecture, name) for name in LAYERS}
    config, rows = EnsembleConfig(**own, **DIMS, history=PAIRS), min(rows, ROWS)
    return dict(_remembered(_key(config, rows, device, learning), config, rows, device, learning, precisions))


@cache
def _remembered(
    key: str, config: EnsembleConfig, rows: int, device: torch.device, learning: bool, precisions: tuple[Precision, ...]
) -> Seconds:
    file = cache_file()
    if (known := _read(file).get(key)) is not None and set(known) == set(precisions):
        return {precision: known[precision] for precision in precisions}
    seconds = measure(config, rows, device, learning, precisions)
    if file:
        with suppress(RwmError):  # A cache that cannot be written is none.
            write_json(file, {**_read(file), key: seconds})
    return seconds


def measure(
    config: EnsembleConfig, rows: int, device: torch.device, learning: bool, precisions: tuple[Precision, ...]
) -> Seconds:
    """Return the seconds of the fastest of a few passes in every arithmetic: a history and its gradient, or a step.

    They take turns, so that whatever else the machine does slows all of them down.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    passes: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            work = {precision: _pass(config, rows, device, learning, precision) for precision in precisions}
            while len(passes["float32"]) < ROUNDS or sum(map(sum, passes.values())) < ENOUGH_S:
                for precision in precisions:
                    use_precision(precision, device)
                    passes[precision].append(_timed(work[precision], device))
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
    return {precision: min(seconds[1:]) for precision, seconds in passes.items()}


def _pass(
    config: EnsembleConfig, rows: int, device: torch.device, learning: bool, precision: Precision
) -> Callable[[], None]:
    base = build_base(config).to(device)
    base.precision = precision
    inputs = torch.randn(rows, config.history, config.state_dim + config.action_dim, device=device)
    with torch.no_grad():
        carry = base.encode(inputs, 0)[1]

    def learn() -> None:
        base.zero_grad()
        base.encode(inputs, 1)[0].sum().backward()

    def step() -> None:
        with torch.no_grad():
            base.step(inputs[:, -1], carry)

    return learn if learning else step


def _timed(call: Callable[[], None], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def _key(config: EnsembleConfig, rows: int, device: torch.device, learning: bool) -> str:
    """Return what a measurement depends on, in words."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    layers = ", ".join(f"{name} {getattr(config, name)}" for name in LAYERS)
    what = f"{layers}, {rows} rows, {'with' if learning else 'without'} gradient"
    return f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}: {what}"


def cache_file() -> Path | None:
    """Return the file of what was measured, in the user's cache; None where there is no place for one."""
    with suppress(RuntimeError):  # A user without a home.
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rwm" / "precision.json"
    return None


def _read(file: Path | None) -> dict[str, Seconds]:
    """Return what was measured before; nothing of a file that cannot be read."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        known = json.loads(file.read_text()) if file else {}
        return {key: seconds for key, seconds in known.items() if _is_measured(seconds)}
    return {}


def _is_measured(seconds: object) -> bool:
    values = list(seconds.values()) if isinstance(seconds, dict) else []
    return bool(values) and all(isinstance(value, float) and 0 < value < math.inf for value in values)
