"""PPO settings, readable without the package that trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rwmdata.config import Frozen


class PPOConfig(Frozen):
    """PPO settings (arXiv:2504.16680, PPO table)."""

    num_steps: int = Field(24, ge=1)
    """Steps per environment and iteration."""
    epochs: int = Field(5, ge=1)
    mini_batches: int = Field(4, ge=1)
    clip: float = Field(0.2, gt=0)
    gamma: float = Field(0.99, ge=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    value_coef: float = Field(1.0, ge=0)
    entropy_coef: float = Field(0.005, ge=0)
    lr: float = Field(1e-3, gt=0)
    schedule: Literal["adaptive", "fixed"] = "adaptive"
    desired_kl: float = Field(0.01, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    hidden_dims: tuple[int, ...] = Field((128, 128, 128), min_length=1)
    activation: Literal["elu", "relu", "tanh"] = "elu"
    init_std: float = Field(1.0, gt=0)
    obs_normalization: bool = True
    """Normalise observations by their running statistics."""
    symmetry: bool = False
    """Learn from the mirror image of every transition too; the robot must have two like sides."""
    critic_first: int = Field(0, ge=0)
    """Iterations at the beginning in which only the critic learns: one that knows nothing would spoil an actor that
    a training begins with."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per iteration of an exponential moving average of the actor's weights, which is then the policy that is
    saved; 0 for none."""
    checkpoint_interval: int = Field(50, ge=1)
    """Iterations between checkpoints."""
