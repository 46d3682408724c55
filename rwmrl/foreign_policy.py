"""Policies trained elsewhere: checkpoints of rsl_rl 1 to 5 and legged_gym, exported TorchScript and ONNX programs.

Nothing in a file is executed. Checkpoints hold tensors without the network around them, so what they do not say is
taken from the run's ``params/agent.yaml``, where Isaac Lab left one, or given as a :class:`Reading`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from rwmdata.config import Frozen, one_line
from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema
from rwmdata.text import quoted
from rwmdata.yaml_file import read_yaml
from rwmmodel.described_file import is_safetensors, read_described, refuse_missing
from rwmmodel.torch_file import contents, is_torchscript, read_torch, unwrapped
from rwmrl.layer_chain import Chain
from rwmrl.obs_normalizer import EPSILON
from rwmrl.onnx_file import is_onnx, read_onnx
from rwmrl.policy_network import ACTIVATIONS, METADATA_KEY, MlpPolicy
from rwmrl.torchscript_file import read_torchscript

FOREIGN = "is not a policy file of this toolkit"
WANTED = "the checkpoints/policy.safetensors of a policy or train run, or a checkpoint of rsl_rl"
Layout = Literal["isaaclab", "legged_gym"]
ACTORS = (
    ("model_state_dict", "actor.", "actor_obs_normalizer."),
    ("model_state_dict", "student.", "student_obs_normalizer."),
    ("actor_state_dict", "mlp.", "obs_normalizer."),
    ("student_state_dict", "mlp.", "obs_normalizer."),
    ("", "actor.", "actor_obs_normalizer."),
    ("", "mlp.", "obs_normalizer."),
    ("", "", "obs_normalizer."),
)
"""Entry of a checkpoint that holds the actor, and the names of its layers and normaliser before their own."""
BESIDE = ("critic", "teacher", "std", "log_std", "distribution.")
"""What lies beside an actor and does not change its mean action."""
OLD_NORMALIZER = "obs_norm_state_dict"
"""Where rsl_rl 1 and 2 keep the normaliser."""
DEFAULT_ACTIVATION = "elu"
"""Of rsl_rl, Isaac Lab and legged_gym."""
NUMBER_OF_LAYER = re.compile(r"(\d+)\.(weight|bias)")
LIN_VEL_SCALE, ANG_VEL_SCALE, JOINT_VEL_SCALE = 2.0, 0.25, 0.05
"""What legged_gym multiplies observations with before its policy sees them, commands as the velocities they are of."""
AGENT_FILE = Path("params") / "agent.yaml"


class Reading(Frozen):
    """What a checkpoint does not say."""

    activation: str | None = None
    """Between the layers; what ``params/agent.yaml`` beside the file says when None, else ELU."""
    layout: Layout = "isaaclab"
    """Order and scale of observations and joints: Isaac Lab's, SI units, or legged_gym's, joints leg by leg, scaled."""


def read_foreign(path: Path, robot: RobotSpec | None, reading: Reading | None = None) -> MlpPolicy:
    """Read the deterministic policy of a file that was not written here.

    Args:
        path: A checkpoint of rsl_rl or legged_gym, or an exported program.
        robot: Its robot: the policy has to read its observations and move its joints.
        reading: What the file does not say.

    Raises:
        RwmError: The file is missing or damaged, holds no policy or one that does not fit, or ``robot`` is None.
    """
    refuse_missing(path, "policy", "rwm policy, or rwm runs ls --kind policy")
    reading = reading or Reading()
    if reading.activation not in (None, *ACTIVATIONS):
        known = ", ".join(ACTIVATIONS)
        raise RwmError(f"Unknown activation '{reading.activation}'; activations: {known}.", "--activation elu")
    try:
        chain, form = _chain_of(path, reading)
        if robot is None:
            raise RwmError(f"{path} does not say which robot's policy it is.", "--robot NAME")
        if not chain.layers:
            raise ValueError("it has no linear layer")
        if len(chain.layers[-1][0]) == 2 * len(robot.joints) and not chain.rows:
            chain = chain.shaped((2, len(robot.joints))).row(0)  # A network that gives mean and standard deviation.
        if reading.layout == "legged_gym":
            chain = from_legged_gym(chain, robot)
        return chain.policy(robot, f"imported from {path.name}, {form}")
    except (ValueError, RuntimeError) as exc:  # Numbers whose shapes do not fit each other are the latter.
        raise RwmError(f"The policy in {path} cannot be used: {one_line(exc)}.", WANTED) from exc


def is_own(path: Path) -> bool:
    """Whether a file was written by :func:`rwmrl.policy_file.save_policy`."""
    content = read_described(path, "policy", WANTED) if is_safetensors(path) else None
    return content is not None and METADATA_KEY in content[0]


def assumptions(path: Path) -> str:
    """Return what reading a file would take for granted, in a sentence; empty for one that says all."""
    if not path.is_file() or is_own(path):
        return ""
    order = "Isaac Lab's order of observations and joints is assumed"
    if is_torchscript(path) or is_onnx(path):
        return f"{path} does not say its robot: {order}"
    activation = agent_of(path).get("activation")
    said = f"activation {activation} by its {AGENT_FILE}" if activation else f"activation {DEFAULT_ACTIVATION}"
    return f"{path} does not say its network: {order}, and {said} (rwm import-policy: others)"


def agent_of(path: Path) -> dict[str, Any]:
    """Return the actor's part of the ``params/agent.yaml`` that Isaac Lab wrote beside a checkpoint; else nothing."""
    for folder in (path.resolve().parent, path.resolve().parent.parent):
        if (folder / AGENT_FILE).is_file():
            try:
                content = read_yaml(folder / AGENT_FILE, _PlainLoader)
                part = dict(content.get("actor") or content.get("policy") or {})
            except (OSError, ValueError, TypeError, AttributeError):
                return {}
            activation = part.pop("activation", None)
            return part | ({"activation": activation.lower()} if isinstance(activation, str) else {})
    return {}


class _PlainLoader(yaml.SafeLoader):
    """Reads Python's own tags, which Isaac Lab's files have, as the plain lists and texts they are on."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _chain_of(path: Path, reading: Reading) -> tuple[Chain, str]:
    """Return what a file computes, and its format.

    Raises:
        ValueError: It is no chain of layers.
        RwmError: It is no policy.
    """
    if is_torchscript(path):
        return _said_activation(read_torchscript(path), reading), "TorchScript"
    if is_onnx(path):
        return _said_activation(read_onnx(path), reading), "ONNX"
    try:
        described = read_described(path, "policy", WANTED) if is_safetensors(path) else None
        content = described[1] if described else read_torch(path, "policy", WANTED)
    except RwmError as exc:
        reason = exc.message.removeprefix(f"{path} ")
        raise RwmError(f"{path} {FOREIGN}, nor one of rsl_rl: it {reason}", exc.hint) from exc
    agent = agent_of(path)
    infos = content.get("infos")
    own = infos.get("activation") if isinstance(infos, Mapping) else None
    activation = str(reading.activation or own or agent.get("activation", DEFAULT_ACTIVATION))[:20]
    if activation not in ACTIVATIONS:
        raise ValueError(f"its activation is {activation}, known are {', '.join(ACTIVATIONS)}")
    distribution = agent.get("distribution_cfg")
    if isinstance(distribution, dict) and distribution.get("class_name") == "BetaDistribution":
        raise ValueError("its actions follow a Beta distribution, whose bounds are not in the file")
    weights, prefix, normalizer = _actor(content, path)
    chain = _normalized(normalizer)
    layers = _layers(weights, prefix)
    for layer in layers[:-1]:
        chain = chain.linear(*layer).activated(activation)
    chain = chain.linear(*layers[-1])
    return chain, "rsl_rl 5" if prefix == "mlp." else "rsl_rl"


def _said_activation(chain: Chain, reading: Reading) -> Chain:
    if reading.activation and {reading.activation} != {*chain.activations}:
        raise ValueError(f"its activation is {', '.join(dict.fromkeys(chain.activations))}, not {reading.activation}")
    return chain


def _actor(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], str, dict[str, Tensor]]:
    """Return the state dict with the actor, the prefix of its layers and its normaliser's tensors."""
    for entry, prefix, before in ACTORS:
        part = content.get(entry) if entry else content
        if not isinstance(part, Mapping):
            continue
        weights = unwrapped(part)
        if memory := next((k for k in weights if "weight_ih_l0" in k), None):
            gates, rest = divmod(len(weights[memory]), max(1, weights[memory.replace("_ih_", "_hh_")].shape[-1]))
            kind = {3: "GRU", 4: "LSTM"}.get(gates, "RNN") if not rest else "RNN"
            raise ValueError(f"it is recurrent ({kind}, {memory.split('.')[0]}): it keeps a state between steps")
        if f"{prefix}0.weight" not in weights:
            continue
        own = {k.removeprefix(before): v for k, v in weights.items() if k.startswith(before)}
        kept = (*BESIDE, before, prefix) if prefix else (*BESIDE, before, *map(str, range(10)))
        if other := [k for k in weights if not k.startswith(kept)]:
            raise ValueError(f"it has parts that a policy here does not: {', '.join(other[:3])}")
        old = content.get(OLD_NORMALIZER)
        return weights, prefix, own or (unwrapped(old) if isinstance(old, Mapping) else {})
    if "system_dynamics_state_dict" in content:
        raise RwmError(f"{path} holds a world model and no policy.", f"rwm model import {quoted(path)}")
    raise RwmError(f"{path} {FOREIGN}, nor one of rsl_rl: it {contents(content)}.", WANTED)


def _layers(weights: Mapping[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of the linear layers of a network, which stand at every second place."""
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    matches = {k: NUMBER_OF_LAYER.fullmatch(k) for k in own}
    if not prefix:
        matches = {k: m for k, m in matches.items() if m}
    numbers = sorted({int(m[1]) for m in matches.values() if m})
    odd = [k for k, m in matches.items() if m is None or own[k].dim() != (2 if m[2] == "weight" else 1)]
    if odd or numbers != list(range(0, 2 * len(numbers), 2)):
        raise ValueError(f"its actor is no plain network of linear layers ({prefix}{odd[0] if odd else numbers})")
    return [(own[f"{n}.weight"], own.get(f"{n}.bias", torch.zeros(len(own[f"{n}.weight"])))) for n in numbers]


def _normalized(statistics: Mapping[str, Tensor]) -> Chain:
    """Return the chain that begins with a normaliser of rsl_rl, if there is one."""
    if not statistics:
        return Chain()
    if "_mean" not in statistics or not {"_std", "_var"} & statistics.keys():
        raise ValueError(f"its normaliser has {', '.join(statistics)} instead of _mean and _std")
    std = statistics["_std"] if "_std" in statistics else statistics["_var"].sqrt()
    return Chain(statistics["_mean"].flatten(), std.flatten() + EPSILON)


def from_legged_gym(chain: Chain, robot: RobotSpec) -> Chain:
    """Return what a policy of legged_gym does with our observation, in our order of joints.

    legged_gym orders joints leg by leg and multiplies velocities, commands and joint velocities by constants.

    Raises:
        ValueError: The robot has no legs of equal joints, or the sizes do not fit.
    """
    by_leg = [k for leg in robot.legs for k, name in enumerate(robot.joints) if name.startswith(f"{leg}_")]
    count = len(robot.joints)
    if sorted(by_leg) != list(range(count)):
        raise ValueError(f"the joints of '{robot.name}' are not those of its legs {', '.join(robot.legs)}")
    schema = Schema.from_robot(robot)
    state = len(schema.names[: schema.group("projected_gravity").stop])
    if chain.layers[0][0].shape[1] != state + 3 + 3 * count or len(chain.layers[-1][0]) != count:
        return chain  # Its sizes are refused with those of any other policy.
    scale = torch.ones(state + 3 + 3 * count)
    scale[schema.group("base_lin_vel")] = LIN_VEL_SCALE
    scale[schema.group("base_ang_vel")] = ANG_VEL_SCALE
    scale[state : state + 3] = torch.tensor([LIN_VEL_SCALE, LIN_VEL_SCALE, ANG_VEL_SCALE])
    joints = state + 3
    scale[joints + count : joints + 2 * count] = JOINT_VEL_SCALE
    ours = torch.arange(len(scale))  # Where each of our entries stands in legged_gym's order, which by_leg lists.
    place = torch.empty(count, dtype=torch.long)
    place[torch.tensor(by_leg)] = torch.arange(count)
    for group in range(3):
        ours[joints + group * count : joints + (group + 1) * count] = joints + group * count + place
    mean, over = torch.as_tensor(chain.mean).expand(len(scale)), torch.as_tensor(chain.scale).expand(len(scale))
    layers = list(chain.layers)
    first, first_bias = layers[0]
    layers[0] = first[:, ours], first_bias
    last, last_bias = layers[-1]
    layers[-1] = last[place], last_bias[place]
    return Chain((mean / scale)[ours], (over / scale)[ours], tuple(layers), chain.activations)
