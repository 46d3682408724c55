"""How much of the machine's matrix speed a computation uses."""

from __future__ import annotations

from collections.abc import Callable

import torch

from reports.bench.measure import BenchRow, timed
from rwmmodel.devices import Precision, use_precision
from rwmmodel.ensemble import EnsembleConfig

PEAK_SIZE = 2048


def seconds_on(device: torch.device, call: Callable[[], object]) -> float:
    """Return the seconds a call takes, what it queued on a GPU included."""
    return timed(call, lambda: torch.cuda.synchronize(device) if device.type == "cuda" else None)


def share_of_peak(name: str, flops: float, device: torch.device, precision: Precision) -> BenchRow:
    """Return floating point operations a second beside those of a large square product in the same precision."""
    return BenchRow(f"{name}share of the matrix peak", flops / 1e9, "GFLOP/s", matrix_peak(device, precision) / 1e9)


def matrix_peak(device: torch.device, precision: Precision) -> float:
    """Return the floating point operations a second of a large square product."""
    use_precision(precision, device)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(kind) for _ in range(2))
    return 2 * PEAK_SIZE**3 / min(seconds_on(device, lambda: a @ b) for _ in range(5))


def recurrent_flops(config: EnsembleConfig) -> int:
    """Return the floating point operations of one step of a GRU base's products."""
    inputs = config.state_dim + config.action_dim + config.hidden
    return 2 * 3 * config.hidden * (inputs + (config.layers - 1) * 2 * config.hidden)
