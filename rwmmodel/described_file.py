"""Networks as safetensors files with a JSON description inside: what model files and policy files have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError

LFS_MARK = b"version https://git-lfs"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON object, then the object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def save_described(path: Path, network: nn.Module, key: str, description: dict[str, Any]) -> None:
    """Write a network's tensors and, under ``key``, its description to one file, atomically."""
    # Cloned, because a GPU keeps a recurrent net's weights in one shared block, which the format refuses.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    # One key only: the format does not keep the order of several, and equal networks should be equal files.
    packed = save(tensors, {key: json.dumps(description)})
    commit_file(path, lambda p: p.write_bytes(packed))


def refuse_missing(path: Path, what: str, hint: str) -> None:
    """Refuse a file that is not there, or of which only a pointer is.

    Raises:
        RwmError: The file (a ``what``) is missing, then with ``hint``, or a Git LFS pointer.
    """
    if not path.is_file():
        raise RwmError(f"There is no {what} file {path}.", hint)
    with path.open("rb") as file:
        if file.read(len(LFS_MARK)) == LFS_MARK:
            text = f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the {what} itself."
            raise RwmError(text, f"git lfs pull --include {path.name}")


def read_described(path: Path, what: str, hint: str) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Read a safetensors file.

    Args:
        path: The file.
        what: Kind of file for errors, ``model`` or ``policy``.
        hint: What to try when it is missing.

    Returns:
        Its metadata and its tensors; None for a file of another format.

    Raises:
        RwmError: The file is missing or a Git LFS pointer.
    """
    refuse_missing(path, what, hint)
    try:
        with safe_open(path, framework="pt") as content:
            return content.metadata() or {}, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
