"""Observation normalisers of policies, by the names of rsl_rl's tensors: made, or folded into a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]

PREFIX = "obs_normalizer."
STATISTICS = ("_mean", "_var", "_std", "count")
EPSILON = 1e-2
"""What rsl_rl's normaliser adds to a standard deviation."""
WARM_COUNT = 1_000_000
"""Observations that the normaliser of a policy file counts for: new ones move it slowly."""
NEVER_MOVED = 10**15
"""Observations that the identity of a policy without a normaliser counts for: so many that it stays the identity."""


def normalizer_state(mean: Tensor, scale: Tensor) -> Weights:
    """Return the tensors of the normaliser ``(x - mean) / scale``, both ``(O,)``; an identity never moves."""
    identity = bool((mean == 0).all()) and bool((scale == 1).all())
    count = NEVER_MOVED if identity else WARM_COUNT
    std = (scale - EPSILON).clamp_min(0.0).unsqueeze(0)
    values = (mean.unsqueeze(0).clone(), std.square(), std, torch.tensor(count))
    return {PREFIX + name: value for name, value in zip(STATISTICS, values, strict=True)}


def identity_state(inputs: int) -> Weights:
    """Return the tensors of a normaliser of ``inputs`` numbers that changes nothing and stays so."""
    return normalizer_state(torch.zeros(inputs), torch.ones(inputs))


def folded(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a first layer that takes observations as they are.

    Args:
        weight: Of the layer behind the normaliser, ``(hidden, O)``.
        bias: ``(hidden,)``.
        mean: Of the normaliser ``(x - mean) / scale``, ``(O,)``.
        scale: ``(O,)``.
    """
    raw = weight.double() / scale.double()
    return raw.to(weight.dtype), (bias.double() - raw @ mean.double()).to(bias.dtype)


def with_normalizer(network: Mapping[str, Tensor], wanted: bool) -> Weights:
    """Return a network's tensors with a normaliser, or without one: the same function of the observation.

    Raises:
        KeyError: It is no plain network.
    """
    own = {k: v for k, v in network.items() if k.startswith(PREFIX)}
    if wanted == bool(own):
        return dict(network)
    if wanted:
        return {**identity_state(network["mlp.0.weight"].shape[1]), **network}
    mean, scale = own[PREFIX + "_mean"].flatten(), own[PREFIX + "_std"].flatten() + EPSILON
    weight, bias = folded(network["mlp.0.weight"], network["mlp.0.bias"], mean, scale)
    return {k: v for k, v in network.items() if k not in own} | {"mlp.0.weight": weight, "mlp.0.bias": bias}
