"""The affine map between physical units and the space a dynamics model works in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rwmdata.errors import RwmError


class Normalizer(nn.Module):
    """Per-column ``(x - mean) / std`` of state and action; its buffers are part of the model.

    Args:
        state_dim: Number of state columns S.
        action_dim: Number of action columns A.
        mean: Means of state, then action, ``(S + A,)``; 0 when not given.
        std: Standard deviations in the same order, ``(S + A,)``; 1 when not given.

    Raises:
        RwmError: A length does not fit, or a standard deviation is not positive and finite.
    """

    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self, state_dim: int, action_dim: int, mean: np.ndarray | None = None, std: np.ndarray | None = None
    ) -> None:
        super().__init__()
        width = state_dim + action_dim
        mean = np.zeros(width, np.float32) if mean is None else np.asarray(mean, np.float32)
        std = np.ones(width, np.float32) if std is None else np.asarray(std, np.float32)
        if mean.shape != (width,) or std.shape != (width,):
            raise RwmError(f"The normaliser has {mean.size} means and {std.size} stds; the model needs {width} each.")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise RwmError("The normaliser holds a mean that is not finite, or a std that is not finite and positive.")
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(f"state_{name}", torch.from_numpy(values[:state_dim].copy()))
            self.register_buffer(f"action_{name}", torch.from_numpy(values[state_dim:].copy()))

    def state(self, x: Tensor) -> Tensor:
        """Map states ``(..., S)`` from physical units to normalised space."""
        return (x - self.state_mean) / self.state_std

    def denorm_state(self, x: Tensor) -> Tensor:
        """Map states ``(..., S)`` from normalised space to physical units."""
        return x * self.state_std + self.state_mean

    def action(self, x: Tensor) -> Tensor:
        """Map actions ``(..., A)`` from raw policy output to normalised space."""
        return (x - self.action_mean) / self.action_std

    def denorm_action(self, x: Tensor) -> Tensor:
        """Map actions ``(..., A)`` from normalised space to raw policy output."""
        return x * self.action_std + self.action_mean
