"""Whole training checkpoints of the authors' code: policy, world model and the moments of both optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.adam_state import Moments, moments_of, optimizer_state
from rwmmodel.checkpoint import WORLD_MODEL, load_model, load_state, save_model, save_state
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.reference_checkpoint import (
    POLICY,
    POLICY_OPTIMIZER,
    WORLD_MODEL_OPTIMIZER,
    export_reference,
    optimizer_from_reference,
    optimizer_to_reference,
    read_checkpoint,
    world_model_of,
    world_model_weights,
)
from rwmmodel.torch_file import unwrapped
from rwmrl.obs_normalizer import EPSILON, PREFIX, STATISTICS, Weights, folded, identity_state
from rwmrl.policy_file import load_policy, save_policy
from rwmrl.policy_network import ACTIVATIONS, MlpPolicy, PolicyInfo, linear_layers

NAMES = {
    "distribution.std_param": "std",
    "distribution.log_std_param": "log_std",
    "mlp.": "actor.",
    "obs_normalizer.": "actor_obs_normalizer.",
}
"""Prefixes of the actor's tensors in rsl_rl 5, and in the reference's policy."""
CRITIC_NAMES = {"mlp.": "critic.", "obs_normalizer.": "critic_obs_normalizer."}
OLD_NORMALIZER = "obs_norm_state_dict"
ACTIVATION, USUAL_ACTIVATION = "activation", "elu"
"""Entry of ``infos`` that our export writes, and what the authors' configurations have."""


@dataclass(frozen=True)
class Training:
    """What was read from a checkpoint."""

    model: DynamicsEnsemble
    policy: MlpPolicy | None = None
    state: dict[str, Any] | None = None
    """A training's state: networks, world model and optimisers; None without a policy or without a critic that fits."""
    notes: tuple[str, ...] = ()
    """What was left out or assumed, and why."""


def export_training(run: Run, path: Path, keep_normalizers: bool = False) -> tuple[str, ...]:
    """Write a run that trained a policy and a world model as a reference checkpoint with all six keys.

    The authors' configurations train without observation normalisers, so these are folded into the first layers. Adam's
    second moments of a folded weight do not follow from the old ones (they would need the mean product of two
    gradients); such a weight is written without moments, and Adam begins anew with it. The activation of the policy's
    layers goes into ``infos``, where :func:`import_training` finds it.

    Args:
        run: The run.
        path: The file.
        keep_normalizers: Write the normalisers as they are, and every moment; the reference then has to be configured
            with ``actor_obs_normalization`` and ``critic_obs_normalization``.

    Returns:
        What was left out, and why.

    Raises:
        RwmError: A file of the run is missing or damaged, or the reference has no place for its model.
    """
    model, notes = load_model(run.model_file), []
    beside: dict[str, object] = {}
    state = load_state(run.state_file, torch.device("cpu")) if run.state_file.exists() else {}
    if {"actor_state_dict", "critic_state_dict"} <= state.keys():
        try:
            policy, optimizer = _policy_to_reference(state, keep_normalizers)
        except (KeyError, ValueError, AttributeError) as exc:
            raise RwmError(f"The state {run.state_file} cannot be exported: {exc}.", "rwm runs ls") from exc
        beside |= {POLICY: policy, POLICY_OPTIMIZER: optimizer, "iter": max(int(state.get("completed", 0)) - 1, 0)}
        activation = load_policy(run.policy_file).info.activation
        beside["infos"] = {ACTIVATION: activation}
        if activation != USUAL_ACTIVATION:
            notes.append(
                f'the layers are {activation}: configure the reference\'s policy with activation="{activation}"'
            )
        if first := [k for k, name in enumerate(_parameters(policy)) if k not in optimizer["state"] and ".0." in name]:
            notes.append(f"normalisers are folded in: {len(first)} weights have no moments (--keep-normalizers)")
    else:
        notes.append("the run keeps no critic: the policy is left out (rwm export-policy)")
    own = model.state_dict()
    if "model_optimizer" not in state:
        notes.append("the run keeps no state of the world model's optimiser")
    elif any(not torch.equal(v, state.get("model", {}).get(k, v.new_empty(0))) for k, v in own.items()):
        notes.append("the world model's optimiser belongs to other weights than those kept and is left out")
    else:
        try:
            beside[WORLD_MODEL_OPTIMIZER] = optimizer_to_reference(state["model_optimizer"], model)
        except ValueError as exc:
            notes.append(f"the world model's optimiser is left out: {exc}")
    export_reference(model, path, beside)
    return tuple(notes)


def training_of(model_file: Path) -> Run | None:
    """Return the train run whose model a file is; None for any other file."""
    folder = model_file.resolve().parent.parent
    if not (folder / "run.json").is_file():
        return None
    run = Run.open(folder)
    return run if run.kind == "train" and run.model_file.resolve() == model_file.resolve() else None


def import_training(
    path: Path,
    robot: str = "anymal_d",
    history: int = 32,
    with_policy: bool | None = None,
    activation: str | None = None,
) -> Training:
    """Read a reference checkpoint: its world model, and its policy and optimisers where they fit the robot.

    Args:
        path: The checkpoint.
        robot: The robot it was trained on.
        history: History horizon M of a recurrent model, rows.
        with_policy: False leaves the policy out; True refuses a file whose policy does not fit.
        activation: Of the policy's layers. A file says it if we have exported it; with neither it is taken to be ELU,
            as in the authors' configurations, and a note says so.

    Raises:
        RwmError: As :func:`rwmmodel.reference_checkpoint.import_reference` does, or there is no policy that fits.
    """
    content = read_checkpoint(path)
    model = world_model_of(content, path, robot, history)
    weights = content.get(POLICY) if WORLD_MODEL in content else None
    if with_policy is False or not (weights or with_policy):
        return Training(model)
    try:
        if not weights:
            raise ValueError("there is none")
        if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
            raise ValueError(f"{POLICY} is no state dict")
        weights = unwrapped(weights)
        if OLD_NORMALIZER in content:
            raise ValueError(f"its normaliser is in {OLD_NORMALIZER}, as rsl_rl wrote it before version 3")
        known = _activation_of(content, activation)
        policy, actor = _policy_of(weights, robot, path.name, known or USUAL_ACTIVATION)
    except ValueError as exc:
        if with_policy:
            raise RwmError(f"The policy in {path} cannot be taken over: {exc}.", "--only-model, or --robot") from exc
        return Training(model, notes=(f"the policy is left out: {exc}",))
    assumed = "the activation of the policy's layers is not in the file and is taken to be ELU (--activation)"
    notes = [] if known else [assumed]
    try:
        critic = _network(weights, "critic", len(policy.info.observations), 1, list(policy.info.hidden_dims))
    except ValueError as exc:
        note = f"critic and optimisers are left out, so a training begins with a new critic: {exc}"
        return Training(model, policy, notes=(*notes, note))
    state: dict[str, Any] = {"actor_state_dict": actor, "critic_state_dict": critic, "completed": _completed(content)}
    state["optimizer_state_dict"] = _policy_optimizer(content, weights, actor, critic, notes)
    state["model"] = model.state_dict()
    order = world_model_weights(content, path)
    try:
        state["model_optimizer"] = optimizer_from_reference(content.get(WORLD_MODEL_OPTIMIZER) or {}, order, model)
    except ValueError as exc:
        notes.append(f"the moments of the world model's optimiser are left out: {exc}")
        state["model_optimizer"] = optimizer_from_reference({}, order, model)
    return Training(model, policy, state, tuple(notes))


def keep_training(home: Home, training: Training, name: str) -> Run:
    """Make a finished run of what was read from the file ``name``: a train run, or a model run without a policy."""
    robot = training.model.info.robot if training.model.info else None
    config = {"imported": name, "robot": robot, **training.model.config.model_dump(mode="json")}
    kind, parent = ("train", "policy") if training.policy else ("model", "dataset")
    run = Run.create(home, kind, config, {parent: None}, 0)
    with run.running():
        save_model(training.model, run.model_file)
        summary: dict[str, Any] = {"parameters": training.model.parameter_count}
        if training.policy:
            policy = training.policy
            policy.info = policy.info.model_copy(update={"source": f"train {run.id}, imported from {name}"})
            save_policy(policy, run.policy_file)
            summary |= {"robot": policy.info.robot, "iterations": (training.state or {}).get("completed")}
        if training.state:
            save_state(run.state_file, training.state)
        run.finish(summary)
    return run


def _policy_to_reference(state: Mapping[str, Any], keep_normalizers: bool) -> tuple[Weights, dict[str, Any]]:
    """Return the policy's tensors by the reference's names, and its optimiser's state in their order."""
    actor, critic = state["actor_state_dict"], state["critic_state_dict"]
    named = {f"actor/{k}": v for k, v in actor.items()} | {f"critic/{k}": v for k, v in critic.items()}
    policy = {_reference_name(k): v.clone() for k, v in named.items()}
    shapes = {k: policy[k].shape for k in _parameters(policy)}
    moments = moments_of(state["optimizer_state_dict"], shapes)
    if not keep_normalizers:
        for network in ("actor", "critic"):
            _fold(policy, moments, network)
    return policy, optimizer_state(moments, _parameters(policy), state["optimizer_state_dict"])


def _fold(policy: Weights, moments: Moments, network: str) -> None:
    """Make a normaliser part of its network's first layer, and drop the moments of that layer's weight."""
    prefix = f"{network}_obs_normalizer."
    statistics = {k: policy.pop(prefix + k) for k in STATISTICS if prefix + k in policy}
    if not statistics:
        return
    mean, scale = statistics["_mean"].flatten(), statistics["_std"].flatten() + EPSILON
    if bool((mean == 0).all()) and bool((scale == 1).all()):
        return
    weight, bias = f"{network}.0.weight", f"{network}.0.bias"
    policy[weight], policy[bias] = folded(policy[weight], policy[bias], mean, scale)
    moments.pop(weight, None)


def _activation_of(content: Mapping[str, Any], given: str | None) -> str | None:
    """Return the activation of the policy's layers: the file's, or else the one that was given; None with neither.

    Raises:
        ValueError: It is unknown, or the file has another one.
    """
    infos = content.get("infos")
    own = str(infos[ACTIVATION]) if isinstance(infos, Mapping) and ACTIVATION in infos else None
    if own and given and own != given:
        raise ValueError(f"its layers are {own}, not {given}")
    if (chosen := own or given) and chosen not in ACTIVATIONS:
        raise ValueError(f"its activation '{chosen}' is none of {', '.join(ACTIVATIONS)}")
    return chosen


def _policy_of(weights: Mapping[str, Tensor], robot: str, source: str, activation: str) -> tuple[MlpPolicy, Weights]:
    """Return the policy and rsl_rl's tensors of its actor.

    Raises:
        ValueError: It is recurrent, of another kind, of other sizes, or not finite.
    """
    spec = load_robot(robot)
    known = ("actor.", "critic.", "actor_obs_normalizer.", "critic_obs_normalizer.")
    if foreign := [str(k) for k in weights if not str(k).startswith(known) and k not in ("std", "log_std")]:
        kind = "is recurrent" if foreign[0].startswith("memory") else "is no plain actor and critic"
        raise ValueError(f"it {kind} ({foreign[0]})")
    info = PolicyInfo.of(spec, (), activation, f"imported from {source}")
    actor = _network(weights, "actor", len(info.observations), len(info.joints))
    layers = [v for k, v in actor.items() if k.startswith("mlp.") and k.endswith(".weight")]
    policy = MlpPolicy(info.model_copy(update={"hidden_dims": tuple(len(w) for w in layers[:-1])}))
    with torch.no_grad():
        for number, layer in enumerate(linear_layers(policy.mlp)):
            layer.load_state_dict({k: actor[f"mlp.{2 * number}.{k}"] for k in ("weight", "bias")})
        policy.mean.copy_(actor["obs_normalizer._mean"].flatten())
        policy.scale.copy_(actor["obs_normalizer._std"].flatten() + EPSILON)
    std = weights["std"] if "std" in weights else weights.get("log_std", torch.zeros(0)).exp()
    if std.shape != (len(info.joints),) or not bool(torch.isfinite(std).all()):
        raise ValueError(f"it has no standard deviation for each of the {len(info.joints)} actions")
    return policy.eval(), {"distribution.std_param": std, **actor}


def _network(
    weights: Mapping[str, Tensor], name: str, inputs: int, outputs: int, hidden: list[int] | None = None
) -> Weights:
    """Return a plain network's tensors by rsl_rl's names, the normaliser before it included.

    Raises:
        ValueError: It has other sizes, or is not finite.
    """
    own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
    count = len(own) // 2
    names = [f"{2 * n}.{part}" for n in range(count) for part in ("weight", "bias")]
    if count < 2 or own.keys() != set(names):
        raise ValueError(f"its {name} is no plain network ({', '.join(list(own)[:3]) or 'it is missing'})")
    matrices = [own[k] for k in names if k.endswith("weight")]
    sizes = [inputs, *(w.shape[0] for w in matrices[:-1]), outputs]
    if any(w.dim() != 2 for w in matrices) or matrices[0].shape[1] != inputs or matrices[-1].shape[0] != outputs:
        found = f"{matrices[0].shape[-1]} numbers and returns {matrices[-1].shape[0]}"
        raise ValueError(f"its {name} reads {found}, the robot's reads {inputs} and returns {outputs}")
    if hidden is not None and sizes[1:-1] != hidden:
        raise ValueError(f"its {name} has layers of {sizes[1:-1]}, its actor of {hidden}")
    expected: dict[str, tuple[int, ...]] = {
        f"{2 * n}.weight": (b, a) for n, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
    }
    expected |= {f"{2 * n}.bias": (b,) for n, b in enumerate(sizes[1:])}
    if wrong := [k for k in names if own[k].shape != expected[k] or not bool(torch.isfinite(own[k]).all())]:
        raise ValueError(f"its {name}.{wrong[0]} is not finite or of a shape that does not fit")
    return {**_statistics(weights, name, inputs), **{f"mlp.{k}": own[k] for k in names}}


def _statistics(weights: Mapping[str, Tensor], name: str, inputs: int) -> Weights:
    """Return the tensors of a network's normaliser: the file's, or an identity that training does not move."""
    prefix = f"{name}_obs_normalizer."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not own:
        return identity_state(inputs)
    sizes = {k: tuple(v.shape) for k, v in own.items()}
    if sizes != {k: () if k == "count" else (1, inputs) for k in STATISTICS}:
        raise ValueError(f"its {prefix[:-1]} is not one of {inputs} numbers")
    if not all(bool(torch.isfinite(v).all()) for v in own.values()) or bool((own["_std"] < 0).any()):
        raise ValueError(f"its {prefix[:-1]} is not finite")
    return {PREFIX + k: own[k] for k in STATISTICS}


def _policy_optimizer(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], actor: Weights, critic: Weights, notes: list[str]
) -> dict[str, Any]:
    """Return the policy's optimiser for rsl_rl 5; without moments, and a note, where they do not fit."""
    named = {f"actor/{k}": v for k, v in actor.items()} | {f"critic/{k}": v for k, v in critic.items()}
    ours = _parameters(named)
    given = content.get(POLICY_OPTIMIZER)
    if not given:
        return optimizer_state({}, ours)
    try:
        theirs = moments_of(given, {k: weights[k].shape for k in _parameters(weights)})
    except ValueError as exc:
        notes.append(f"the moments of the policy's optimiser are left out: {exc}")
        return optimizer_state({}, ours)
    # A log_std was trained by its own gradient: its moments are not those of our std.
    moments = {k: theirs[name] for k in ours if (name := _reference_name(k)) in theirs}
    return optimizer_state(moments, ours, given)


def _parameters(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the learned tensors; a state dict lists them in the order of its module's parameters."""
    return [k for k in weights if "obs_normalizer." not in k]


def _reference_name(name: str) -> str:
    network, own = name.split("/")
    for prefix, theirs in (NAMES if network == "actor" else CRITIC_NAMES).items():
        if own.startswith(prefix):
            return own.replace(prefix, theirs, 1)
    raise ValueError(f"the reference has no place for {own} of the {network}")


def _completed(content: Mapping[str, Any]) -> int:
    """Return the iterations done: the reference writes the number of the last one, from 0."""
    last = content.get("iter")
    return last + 1 if isinstance(last, int) and last >= 0 else 0
