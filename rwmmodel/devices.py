"""Which device and which arithmetic a model runs on."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, get_args

import torch

from rwmdata.errors import RwmError

Precision = Literal["float32", "tf32", "bfloat16"]
"""Arithmetic of matrix products. ``bfloat16`` applies to the bases and, in PPO's updates, to hidden layers alone:
heads, residual, last layers, loss and optimiser stay in float32. ``tf32`` applies everywhere: CUDA's float32 with
10-bit mantissas in products."""
PrecisionChoice = Precision | Literal["auto"]
"""An arithmetic, or ``auto``: the fastest here, see :func:`rwmmodel.fastest.settled`."""
RESUMED_ELSEWHERE = "rwm runs resume where it began, or a new run in float32"
"""What to do about a run whose arithmetic this machine lacks."""
TF32_CAPABILITY = (8, 0)
"""Compute capability of the first CUDA devices with TF32 (Ampere)."""


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` picks CUDA where available, else the CPU.

    Raises:
        RwmError: The name is not that of a device, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise RwmError(f"Unknown device '{name}'; devices: auto, cpu, cuda, cuda:N.", "--device auto") from exc
    if device.type not in ("cpu", "cuda"):
        raise RwmError(f"Device '{name}' is not supported; devices: auto, cpu, cuda, cuda:N.", "--device auto")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"torch {torch.__version__} sees {count} CUDA devices here"
        raise RwmError(f"Device '{name}' was asked for, but {seen}.", "--device cpu")
    return device


def require_precision(precision: Precision, device: torch.device, hint: str = "--precision float32") -> None:
    """Refuse an arithmetic that the hardware of ``device`` lacks; ``hint`` says what to do then.

    A CPU without AMX or AVX-512 BF16 emulates bfloat16 products about a hundred times slower than float32 ones.

    Raises:
        RwmError: ``bfloat16`` on such a device, or ``tf32`` on any but a CUDA device of at least Ampere's generation.
    """
    on_cuda, supported = device.type == "cuda", True
    if precision == "tf32":
        supported = on_cuda and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY
    elif precision == "bfloat16":
        supported = torch.cuda.is_bf16_supported() if on_cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not supported:
        kind = precision.replace("tf32", "TF32")
        raise RwmError(f"Device '{device.type}' has no {kind} arithmetic on this machine.", hint)


def use_precision(precision: Precision, device: torch.device) -> None:
    """Set this process's arithmetic on CUDA devices; ``bfloat16`` is set per base, by its ``precision``.

    By default torch lets cuDNN compute float32 recurrences in TF32; here ``float32`` means float32.

    Raises:
        RwmError: See :func:`require_precision`.
    """
    require_precision(precision, device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def reduced_precisions(device: torch.device) -> list[Precision]:
    """Return the arithmetics below float32 that ``device`` supports."""
    supported: list[Precision] = []
    for precision in get_args(Precision)[1:]:
        with suppress(RwmError):
            require_precision(precision, device)
            supported.append(precision)
    return supported
