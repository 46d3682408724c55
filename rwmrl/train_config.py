"""Configuration of training in a simulator; readable without the package that trains."""

from __future__ import annotations

from pydantic import Field

from rwmdata.config import Frozen
from rwmrl.ppo_config import PPOConfig


class TrainConfig(Frozen):
    """Options of :func:`train_in_simulator`."""

    task: str = "Init-v0"
    robot: str = "anymal_d"
    backend: str = "auto"
    num_envs: int = Field(4096, ge=1)
    iterations: int = Field(300, ge=1)
    ppo: PPOConfig = PPOConfig(checkpoint_interval=10)
    """Checkpoints are close together because the stages of a run are worth replaying. ``init_std`` is set from the
    next field."""
    exploration_rad: float = Field(0.25, gt=0)
    """Standard deviation of the joint targets that training starts with, rad: the same motion for every action scale.
    With twice as much, noise alone makes every step's reward negative; falling then pays, and PPO learns that first.
    With half as much, a standing robot does not discover that it could walk."""
    rewards: dict[str, float] = {}
    """Weights of reward terms, over those the robot has for the task."""
    warm_start: str | None = None
    """Train run whose networks this one begins with, or a policy file, which gives the actor alone."""
    seed: int = 0
    device: str = "auto"
    """Where the model is, and where Isaac Lab or mjlab simulates; the policy is trained where the simulator is, and the
    embedded one has the processor."""
