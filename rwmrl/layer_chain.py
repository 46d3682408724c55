"""What a network from elsewhere computes, as a chain of linear layers and activations, and the policy it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rwmdata.robots import RobotSpec
from rwmrl.policy_network import MlpPolicy, PolicyInfo, linear_layers

Linear = tuple[Tensor, Tensor]
"""Weight ``(out, in)`` and bias ``(out,)``."""


@dataclass(frozen=True)
class Chain:
    """Observations ``(E, O)`` minus ``mean``, over ``scale``, through linear layers with activations between them.

    Every method returns a longer chain, and raises ValueError where a policy here has no place for the step.
    """

    mean: Tensor | float = 0.0
    scale: Tensor | float = 1.0
    layers: tuple[Linear, ...] = ()
    activations: tuple[str, ...] = ()
    rows: tuple[int, ...] = field(default=())
    """Shape that the last layer's outputs were brought to, ``()`` for one row."""

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Chain:
        """Go on through a linear layer; ``weight (out, in)``."""
        if weight.dim() != 2 or len(self.layers) != len(self.activations) or self.rows:
            raise ValueError("two linear layers without an activation between them")
        if self.layers and self.layers[-1][0].shape[0] != weight.shape[1]:
            raise ValueError(f"a layer of {weight.shape[1]} inputs after one of {self.layers[-1][0].shape[0]}")
        bias = torch.zeros(len(weight)) if bias is None else bias.flatten()
        if bias.shape != weight.shape[:1]:
            raise ValueError("a layer whose bias does not fit its weight")
        return replace(self, layers=(*self.layers, (weight.float(), bias.float())))

    def activated(self, kind: str) -> Chain:
        """Go on through an activation."""
        if len(self.layers) == len(self.activations):
            raise ValueError(f"the activation {kind} before a linear layer")
        return replace(self, activations=(*self.activations, kind))

    def shifted(self, by: Tensor | float) -> Chain:
        """Add numbers: an observation's mean with the other sign, or a layer's bias."""
        if not self.layers:
            return replace(self, mean=self.mean - by * self.scale)
        weight, bias = self._newest()
        return replace(self, layers=(*self.layers[:-1], (weight, bias + torch.as_tensor(by).flatten())))

    def scaled(self, by: Tensor | float) -> Chain:
        """Multiply by numbers."""
        if not self.layers:
            return replace(self, scale=self.scale / by)
        (weight, bias), factor = self._newest(), torch.as_tensor(by).flatten()
        return replace(self, layers=(*self.layers[:-1], (weight * factor[:, None], bias * factor)))

    def shaped(self, shape: Sequence[int]) -> Chain:
        """Bring the outputs to rows: those of a network that gives mean and standard deviation."""
        if len(self._newest()[0]) != torch.Size(shape).numel():
            raise ValueError(f"outputs of shape {tuple(shape)}")
        return replace(self, rows=tuple(shape))

    def row(self, number: int) -> Chain:
        """Keep one row of the outputs."""
        if len(self.rows) != 2 or not 0 <= number < self.rows[0]:
            raise ValueError(f"row {number} of its outputs")
        weight, bias = self._newest()
        kept = slice(number * self.rows[1], (number + 1) * self.rows[1])
        return replace(self, layers=(*self.layers[:-1], (weight[kept], bias[kept])), rows=())

    def _newest(self) -> Linear:
        if len(self.layers) == len(self.activations):
            raise ValueError("numbers added to or multiplied with an activation's outputs")
        return self.layers[-1]

    def policy(self, robot: RobotSpec, source: str) -> MlpPolicy:
        """Return the policy of ``robot`` that it is; it has at least one layer.

        Raises:
            ValueError: It reads or gives other numbers than the robot has, or has parts that a policy here does not.
        """
        if len(self.layers) == len(self.activations):
            raise ValueError(f"its actions pass through {self.activations[-1]}, which a policy here does not have")
        if self.rows:
            raise ValueError(f"it gives {self.rows[0]} rows of numbers")
        inputs, outputs = self.layers[0][0].shape[1], len(self.layers[-1][0])
        info = PolicyInfo.of(robot, (), source=source)
        if (inputs, outputs) != (len(info.observations), len(info.joints)):
            own = f"{len(info.observations)} and {len(info.joints)}"
            raise ValueError(
                f"it reads {inputs} observations and gives {outputs} actions, robot '{robot.name}' has {own}"
            )
        kinds = self.activations or ("elu",)
        if len({*kinds[:-1]}) > 1:
            raise ValueError(f"its activations differ: {', '.join(kinds)}")
        about = {"hidden_dims": tuple(len(w) for w, _ in self.layers[:-1]), "activation": kinds[0]}
        last = kinds[-1] if kinds[-1] != kinds[0] else None
        with torch.random.fork_rng(devices=[]):
            policy = MlpPolicy(info.model_copy(update={**about, "last_activation": last}))
        with torch.no_grad():
            for layer, (weight, bias) in zip(linear_layers(policy.mlp), self.layers, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
            policy.mean.copy_(torch.as_tensor(self.mean).flatten())
            policy.scale.copy_(torch.as_tensor(self.scale).flatten())
        numbers = policy.state_dict().values()
        if not all(bool(torch.isfinite(v).all()) for v in numbers) or not bool((policy.scale != 0).all()):
            raise ValueError("its weights or normaliser are not finite")
        return policy.eval()
