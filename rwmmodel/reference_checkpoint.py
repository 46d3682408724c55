"""Import and export of checkpoints of the authors' code (``leggedrobotics/robotic_world_model``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmdata.text import quoted
from rwmmodel.adam_state import Moments, moments_of, optimizer_state
from rwmmodel.checkpoint import POLICY_PREFIXES, WORLD_MODEL, save_state
from rwmmodel.described_file import is_safetensors, read_described
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.normalizer import Normalizer
from rwmmodel.torch_file import contents, read_torch, unwrapped

POLICY = "model_state_dict"
WORLD_MODEL_OPTIMIZER = "system_dynamics_optimizer_state_dict"
POLICY_OPTIMIZER = "optimizer_state_dict"
POLICIES = (POLICY, "actor_state_dict", "student_state_dict")
"""Where the reference and rsl_rl 2 to 5 keep a policy."""
HINT = "a checkpoint of the reference's pretraining or fine-tuning tasks"
FIRST = re.compile(r"((?:.+\.)?)state_base\.")
"""A tensor's name up to where the world model begins."""
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
PARTS = ("state_base", "state_heads", "auxiliary_base", "auxiliary_heads")
HEAD_PARTS = (
    "state_min_logstd", "state_log_delta_logstd", "state_mean_layers", "state_logstd_layers",
    "extension_layers", "contact_layers", "termination_layers",
)  # fmt: skip
"""Parts of the reference's world model and of one head, in the order of its parameters."""
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
    return world_model_of(read_checkpoint(path), path, robot, history)


def world_model_of(content: Mapping[str, Any], path: Path, robot: str, history: int) -> DynamicsEnsemble:
    """Return the world model in the ``content`` of a checkpoint, see :func:`import_reference`."""
    weights = world_model_weights(content, path)
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


def export_reference(model: DynamicsEnsemble, path: Path, beside: Mapping[str, object] | None = None) -> None:
    """Write a world model as a reference checkpoint, its other entries empty but for those in ``beside``.

    Raises:
        RwmError: The reference has no place for the model: members with bases of their own or priors, another kind of
            base, or bases of different widths; or the folder cannot be written.
    """
    config = model.config
    if not config.shared_base:
        raise RwmError(
            "The reference's members share their bases; a model with shared_base off cannot be exported.",
            "rwm fit --shared-base",
        )
    if config.prior_scale:
        raise RwmError(
            "The reference's members have no randomised priors; a prior_scale cannot be exported.",
            "rwm fit --set prior_scale=0",
        )
    if config.base not in REFERENCE_BASES:
        raise RwmError(f"The reference's tensor names for a base of kind {config.base} are not known.")
    if config.auxiliary_hidden not in (None, config.hidden):
        widths = f"{config.hidden} features in one base and {config.auxiliary_hidden} in the other"
        raise RwmError(
            f"The reference's bases are of one width; a model with {widths} cannot be exported.",
            "rwm fit --set auxiliary_hidden=null",
        )
    weights = to_reference({k: v.detach().cpu().clone() for k, v in model.state_dict().items()})
    content: dict[str, object] = {POLICY: {}, WORLD_MODEL: weights, POLICY_OPTIMIZER: {}, WORLD_MODEL_OPTIMIZER: {}}
    save_state(path, {**content, "iter": 0, "infos": None, **(beside or {})})


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint holds, tensors on the CPU; raises as :func:`import_reference` does."""
    described = read_described(path, "checkpoint", "rwm model import FILE") if is_safetensors(path) else None
    return described[1] if described else read_torch(path, "checkpoint", HINT)


def world_model_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of the world model in a checkpoint, by the reference's names and in its order.

    What a compiled, data-parallel or averaged model, or a network around it, puts before the names is taken off.

    Raises:
        RwmError: There is none, or there are several.
    """
    found: dict[str, dict[str, Tensor]] = {}
    nested = {name: part for name, part in content.items() if isinstance(part, Mapping)}
    for where, part in (
        {WORLD_MODEL: nested[WORLD_MODEL]} if nested.get(WORLD_MODEL) else {"": content, **nested}
    ).items():
        own = unwrapped(part)
        for prefix in dict.fromkeys(m[1] for name in own if (m := FIRST.match(name))):
            name = f"{where}/{prefix}".strip("/.")
            found[name] = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
    if len(found) > 1:
        raise RwmError(f"{path} holds several world models: {', '.join(found)}.", "a file with one of them")
    for weights in found.values():
        if whole := [k for k, v in weights.items() if not v.is_floating_point()]:
            raise RwmError(f"The world model in {path} holds whole numbers ({whole[0]}); is it quantised?", HINT)
        return weights
    if WORLD_MODEL in content and not content[WORLD_MODEL]:
        kept = " and a policy" if any(content.get(name) for name in POLICIES) else ""
        text = f"{path} has an empty {WORLD_MODEL}{kept}: the run that saved it trained no world model."
        raise RwmError(text, HINT)
    for name in ("", *POLICIES):
        states = content if name == "" else content.get(name)
        if isinstance(states, Mapping) and any(k.startswith((*POLICY_PREFIXES, "mlp.")) for k in unwrapped(states)):
            text = f"{path} holds a policy{f' ({name})' if name else ''} and no world model ({WORLD_MODEL})."
            raise RwmError(text, f"rwm import-policy {quoted(path)}, or {HINT}")
    raise RwmError(f"{path} holds no world model; it {contents(content)}.", HINT)


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
    """Rename and unstack a state dict of :class:`DynamicsEnsemble`, in the reference's order of parameters.

    Normaliser and bounds are left out.
    """
    theirs = [part for name, tensor in ours.items() for part in _unstacked(name, tensor).items()]
    return dict(sorted(theirs, key=lambda part: _place(part[0])))


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
    ours = dict(like)
    for name, tensor in like.items():
        if names := list(_unstacked(name, tensor)):
            ours[name] = _stacked(name, [weights[k] for k in names], tensor.shape)
    return ours


def optimizer_to_reference(state: Mapping[str, Any], model: DynamicsEnsemble) -> dict[str, Any]:
    """Return the state of an Adam optimiser over ``model.parameters()`` as the reference's optimiser has it.

    Adam treats every number by itself, so renaming, unstacking and transposing its moments as the weights is exact.

    Raises:
        ValueError: It is the state of another optimiser.
    """
    parameters = dict(model.named_parameters())
    theirs: Moments = {}
    for name, moments in moments_of(state, {k: p.shape for k, p in parameters.items()}).items():
        for part in _unstacked(name, parameters[name]):
            theirs[part] = {"step": moments["step"]}
        for key in moments.keys() - {"step"}:
            for part, value in _unstacked(name, moments[key]).items():
                theirs[part][key] = value
    return optimizer_state(theirs, to_reference(parameters), state)


def optimizer_from_reference(
    state: Mapping[str, Any], order: Mapping[str, Tensor], model: DynamicsEnsemble
) -> dict[str, Any]:
    """Return the state of the reference's optimiser as that of an Adam optimiser over ``model.parameters()``.

    Args:
        state: Its state; one without moments where it is empty.
        order: The reference's parameters. A state dict lists them in the order of the optimiser.
        model: The imported model.

    Raises:
        ValueError: It is the state of another optimiser, or the members were not trained alike.
    """
    parameters = dict(model.named_parameters())
    if not state:
        return optimizer_state({}, parameters)
    theirs, ours = moments_of(state, {k: v.shape for k, v in order.items()}), Moments()
    for name, parameter in parameters.items():
        parts = [theirs.get(part, {}) for part in _unstacked(name, parameter)]
        if not any(parts):
            continue
        if any(p.keys() != parts[0].keys() or p["step"] != parts[0]["step"] for p in parts):
            raise ValueError(f"it has made other numbers of steps for other members of {name}")
        values = {key: _stacked(name, [p[key] for p in parts], parameter.shape) for key in parts[0] if key != "step"}
        ours[name] = {"step": parts[0]["step"], **values}
    return optimizer_state(ours, parameters, state)


def _unstacked(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the reference's tensors, by name, that make up one of ours; none where it has no place for it."""
    if name.startswith(OURS_ALONE):
        return {}
    if _is_of_base(name):
        return {name.replace(".rnn.", ".memory.rnn."): tensor}
    if name not in BOUNDS:  # A weight is transposed, a bias (1, n) becomes (n,); bounds stay (1, S).
        tensor = tensor.transpose(1, 2) if "weight" in name else tensor.flatten(1)
    return {_reference_name(name, member): part.contiguous() for member, part in enumerate(tensor)}


def _stacked(name: str, parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Return our tensor ``name`` of ``shape``, made of the reference's."""
    if _is_of_base(name):
        return parts[0]
    return torch.stack([part.t() if "weight" in name else part.reshape(shape[1:]) for part in parts])


def _is_of_base(name: str) -> bool:
    return ".rnn." in name or "_base.layers." in name


def _place(name: str) -> tuple[int, int, int]:
    """Return where a parameter of the reference stands: its part, member, and part of a head."""
    part, rest = name.split(".", 1)
    if not part.endswith("_heads"):
        return PARTS.index(part), 0, 0
    member, head_part = rest.split(".")[:2]
    return PARTS.index(part), int(member), HEAD_PARTS.index(head_part)


def _reference_name(name: str, member: int) -> str:
    if name in BOUNDS:
        return BOUNDS[name].format(member)
    stack, layer = name.rsplit(".", 1)
    return f"{STACKS[stack].format(member)}.{LAYERS[layer]}"


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in weights:
        raise KeyError(f"{name} is missing")
    return weights[name].shape
