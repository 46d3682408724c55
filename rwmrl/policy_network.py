"""The network of a policy and its description."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rwmdata.config import Frozen
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema
from rwmrl.observations import observation_names

METADATA_KEY = "rwm_policy"
"""Of a policy's description in a safetensors file."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh, "selu": nn.SELU, "crelu": nn.CELU, "lrelu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "gelu": nn.GELU, "swish": nn.SiLU, "mish": nn.Mish,
}  # fmt: skip
"""Activations by rsl_rl's names; PPO trains with the first three."""


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
