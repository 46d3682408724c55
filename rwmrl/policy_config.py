"""Configuration of a policy's training in imagination, and its presets; readable without the package that trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from rwmdata.config import Frozen
from rwmmodel.devices import PrecisionChoice
from rwmrl.envs.imagination import ImaginationConfig
from rwmrl.judge import JudgeConfig
from rwmrl.ppo_config import PPOConfig

PRESETS: Mapping[str, Mapping[str, object]] = {
    "smoke": {
        "iterations": 4, "num_envs": 64, "checkpoint_interval": 2, "episode_steps": 48, "precision": "auto",
    },
    # A model fitted for minutes is only right for a second or so, and near the data's actions.
    "demo": {
        "iterations": 80, "checkpoint_interval": 20, "num_envs": 512, "episode_steps": 64, "init_std": 0.4,
        "precision": "auto",
    },
    # docs/policies.md says why.
    "laptop": {
        "iterations": 180, "checkpoint_interval": 30, "num_envs": 1024, "warm_start": "bc", "critic_first": 15,
        "desired_kl": 0.02, "init_std": 0.3, "ema": 0.9, "lam": 0.2, "anchor": 1.0, "fall_penalty": 3.0,
        "push_velocity": 1.0, "precision": "auto",
    },
    "paper": {"iterations": 2500, "num_envs": 4096, "num_steps": 100},
}  # fmt: skip
CLONE, NOTHING = "bc", "none"
"""What ``warm_start`` may be beside a run: a clone of the dataset's behaviour, or none in place of the preset's."""


class PolicyConfig(Frozen):
    """Options of :func:`~rwmrl.imagination_training.train_policy`."""

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "laptop"

    iterations: int = Field(500, ge=1)
    imagination: ImaginationConfig = ImaginationConfig()
    ppo: PPOConfig = PPOConfig()
    warm_start: str | None = None
    """Policy or train run whose networks this one begins with; one of behaviour cloning, and a policy file, give the
    actor alone. ``bc`` is a clone of the dataset's behaviour with the same seed and layers, made where there is none
    yet."""
    judge: str | None = None
    """Model that the policy is not trained in: the checkpoint it thinks most of becomes the policy, in place of the
    last one."""
    judging: JudgeConfig = JudgeConfig()
    precision: PrecisionChoice = "float32"
    """Arithmetic of the model and of PPO's updates; a policy acts in float32, or in ``tf32`` with it. ``auto`` is the
    fastest here, and what it was stands in the run's record."""
    seed: int = 0
    device: str = "auto"
    wandb: str | None = None
    """Project of Weights & Biases the metrics go to as well."""

    @field_validator("warm_start", mode="before")
    @classmethod
    def _from_nothing(cls, value: object) -> object:
        return None if value == NOTHING else value

    @model_validator(mode="before")
    @classmethod
    def _seed_of_imagination(cls, value: object) -> object:
        """Let imagination follow the seed of the whole where it is given none of its own."""
        if not isinstance(value, Mapping) or "seed" not in value:
            return value
        own = value.get("imagination", {})
        return {**value, "imagination": {"seed": value["seed"], **own}} if isinstance(own, Mapping) else value
