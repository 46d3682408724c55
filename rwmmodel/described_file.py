"""Networks as safetensors files with a JSON description inside: the common part of model and policy files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rwmdata.atomic import commit_file
from rwmdata.checksums import CHECKSUM, damage_of, safetensors_checksum
from rwmdata.errors import RwmError
from rwmdata.text import quoted

LFS_MARK = b"version https://git-lfs"
MOST_NAMED = 3
"""Tensors that are named in an error."""
Network = TypeVar("Network", bound=nn.Module)


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors do: the length of a JSON object, then the object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def save_described(path: Path, network: nn.Module, key: str, description: Mapping[str, object]) -> None:
    """Write a network's tensors and, under ``key``, its description with a checksum of both to one file, atomically."""
    # Cloned, because on a GPU a recurrent net's weights share one block of memory, which the format refuses.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    # One key only: the format does not keep the order of several, and equal networks should give equal files.
    checksum = safetensors_checksum(save(tensors, {key: json.dumps(description)}))
    packed = save(tensors, {key: json.dumps({**description, CHECKSUM: checksum})})
    commit_file(path, lambda p: p.write_bytes(packed))


def refuse_missing(path: Path, what: str, hint: str) -> None:
    """Refuse a ``what`` file that is missing, which gives ``hint``, or a mere Git LFS pointer.

    Raises:
        RwmError: The file is one of these.
    """
    if not path.is_file():
        raise RwmError(f"There is no {what} file {path}.", hint)
    with path.open("rb") as file:
        if file.read(len(LFS_MARK)) == LFS_MARK:
            text = f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the {what} itself."
            raise RwmError(text, f"git lfs pull --include {quoted(path.name)}")


def refuse_damaged(path: Path, what: str) -> None:
    """Refuse a ``what`` file that carries checksums and is not as it was written.

    Raises:
        RwmError: It is damaged, or cannot be read.
    """
    try:
        damage = damage_of(path)
    except OSError as exc:
        raise RwmError(f"Cannot read the {what} file {path}: {exc.strerror}.", "rwm runs ls") from exc
    if damage:
        raise RwmError(
            f"The {what} file {path} {damage}.", "a copy of it, or a new run; rwm data fsck checks the others"
        )


def read_described(path: Path, what: str, hint: str) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Return the metadata and the tensors of a safetensors file; None for a file of another format.

    Raises:
        RwmError: The file is missing or a Git LFS pointer, see :func:`refuse_missing`, or its checksum is another.
    """
    refuse_missing(path, what, hint)
    refuse_damaged(path, what)
    try:
        with safe_open(path, framework="pt") as content:
            return content.metadata() or {}, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except SafetensorError:
        return None


def filled(make: Callable[[], Network], sizes: Iterable[int], parts: int, tensors: Mapping[str, Tensor]) -> Network:
    """Return a network with the tensors of a file; what it says of its sizes is compared before it takes memory.

    Args:
        make: Makes the network, untrained, from the file's description.
        sizes: The numbers in the description that the network's size depends on.
        parts: Layers it has at least, each with a tensor of its own.
        tensors: By name.

    Raises:
        ValueError: The tensors are not those of the network, or hold what is no number.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    if parts > len(tensors):
        raise ValueError(f"it claims {parts} layers and holds {len(tensors)} tensors")
    if beyond := [size for size in sizes if size > held]:
        raise ValueError(f"it claims a size of {max(beyond)} and holds {held} numbers")
    with torch.device("meta"):  # Tensors without memory.
        wanted = {name: tensor.shape for name, tensor in make().state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    if wrong := [name for name in sorted({*wanted, *given}) if wanted.get(name) != given.get(name)]:
        more = " ..." if len(wrong) > MOST_NAMED else ""
        raise ValueError(f"its tensors do not fit its description: {', '.join(wrong[:MOST_NAMED])}{more}")
    network = make()
    network.load_state_dict(dict(tensors))
    if unusable := [name for name, value in network.named_parameters() if not bool(torch.isfinite(value).all())]:
        raise ValueError(f"its weights are not finite: {unusable[0]}")
    if unusable := [name for name, value in network.named_buffers() if bool(torch.isnan(value).any())]:
        raise ValueError(f"it holds what is no number: {unusable[0]}")
    return network
