"""An Adam optimiser's state by its parameters' names, so that it follows them through renaming and stacking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Moments = dict[str, dict[str, Tensor]]
"""Of each parameter by name: ``step``, a scalar, and ``exp_avg`` and ``exp_avg_sq``, of the parameter's shape."""

MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIONAL = ("max_exp_avg_sq",)
"""Kept by AMSGrad."""


def moments_of(state: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> Moments:
    """Return an optimiser's moments by parameter; a parameter that has none yet is left out.

    Args:
        state: Its ``state_dict()``.
        shapes: The parameters' shapes by name, in the optimiser's order.

    Raises:
        ValueError: It is not Adam's, has several groups of parameters, or is of other parameters.
    """
    try:
        (group,) = state["param_groups"]
        numbers, by_number = [int(k) for k in group["params"]], {int(k): dict(v) for k, v in state["state"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ValueError("it is no state of an optimiser with one group of parameters") from exc
    if len(numbers) != len(shapes):
        raise ValueError(f"it is of {len(numbers)} parameters, not of {len(shapes)}")
    return {
        name: _checked(by_number[number], name, shape)
        for number, (name, shape) in zip(numbers, shapes.items(), strict=True)
        if by_number.get(number)
    }


def _checked(of_one: Mapping[str, Any], name: str, shape: torch.Size) -> dict[str, Tensor]:
    if not {"step", *MOMENTS} <= of_one.keys() <= {"step", *MOMENTS, *OPTIONAL}:
        raise ValueError(f"it keeps {', '.join(map(str, of_one))} of {name}, which is not what Adam keeps")
    kept = {}
    for key, value in of_one.items():
        expected = torch.Size() if key == "step" else shape
        tensor = torch.tensor(float(value)) if isinstance(value, int | float) else value
        if not isinstance(tensor, Tensor) or tensor.shape != expected:
            raise ValueError(f"its {key} of {name} is not of the shape {tuple(expected)}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"its {key} of {name} is not finite")
        kept[key] = tensor
    return kept


def optimizer_state(moments: Moments, names: Iterable[str], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the state dict of an Adam optimiser over the parameters ``names``, in that order.

    Its settings are those of the state ``like``, torch's own where there is none. Where ``moments`` has none of a
    parameter, Adam begins anew.
    """
    (usual,) = torch.optim.Adam([torch.zeros(1)]).state_dict()["param_groups"]
    given = like["param_groups"][0] if like else {}
    ordered = list(names)
    state = {k: {key: v.clone() for key, v in moments[n].items()} for k, n in enumerate(ordered) if n in moments}
    group = {**{key: given.get(key, value) for key, value in usual.items()}, "params": list(range(len(ordered)))}
    return {"state": state, "param_groups": [group]}
