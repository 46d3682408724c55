"""Files of ``torch.save`` read as data: tensors and plain values. Code inside a file is named and never run."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmmodel.described_file import refuse_damaged, refuse_missing

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What ``torch.compile``, data-parallel training and checkpointed activations put into the names of tensors."""
COUNTERS = ("n_averaged",)
"""What an averaged model keeps beside its weights."""
NUMBERS = re.compile(r"[biuf][1248]")
"""NumPy types that are read: booleans, integers and floats."""
CODE = re.compile(r"GLOBAL (\S+) was not an allowed global")
TOO_DEEP = 100
"""Levels of dicts and lists that no checkpoint has."""
MOST_VALUES = 200_000
"""Values in a file, each counted as often as it is named."""
MOST_SHARED = 8
"""Tensors may take so many times the size of their file, where they share memory."""


class _Kind:
    """Stands in for ``numpy.dtype`` while a file is read, so that nothing of NumPy is called with what is in it."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype[Any]:
        """Return the type, if it is one of numbers."""
        if not NUMBERS.fullmatch(self.code):
            raise ValueError(f"NumPy values of type {self.code}")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """Stands in for ``numpy.ndarray``."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> Tensor:
        """Return its numbers."""
        _, shape, kind, by_column, content = self.state
        values = np.frombuffer(content, kind.dtype()).reshape(shape, order="F" if by_column else "C")
        return torch.from_numpy(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))


def _scalar(kind: _Kind, content: bytes) -> float | int | bool:
    return np.frombuffer(content, kind.dtype())[0].item()


def _array(*_: object) -> _Array:
    return _Array()


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Kind, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def read_torch(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Return what a file of ``torch.save`` holds: dicts and lists of tensors, on the CPU, numbers and texts.

    Numbers and arrays of NumPy, which trainers leave beside the weights, become Python numbers and tensors.

    Args:
        path: The file.
        what: What it should be, for messages: "checkpoint".
        hint: What gives one.

    Raises:
        RwmError: The file is missing, a Git LFS pointer, damaged, a TorchScript program or no dict, or it holds
            objects that only their own code could restore.
    """
    refuse_missing(path, what, hint)
    if _is_cut_off(path):
        raise RwmError(f"{path} is cut off: its end is missing.", hint)
    refuse_damaged(path, what)
    if is_torchscript(path):
        raise RwmError(f"{path} is a TorchScript program, not a {what}.", hint)
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            content = _Plain(path.stat().st_size).of(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as exc:  # Arbitrary bytes make the unpickler raise anything.
        raise RwmError(f"{path} {_reason(path, exc)}.", hint) from exc
    if not isinstance(content, dict):
        raise RwmError(f"{path} holds a {type(content).__name__}, not a {what}.", hint)
    return content


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with a program in it."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.fullmatch(r"[^/]+/code/.*\.py|[^/]+/constants\.pkl", name) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, struct.error, ValueError):
        return False


def unwrapped(weights: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the floating-point tensors of a state dict as float32, without the names of what wrapped the network.

    A compiled network's tensors are called ``_orig_mod.layer.weight``, those of a data-parallel one
    ``module.layer.weight``, and those of a network inside another one have its name before theirs.
    """
    own = {}
    for key, value in weights.items():
        if isinstance(value, Tensor) and key not in COUNTERS:
            name = ".".join(part for part in str(key).split(".") if part not in WRAPPERS)
            own[name] = value.float() if value.is_floating_point() else value
    return own


def contents(content: Mapping[Any, Any]) -> str:
    """Say in a few words what a checkpoint without the wanted network holds."""
    if not content:
        return "is empty"
    states = [str(k) for k, v in content.items() if isinstance(v, Mapping) and {"state", "param_groups"} <= v.keys()]
    if {"state", "param_groups"} <= content.keys():
        return "is the state of an optimiser alone"
    tensors = any(isinstance(v, Tensor) for v in content.values())
    if states and not tensors and not any(_tensors(v) for k, v in content.items() if str(k) not in states):
        return f"holds the state of an optimiser ({', '.join(states)}) and no network"
    return f"has the keys {', '.join(map(str, list(content)[:5]))}{' ...' if len(content) > 5 else ''}"


def _tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def _is_cut_off(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path)


def _reason(path: Path, exc: Exception) -> str:
    """Say why a file cannot be read."""
    if code := CODE.search(str(exc)):
        return f"holds {code[1]}, which only code could restore; save state_dict() and plain values"
    if isinstance(exc, RefusedError):
        return f"is refused: {exc}"
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page; the download went wrong"
    return f"is not a torch file of tensors: {type(exc).__name__}"


class RefusedError(ValueError):
    """What a file holds that no checkpoint does."""


class _Plain:
    """Copies what a file holds, with NumPy's stand-ins replaced; refused is what takes much more than the file does.

    Args:
        size: Of the file, bytes.
    """

    def __init__(self, size: int) -> None:
        self.values, self.room = MOST_VALUES, MOST_SHARED * size

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return a value as tensors, dicts, lists, numbers and texts.

        Raises:
            RefusedError: It is nested too deeply, or holds more than its file.
        """
        self.values -= 1
        if depth > TOO_DEEP or self.values < 0:
            raise RefusedError("it is nested too deeply, or holds the same parts over and over")
        if isinstance(value, _Array):
            return value.tensor()
        if isinstance(value, Tensor):
            return self.whole(value)
        if isinstance(value, Mapping):
            return {k: self.of(v, depth + 1) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.of(v, depth + 1) for v in value)
        return value

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor whose numbers are all in the file; a shape costs nothing to claim."""
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise RefusedError("it holds a tensor that is not a plain one")
        size = tensor.numel() * tensor.element_size()
        self.room -= size
        if size > tensor.untyped_storage().nbytes() or self.room < 0:
            raise RefusedError("it holds a tensor that is larger than its content")
        return tensor.detach()
