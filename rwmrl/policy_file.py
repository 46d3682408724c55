"""Policies as files: safetensors with a JSON description inside, loadable without any RL library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rwmdata.config import Frozen, one_line
from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema
from rwmmodel.checkpoint import METADATA_KEY as MODEL_KEY
from rwmmodel.described_file import read_described, save_described
from rwmrl.observations import observation_names

FORMAT = "rwm-policy-1"
METADATA_KEY = "rwm_policy"
ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}


class PolicyInfo(Frozen):
    """A policy file's description: enough to act with it on its robot."""

    robot: str
    observations: tuple[str, ...]
    """Names of the observation's entries, in order."""
    joints: tuple[str, ...]
    """Joint each action moves, in order."""
    action_scale: float
    """Target joint position = default + action_scale * action, rad per unit action."""
    control_hz: float
    hidden_dims: tuple[int, ...]
    activation: str = "elu"
    last_activation: str | None = None
    """Activation of the last hidden layer, where it differs; a tanh there keeps actions within a range."""
    source: str = ""
    """Run the policy comes from."""
    noise_std: float = 0.0
    """Standard deviation of the normal noise on its actions, where it acts with noise."""
    made: dict[str, Any] = {}
    """How a shipped policy was made and what it scored."""

    @classmethod
    def of(
        cls, robot: RobotSpec, hidden_dims: tuple[int, ...], activation: str = "elu", source: str = ""
    ) -> PolicyInfo:
        """Describe a policy for ``robot``."""
        return cls(
            robot=robot.name,
            observations=observation_names(Schema.from_robot(robot)),
            joints=tuple(robot.joints),
            action_scale=robot.action_scale,
            control_hz=round(1 / robot.control_dt_s, 6),
            hidden_dims=hidden_dims,
            activation=activation,
            source=source,
        )


class MlpPolicy(nn.Module):
    """Deterministic policy: normalised observation through an MLP to the mean action.

    ``forward`` maps observations ``(E, O)`` to actions ``(E, A)``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, info: PolicyInfo) -> None:
        super().__init__()
        self.info = info
        sizes = (len(info.observations), *info.hidden_dims)
        self.register_buffer("mean", torch.zeros(sizes[0]))
        self.register_buffer("scale", torch.ones(sizes[0]))
        kinds = [info.activation] * len(info.hidden_dims)
        kinds[-1:] = [info.last_activation or info.activation] * len(kinds[-1:])
        layers: list[nn.Module] = []
        for fan_in, fan_out, kind in zip(sizes, sizes[1:], kinds, strict=False):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[kind]()]
        self.mlp = nn.Sequential(*layers, nn.Linear(sizes[-1], len(info.joints)))

    def forward(self, observation: Tensor) -> Tensor:
        """Return the mean action ``(E, A)`` for ``observation (E, O)``."""
        return self.mlp((observation - self.mean) / self.scale)


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a network in order."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def save_policy(policy: MlpPolicy, path: Path) -> None:
    """Write a policy and its description to one file, atomically."""
    save_described(path, policy, METADATA_KEY, {"format": FORMAT, "info": policy.info.model_dump(mode="json")})


def load_policy(path: str | Path, robot: str | None = None) -> MlpPolicy:
    """Load a policy written by :func:`save_policy`, in evaluation mode, on the CPU.

    Args:
        path: The file.
        robot: Refuse a policy of another robot, or with other observations or joints than this robot has now.

    Raises:
        RwmError: The file is missing, foreign or damaged, or does not fit the robot.
    """
    path = Path(path)
    content = read_described(path, "policy", "rwm policy, or rwm runs ls --kind policy")
    if content is None or METADATA_KEY not in content[0]:
        what = "is not a policy file of this toolkit"
        if content is not None and MODEL_KEY in content[0]:
            what = "holds a world model, but a policy is expected here"
        raise RwmError(f"{path} {what}.", "the checkpoints/policy.safetensors of a policy or train run")
    metadata, tensors = content
    try:
        raw: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        if raw["format"] != FORMAT:
            raise ValueError(f"format '{raw['format']}', expected '{FORMAT}'")
        policy = MlpPolicy(PolicyInfo(**raw["info"]))
        policy.load_state_dict(tensors)
    except (ValidationError, KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise RwmError(f"The policy inside {path} is damaged: {one_line(exc)}.") from exc
    if robot is not None:
        _refuse_other_robot(path, policy.info, load_robot(robot))
    return policy.eval()


def _refuse_other_robot(path: Path, info: PolicyInfo, robot: RobotSpec) -> None:
    if info.robot != robot.name:
        raise RwmError(f"{path} is a policy of '{info.robot}', not of '{robot.name}'.", f"--robot {info.robot}")
    wanted = PolicyInfo.of(robot, ())
    for what in ("observations", "joints", "action_scale", "control_hz"):
        if getattr(info, what) != getattr(wanted, what):
            raise RwmError(f"{path} was trained on other {what} than robot '{robot.name}' has now.", "rwm policy")
