"""Model files (safetensors with a description inside) and the state that a fit resumes from."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from rwmdata.atomic import commit_file
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.runs import state_before
from rwmdata.text import quoted
from rwmmodel.calibration_factors import Calibration
from rwmmodel.described_file import filled, is_safetensors, read_described, refuse_damaged, save_described
from rwmmodel.devices import resolve_device, use_precision
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.torch_file import read_torch

FORMAT = "rwm-dynamics-ensemble-1"
METADATA_KEY = "rwm_model"
POLICY_PREFIXES = ("actor.", "critic.", "rwm_policy")
"""Prefixes of keys in policy files: the authors', rsl_rl's and ours."""
WORLD_MODEL = "system_dynamics_state_dict"
"""Where the reference's checkpoints keep the world model."""
LOG = logging.getLogger(__name__)
ORIGIN = TypeAdapter(ModelInfo)
WANTED = "a checkpoints/model.safetensors written by 'rwm fit'"


def save_model(model: DynamicsEnsemble, path: Path) -> None:
    """Write weights, normaliser, architecture, origin and calibration of a model to one file, atomically."""
    description = {
        "format": FORMAT,
        "config": model.config.model_dump(mode="json"),
        "info": asdict(model.info) if model.info else None,
        "calibration": model.calibration.model_dump(mode="json") if model.calibration else None,
    }
    save_described(path, model, METADATA_KEY, description)


def is_model(path: Path) -> bool:
    """Whether a file was written by :func:`save_model`."""
    content = read_described(path, "model", "rwm fit") if is_safetensors(path) else None
    return content is not None and METADATA_KEY in content[0]


def load_model(path: str | Path, device: str | torch.device = "cpu") -> DynamicsEnsemble:
    """Load a model written by :func:`save_model`, in evaluation mode and with float32 arithmetic.

    Raises:
        RwmError: The file is missing, a Git LFS pointer, a policy, a reference checkpoint or no model of this toolkit.
    """
    path = Path(path)
    target = resolve_device(device) if isinstance(device, str) else device
    content = read_described(path, "model", "rwm fit, or rwm runs ls")
    if content is None:
        raise _explain_foreign(path)
    metadata, tensors = content
    if METADATA_KEY not in metadata:
        raise RwmError(f"{path} {_describe({**metadata, **tensors})}.", WANTED)
    try:
        model = _build(json.loads(metadata[METADATA_KEY]), tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:  # A description nested too deeply is the last.
        raise RwmError(f"The description inside {path} is damaged: {one_line(exc)}.", WANTED) from exc
    use_precision("float32", target)
    return model.to(target).eval()


def _build(description: dict[str, Any], tensors: Mapping[str, Tensor]) -> DynamicsEnsemble:
    """Return the model with the described architecture, origin and calibration, and these tensors."""
    if description["format"] != FORMAT:
        raise ValueError(f"format '{description['format']}', expected '{FORMAT}'")
    info = None if description["info"] is None else ORIGIN.validate_python(description["info"])
    config = EnsembleConfig(**description["config"])
    sizes = [*config.mlp_hidden, *(value for value in config.model_dump().values() if isinstance(value, int))]
    parts = config.layers * (1 if config.shared_base else config.members)
    model = filled(lambda: DynamicsEnsemble(config, info=info), sizes, parts, tensors)
    if description.get("calibration") is not None:
        model.calibration = Calibration(**description["calibration"])
    return model


def _describe(content: Mapping[str, object]) -> str:
    """Return what a file with these top-level keys is, when it is not one of our models."""
    if WORLD_MODEL in content:
        return (
            "is a reference checkpoint: its model_state_dict is the POLICY, its system_dynamics_state_dict the world "
            "model; a model file of this toolkit is expected here"
        )
    nested = content.get("model_state_dict")
    keys = nested if isinstance(nested, dict) else content
    if "actor_state_dict" in content or any(str(key).startswith(POLICY_PREFIXES) for key in keys):
        return "holds a policy, but a world model is expected here"
    return f"is not a world model of this toolkit (first keys: {', '.join(sorted(map(str, content))[:3]) or 'none'})"


def _explain_foreign(path: Path) -> RwmError:
    """Return the error for a file that is not safetensors, after looking inside without running its code."""
    try:
        content = read_torch(path, "world model", WANTED)
    except RwmError as exc:
        reason = exc.message.removeprefix(f"{path} ").removesuffix(".")
        return RwmError(f"{path} is not a world model of this toolkit: it {reason}.", WANTED)
    hint = f"rwm model import {quoted(path)}" if WORLD_MODEL in content else WANTED
    return RwmError(f"{path} {_describe(content)}.", hint)


@dataclass
class FitState:
    """Progress of a fit besides its weights; all draws are functions of (seed, update), so no generator is saved."""

    step: int = 0
    """Updates done."""
    validated: int = 0
    """Update of the last validation."""
    best: dict[str, float] = field(default_factory=dict)
    """Held-out metrics of the best validation."""
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""
    seconds: float = 0.0
    """Time spent in updates."""


def save_fit_state(path: Path, state: FitState, weights: dict[str, Tensor], optimizer_state: dict[str, Any]) -> None:
    """Write everything a resumed fit needs to one file, atomically; the state before is kept beside it."""
    save_resumable(path, {"fit": asdict(state), "model": weights, "optimizer": optimizer_state})


def load_fit_state(path: Path, device: torch.device) -> tuple[FitState, dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_fit_state` wrote, see :func:`load_resumable`.

    Raises:
        RwmError: Neither state is one of a fit.
    """
    content = load_resumable(path, device)
    try:
        return FitState(**content["fit"]), content["model"], content["optimizer"]
    except (KeyError, TypeError) as exc:
        raise RwmError(f"{path} is not a fit state to resume from: {one_line(exc)}.", "rwm fit") from exc


def save_resumable(path: Path, content: Mapping[str, object]) -> None:
    """Write a state that a run resumes from, atomically; the state before is kept beside it."""
    before = state_before(path)
    if path.exists():
        commit_file(before, lambda p: _link(path, p))
    save_state(path, content)


def load_resumable(path: Path, device: torch.device) -> dict[str, Any]:
    """Read the newest state that :func:`save_resumable` wrote; where it is damaged, the one before, and say so.

    Raises:
        RwmError: Neither can be read.
    """
    try:
        return load_state(path, device)
    except RwmError as exc:
        before = state_before(path)
        if not before.exists():
            raise
        content = load_state(before, device)
        commit_file(path, lambda p: _link(before, p))  # Or the next save would keep the damaged one.
        LOG.warning("%s The run goes on from the state before it, %s.", exc.message, before.name)
        return content


def _link(path: Path, link: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)


def save_state(path: Path, content: Mapping[str, object]) -> None:
    """Write tensors and plain values to one file, atomically; equal content gives equal files."""
    packed = io.BytesIO()
    torch.save(content, packed)
    commit_file(path, lambda p: p.write_bytes(packed.getbuffer()))


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, unpickling tensors and plain values only; its checksums are compared.

    Raises:
        RwmError: The file is damaged or of another kind.
    """
    refuse_damaged(path, "checkpoint")
    try:
        return dict(torch.load(path, map_location=device, weights_only=True))
    except Exception as exc:  # Arbitrary bytes make the unpickler raise anything.
        raise unreadable(path, exc) from exc


def unreadable(path: Path, exc: Exception) -> RwmError:
    """Return the error for a checkpoint that cannot be read or does not fit."""
    return RwmError(f"The checkpoint {path} cannot be read: {type(exc).__name__}.", "start a new run")
