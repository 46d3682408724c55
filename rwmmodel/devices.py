"""Which device and which arithmetic a model runs on."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, get_args

import torch

from rwmdata.errors import RwmError

Precision = Literal["float32", "tf32", "bfloat16"]
"""Arithmetic of matrix products. ``bfloat16`` is that of the bases alone: heads, residual, loss and optimiser stay in
float32. ``tf32`` is CUDA's float32 with products of 10 bits, everywhere."""
TF32_CAPABILITY = (8, 0)
"""The first CUDA devices with units for TF32 (Ampere)."""


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes CUDA where there is one, else the CPU.

    Raises:
        RwmError: The name is not a device, or that device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise RwmError(f"Unknown device '{name}'; devices: auto, cpu, cuda, cuda:N.", "--device auto") from exc
    if device.type not in ("cpu", "cuda"):
        raise RwmError(f"Device '{name}' is not supported; devices: auto, cpu, cuda, cuda:N.", "--device auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RwmError(
            f"Device '{name}' was asked for, but this machine shows {torch.cuda.device_count()} CUDA devices "
            f"to torch {torch.__version__}.",
            "--device cpu",
        )
    return device


def require_precision(precision: Precision, device: torch.device) -> None:
    """Refuse an arithmetic that ``device`` has no units for.

    A CPU without AMX or AVX-512 BF16 emulates bfloat16 products about a hundred times slower than float32 ones.

    Raises:
        RwmError: ``bfloat16`` on such a device, or ``tf32`` on any but a CUDA device of at least Ampere's generation.
    """
    on_cuda = device.type == "cuda"
    if precision == "float32":
        return
    if precision == "tf32":
        if on_cuda and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY:
            return
        raise RwmError(f"Device '{device.type}' has no TF32 arithmetic on this machine.", "--precision float32")
    if torch.cuda.is_bf16_supported() if on_cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    raise RwmError(f"Device '{device.type}' has no bfloat16 arithmetic on this machine.", "--precision float32")


def use_precision(precision: Precision, device: torch.device) -> None:
    """Set this process's arithmetic on CUDA devices; the bases are told of ``bfloat16`` by their ``precision``.

    By torch's defaults cuDNN computes float32 recurrences in TF32; here ``float32`` is float32.

    Raises:
        RwmError: See :func:`require_precision`.
    """
    require_precision(precision, device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def reduced_precisions(device: torch.device) -> list[Precision]:
    """Return the arithmetics below float32 that ``device`` has units for."""
    found: list[Precision] = []
    for precision in get_args(Precision)[1:]:
        with suppress(RwmError):
            require_precision(precision, device)
            found.append(precision)
    return found
