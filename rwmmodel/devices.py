"""Which device and which arithmetic a model runs on."""

from __future__ import annotations

from typing import Literal

import torch

from rwmdata.errors import RwmError

Precision = Literal["float32", "bfloat16"]
"""Arithmetic of the recurrent bases' matrix products; heads, residual, loss and optimiser are always float32."""


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
        RwmError: ``bfloat16`` on such a device.
    """
    if precision == "float32":
        return
    on_cuda = device.type == "cuda"
    if torch.cuda.is_bf16_supported() if on_cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    raise RwmError(f"Device '{device.type}' has no bfloat16 arithmetic on this machine.", "--precision float32")
