"""Checkpoints of the authors' code in and out (``leggedrobotics/robotic_world_model``)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmmodel.checkpoint import POLICY_PREFIXES, save_state
from rwmmodel.described_file import refuse_missing
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.normalizer import Normalizer

WORLD_MODEL = "system_dynamics_state_dict"
POLICY = "model_state_dict"
STACKS = {
    "state_head.mean": "state_heads.{}.state_mean_layers",
    "state_head.log_std": "state_heads.{}.state_logstd_layers",
    "auxiliary_head.contact": "auxiliary_heads.{}.contact_layers",
    "auxiliary_head.termination": "auxiliary_heads.{}.termination_layers",
    "auxiliary_head.extension": "auxiliary_heads.{}.extension_layers",
}
"""Our stacked networks, and what one member's is called there."""
BOUNDS = {
    "state_head.min_log_std": "state_heads.{}.state_min_logstd",
    "state_head.log_delta": "state_heads.{}.state_log_delta_logstd",
}
LAYERS = {"weight_0": "0.weight", "bias_0": "0.bias", "weight_1": "2.weight", "bias_1": "2.bias"}
REFERENCE_BASES = ("gru", "lstm", "mlp")
"""Kinds of base whose names in the reference are known."""
OURS_ALONE = ("normalizer.", "state_low", "state_high")
"""What the reference keeps elsewhere, or has not: a bounded model loses its bounds there."""
GATES = {3: "gru", 4: "lstm"}
"""Rows of a recurrent weight per hidden unit."""


def import_reference(path: Path, robot: str = "anymal_d", history: int = 32) -> DynamicsEnsemble:
    """Read the world model of a reference checkpoint; nothing in the file is executed.

    Sizes, kind of base and number of members are read off the tensors. The file says neither the history nor the
    normaliser: the former is an argument, the latter the robot's own.

    Args:
        path: The checkpoint, or a file that holds the world model's state dict alone.
        robot: Whose columns and normaliser they are.
        history: History horizon M of a recurrent model, rows.

    Raises:
        RwmError: The file is missing, a Git LFS pointer, a policy, unreadable, or its tensors are not those of a world
            model of this robot.
    """
    weights = read_world_model(path)
    try:
        config = config_of(weights, history)
    except (KeyError, ValueError, IndexError) as exc:
        raise RwmError(f"{path} is no world model this toolkit knows: {exc}.") from exc
    spec = load_robot(robot)
    if config.extension_dim:
        schema = Schema.from_robot(spec, [f"{k}" for k in range(config.extension_dim)])
    else:
        schema = Schema.from_robot(spec)
    found = {"state": config.state_dim, "action": config.action_dim, "contact": config.contact_dim}
    wanted = {part: schema.dims[part] for part in found}
    if found != wanted:
        raise RwmError(f"{path} has {found} columns, {spec.title} {wanted}.", "--robot NAME")
    normalizer = Normalizer(config.state_dim, config.action_dim)
    if spec.normalizer.std:
        normalizer = Normalizer(config.state_dim, config.action_dim, *schema.normalizer(spec.normalizer))
    info = ModelInfo(spec.name, schema.csv_names, round(1 / spec.control_dt_s, 6), f"imported from {path.name}")
    model = DynamicsEnsemble(config, normalizer, info)
    try:
        ours = from_reference(weights, model.state_dict())
    except ValueError as exc:
        raise RwmError(f"The world model in {path} is not whole: {exc}.", "--robot NAME, --history M") from exc
    if not all(bool(torch.isfinite(tensor).all()) for tensor in ours.values()):
        raise RwmError(f"{path} holds weights that are not finite.")
    model.load_state_dict(ours)
    return model.eval()


def export_reference(model: DynamicsEnsemble, path: Path) -> None:
    """Write a model as a reference checkpoint: its world model, and empty places for what it has none of.

    Raises:
        RwmError: The model's members have bases of their own or priors, the reference's names for its kind of base are
            not known, or the folder cannot be written.
    """
    if not model.config.shared_base:
        raise RwmError("The reference's members share their bases; a model with shared_base off has no place there.")
    if model.config.prior_scale:
        raise RwmError(
            "The reference's members have no randomised priors; a model with prior_scale has no place there."
        )
    if model.config.base not in REFERENCE_BASES:
        raise RwmError(f"The reference's names for a base of kind {model.config.base} are not known here.")
    empty: dict[str, Any] = {POLICY: {}, "optimizer_state_dict": {}, "system_dynamics_optimizer_state_dict": {}}
    weights = to_reference({k: v.detach().cpu().clone() for k, v in model.state_dict().items()})
    save_state(path, {WORLD_MODEL: weights, **empty, "iter": 0, "infos": None})


def read_world_model(path: Path) -> dict[str, Tensor]:
    """Return the world model's tensors by the reference's names.

    Raises:
        RwmError: See :func:`import_reference`.
    """
    refuse_missing(path, "checkpoint", "rwm model import FILE")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # Arbitrary bytes fail in any way an unpickler can.
        raise RwmError(
            f"{path} is not a torch file of tensors: {type(exc).__name__}.", "a checkpoint saved by the reference code"
        ) from exc
    if not isinstance(content, Mapping):
        raise RwmError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    weights = content.get(WORLD_MODEL, content)
    if isinstance(weights, Mapping) and any(str(k).startswith("state_base.") for k in weights):
        return {str(k): v for k, v in weights.items() if isinstance(v, Tensor)}
    if POLICY in content or any(str(k).startswith(POLICY_PREFIXES) for k in content):
        raise RwmError(
            f"{path} holds a policy ({POLICY}) and no world model ({WORLD_MODEL}).",
            "a checkpoint of the reference's pretraining or fine-tuning tasks",
        )
    raise RwmError(f"{path} holds no world model; its keys: {', '.join(map(str, list(content)[:5]))}.")


def config_of(weights: Mapping[str, Tensor], history: int) -> EnsembleConfig:
    """Read an architecture off a reference world model's tensors.

    Raises:
        KeyError: A tensor is missing.
        ValueError: Two tensors contradict each other.
    """
    members = len({m[1] for k in weights if (m := re.match(r"state_heads\.(\d+)\.", k))})
    if members == 0:
        raise KeyError("state_heads.0")
    state = _of(weights, BOUNDS["state_head.min_log_std"].format(0)).shape[-1]
    head_hidden, features = _of(weights, "state_heads.0.state_mean_layers.0.weight").shape
    contact = _of(weights, "auxiliary_heads.0.contact_layers.2.weight").shape[0]
    extension = weights.get("auxiliary_heads.0.extension_layers.2.weight")
    sizes: dict[str, Any] = {
        "members": members,
        "state_dim": state,
        "head_hidden": head_hidden,
        "contact_dim": contact,
        "history": history,
        "extension_dim": 0 if extension is None else extension.shape[0],
    }
    first = weights.get("state_base.memory.rnn.weight_ih_l0")
    if first is not None:
        layers = len([k for k in weights if k.startswith("state_base.memory.rnn.weight_ih_l")])
        gates, rest = divmod(first.shape[0], features)
        if rest or gates not in GATES:
            raise ValueError(f"recurrent weights of {first.shape[0]} rows fit no GRU or LSTM of {features} units")
        sizes |= {"base": GATES[gates], "hidden": features, "layers": layers, "action_dim": first.shape[1] - state}
        return EnsembleConfig(**sizes)
    numbers = sorted(int(m[1]) for k in weights if (m := re.fullmatch(r"state_base\.layers\.(\d+)\.weight", k)))
    if not numbers:
        raise KeyError("state_base.memory.rnn.weight_ih_l0, or state_base.layers.0.weight")
    widths = tuple(weights[f"state_base.layers.{n}.weight"].shape[0] for n in numbers)
    pair, rest = divmod(weights[f"state_base.layers.{numbers[0]}.weight"].shape[1], history)
    if rest or pair <= state:
        raise ValueError(f"its first layer does not fit a history of {history} rows (--history)")
    return EnsembleConfig(**sizes, base="mlp", mlp_hidden=widths, action_dim=pair - state)


def to_reference(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and unstack a state dict of :class:`DynamicsEnsemble`; normaliser and bounds are left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name.startswith(OURS_ALONE):
            continue
        if ".rnn." in name or "_base.layers." in name:
            found[name.replace(".rnn.", ".memory.rnn.")] = tensor
            continue
        for member, part in enumerate(tensor):
            found[_reference_name(name, member)] = part.t().contiguous() if "weight" in name else _flat(name, part)
    return found


def from_reference(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and stack reference tensors to the names and shapes of ``like``, which gives the normaliser too.

    Raises:
        ValueError: A tensor is missing, left over or of another shape.
    """
    wanted = to_reference(like)
    missing, left = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
    wrong = [k for k in wanted if k in weights and weights[k].shape != wanted[k].shape]
    faults = [
        f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("not expected", left), ("of another shape", wrong))
        if names
    ]
    if faults:
        raise ValueError("; ".join(faults))
    found: dict[str, Tensor] = {}
    for name, shape in ((k, v.shape) for k, v in like.items()):
        if name.startswith(OURS_ALONE):
            found[name] = like[name]
        elif ".rnn." in name or "_base.layers." in name:
            found[name] = weights[name.replace(".rnn.", ".memory.rnn.")]
        else:
            parts = [weights[_reference_name(name, k)] for k in range(shape[0])]
            found[name] = torch.stack([p.t() if "weight" in name else p.reshape(shape[1:]) for p in parts]).contiguous()
    return found


def _reference_name(name: str, member: int) -> str:
    if name in BOUNDS:
        return BOUNDS[name].format(member)
    stack, layer = name.rsplit(".", 1)
    return f"{STACKS[stack].format(member)}.{LAYERS[layer]}"


def _flat(name: str, part: Tensor) -> Tensor:
    """Return a bias ``(1, n)`` as ``(n,)``; bounds stay ``(1, S)``."""
    return part if name in BOUNDS else part.reshape(math.prod(part.shape))


def _of(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise KeyError(f"{name} is missing")
    return weights[name]
