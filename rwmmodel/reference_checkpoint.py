"""Import and export of checkpoints of the authors' code (``leggedrobotics/robotic_world_model``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

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
    **{f"auxiliary_head.{k}": f"auxiliary_heads.{{}}.{k}_layers" for k in ("contact", "termination", "extension")},
}
"""Our stacked networks and the reference's name of one member's."""
BOUNDS = {
    "state_head.min_log_std": "state_heads.{}.state_min_logstd",
    "state_head.log_delta": "state_heads.{}.state_log_delta_logstd",
}
LAYERS = {"weight_0": "0.weight", "bias_0": "0.bias", "weight_1": "2.weight", "bias_1": "2.bias"}
REFERENCE_BASES = ("gru", "lstm", "mlp")
"""Bases whose tensor names in the reference are known."""
OURS_ALONE = ("normalizer.", "state_low", "state_high")
"""What a reference checkpoint does not store: a bounded model loses its bounds."""
GATES: Mapping[int, Literal["gru", "lstm"]] = {3: "gru", 4: "lstm"}
"""Rows of a recurrent weight per hidden unit."""


def import_reference(path: Path, robot: str = "anymal_d", history: int = 32) -> DynamicsEnsemble:
    """Read the world model of a reference checkpoint; nothing in the file is executed.

    Sizes, kind of base and number of members are read off the tensors. The file stores neither the history horizon nor
    the normaliser: the former is an argument, the latter the robot's own.

    Args:
        path: The checkpoint, or a file that holds the world model's state dict alone.
        robot: The robot the model was trained on: gives the columns and the normaliser.
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
    schema = Schema.from_robot(spec, [f"{k}" for k in range(config.extension_dim)])
    dims = {"state": config.state_dim, "action": config.action_dim, "contact": config.contact_dim}
    expected = {part: schema.dims[part] for part in dims}
    if dims != expected:
        raise RwmError(f"{path} has {dims} columns, {spec.title} {expected}.", "--robot NAME")
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
    """Write a world model as a reference checkpoint, with empty entries for policy and optimisers.

    Raises:
        RwmError: The reference has no place for the model: members with bases of their own or priors, or another kind
            of base; or the folder cannot be written.
    """
    config = model.config
    if not config.shared_base:
        raise RwmError("The reference's members share their bases; a model with shared_base off cannot be exported.")
    if config.prior_scale:
        raise RwmError("The reference's members have no randomised priors; a prior_scale cannot be exported.")
    if config.base not in REFERENCE_BASES:
        raise RwmError(f"The reference's tensor names for a base of kind {config.base} are not known.")
    weights = to_reference({k: v.detach().cpu().clone() for k, v in model.state_dict().items()})
    content: dict[str, object] = {WORLD_MODEL: weights, POLICY: {}, "optimizer_state_dict": {}}
    save_state(path, content | {"system_dynamics_optimizer_state_dict": {}, "iter": 0, "infos": None})


def read_world_model(path: Path) -> dict[str, Tensor]:
    """Return the world model's tensors by the reference's names; raises as :func:`import_reference` does."""
    refuse_missing(path, "checkpoint", "rwm model import FILE")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # Arbitrary bytes make the unpickler raise anything.
        text = f"{path} is not a torch file of tensors: {type(exc).__name__}."
        raise RwmError(text, "a checkpoint saved by the reference code") from exc
    if not isinstance(content, Mapping):
        raise RwmError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    weights = content.get(WORLD_MODEL, content)
    if isinstance(weights, Mapping) and any(str(k).startswith("state_base.") for k in weights):
        return {str(k): v for k, v in weights.items() if isinstance(v, Tensor)}
    if POLICY in content or any(str(k).startswith(POLICY_PREFIXES) for k in content):
        text = f"{path} holds a policy ({POLICY}) and no world model ({WORLD_MODEL})."
        raise RwmError(text, "a checkpoint of the reference's pretraining or fine-tuning tasks")
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
    state = _shape(weights, BOUNDS["state_head.min_log_std"].format(0))[-1]
    head_hidden, features = _shape(weights, "state_heads.0.state_mean_layers.0.weight")
    contact = _shape(weights, "auxiliary_heads.0.contact_layers.2.weight")[0]
    extension = weights.get("auxiliary_heads.0.extension_layers.2.weight")
    sizes = {"members": members, "state_dim": state, "head_hidden": head_hidden, "contact_dim": contact}
    sizes |= {"history": history, "extension_dim": 0 if extension is None else extension.shape[0]}
    first = weights.get("state_base.memory.rnn.weight_ih_l0")
    if first is not None:
        layers = len([k for k in weights if k.startswith("state_base.memory.rnn.weight_ih_l")])
        gates, rest = divmod(first.shape[0], features)
        if rest or gates not in GATES:
            raise ValueError(f"recurrent weights of {first.shape[0]} rows fit no GRU or LSTM of {features} units")
        sizes |= {"hidden": features, "layers": layers, "action_dim": first.shape[1] - state}
        return EnsembleConfig(base=GATES[gates], **sizes)
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
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name.startswith(OURS_ALONE):
            continue
        if ".rnn." in name or "_base.layers." in name:
            theirs[name.replace(".rnn.", ".memory.rnn.")] = tensor
            continue
        for member, part in enumerate(tensor):
            if name not in BOUNDS:  # A weight is transposed, a bias (1, n) becomes (n,); bounds stay (1, S).
                part = part.t().contiguous() if "weight" in name else part.flatten()
            theirs[_reference_name(name, member)] = part
    return theirs


def from_reference(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and stack reference tensors to the names and shapes of ``like``, whose normaliser is kept.

    Raises:
        ValueError: A tensor is missing, left over or of another shape.
    """
    wanted = to_reference(like)
    faulty = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "not expected": sorted(weights.keys() - wanted.keys()),
        "of another shape": [k for k in wanted if k in weights and weights[k].shape != wanted[k].shape],
    }
    faults = [f"{what}: {', '.join(k[:3])}{' ...' if len(k) > 3 else ''}" for what, k in faulty.items() if k]
    if faults:
        raise ValueError("; ".join(faults))
    ours: dict[str, Tensor] = {}
    for name, tensor in like.items():
        if name.startswith(OURS_ALONE):
            ours[name] = tensor
        elif ".rnn." in name or "_base.layers." in name:
            ours[name] = weights[name.replace(".rnn.", ".memory.rnn.")]
        else:
            parts = [weights[_reference_name(name, member)] for member in range(len(tensor))]
            ours[name] = torch.stack([p.t() if "weight" in name else p.reshape(tensor.shape[1:]) for p in parts])
    return ours


def _reference_name(name: str, member: int) -> str:
    if name in BOUNDS:
        return BOUNDS[name].format(member)
    stack, layer = name.rsplit(".", 1)
    return f"{STACKS[stack].format(member)}.{LAYERS[layer]}"


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in weights:
        raise KeyError(f"{name} is missing")
    return weights[name].shape
