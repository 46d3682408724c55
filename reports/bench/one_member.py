"""One ensemble member on its own, as a straightforward reading of the paper would implement it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rwmmodel.heads import StackedMLP, StateHead


def member_output(stack: StackedMLP, member: int, features: Tensor) -> Tensor:
    """Return the output of one member of a stack."""
    hidden = torch.relu(features @ stack.weight_0[member] + stack.bias_0[member])
    return hidden @ stack.weight_1[member] + stack.bias_1[member]


def member_std(head: StateHead, member: int, features: Tensor) -> Tensor:
    """Return the standard deviation one member predicts, its logarithm softly clamped from above, then from below."""
    low = head.min_log_std[member]
    upper = low + head.log_delta[member].exp()
    log_std = upper - F.softplus(upper - member_output(head.log_std, member, features))
    return torch.exp(low + F.softplus(log_std - low))
