"""Snapshots of what an environment remembers: tensors and plain values that a resumed training puts back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Snapshot = dict[str, Any]
"""Tensors, numbers, strings, None, and lists and dicts of them: what ``torch.load(weights_only=True)`` reads."""


def copies(owner: object, names: Iterable[str]) -> Snapshot:
    """Return copies of the tensors that are ``owner``'s attributes ``names``."""
    return {name: getattr(owner, name).clone() for name in names}


def put_back(owner: object, names: Iterable[str], saved: Snapshot) -> None:
    """Replace ``owner``'s tensors ``names`` by copies of those that :func:`copies` returned, on their device.

    Raises:
        ValueError: One has another shape.
    """
    for name in names:
        setattr(owner, name, like(getattr(owner, name), saved[name]))


def like(own: Tensor, saved: Tensor) -> Tensor:
    """Return a copy of ``saved`` on the device of ``own``.

    Raises:
        ValueError: It has another shape.
    """
    if own.shape != saved.shape:
        raise ValueError(f"shape {tuple(saved.shape)}, expected {tuple(own.shape)}")
    return saved.to(own.device, copy=True)


def rewind(generator: torch.Generator, saved: Tensor) -> None:
    """Let a generator go on from what its ``get_state`` returned, wherever that was loaded to."""
    generator.set_state(saved.cpu())
