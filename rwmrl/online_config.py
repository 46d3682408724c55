"""Configurations of online training, and their presets; readable without the package that trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from rwmdata.errors import RwmError
from rwmmodel.fit_config import UpdateConfig
from rwmrl.envs.imagination import ImaginationConfig
from rwmrl.train_config import TrainConfig

_LAPTOP_UPDATES: Mapping[str, object] = {
    "fit.batch": 64, "fit.lr": 4e-3, "fit.schedule": "cosine", "fit.loss.sequence_weight": 1.0, "fit.bounded": True,
    "fit.precision": "auto",
}  # fmt: skip
PRETRAIN_PRESETS: Mapping[str, Mapping[str, object]] = {
    "smoke": {
        "num_envs": 32, "iterations": 4, "ppo.checkpoint_interval": 2, "fit.hidden": 16, "fit.head_hidden": 16,
        "fit.members": 2, "fit.batch": 16, "fit.mini_batches": 2, "fit.val_interval": 2, "fit.history": 8,
        "fit.forecast": 4, "fit.precision": "auto",
    },
    # Sized for an hour on two cores.
    "laptop": {"num_envs": 1024, "iterations": 500, "fit.mini_batches": 5, **_LAPTOP_UPDATES},
    # The authors' code: one member, 2000 iterations.
    "reference": {
        "num_envs": 4096, "iterations": 2000, "ppo.checkpoint_interval": 50, "fit.members": 1, "fit.batch": 5000,
        "fit.schedule": "constant",
    },
}  # fmt: skip
FINETUNE_PRESETS: Mapping[str, Mapping[str, object]] = {
    "smoke": {
        "num_envs": 16, "iterations": 4, "ppo.checkpoint_interval": 2, "ppo.critic_first": 2, "fit.batch": 16,
        "fit.mini_batches": 2, "fit.val_interval": 2, "imagination.num_envs": 32, "imagine_after": 2,
        "fit.precision": "auto",
    },
    # docs/online.md says why.
    "laptop": {
        "num_envs": 64, "iterations": 220, "ppo.critic_first": 20, "imagine_after": 5, "exploration_rad": 0.12,
        "ppo.entropy_coef": 0.001, "fit.mini_batches": 5, "imagination.num_envs": 1024, **_LAPTOP_UPDATES,
        "fit.lr": 1e-3,
    },
    "reference": {
        "num_envs": 4096, "iterations": 1500, "ppo.checkpoint_interval": 50, "ppo.critic_first": 500,
        "fit.batch": 5000, "fit.schedule": "constant", "imagine_after": 500, "imagination.num_envs": 8192,
        "imagination.episode_steps": 24,
    },
}  # fmt: skip


class ReplayFitConfig(UpdateConfig):
    """How the model is fitted on the replay."""

    members: int = Field(5, ge=1)
    mini_batches: int = Field(20, ge=0)
    """Updates of the model after every iteration of PPO; 0 leaves it as it is."""
    replay_steps: int = Field(1000, ge=2)
    """Newest rows kept of every robot."""
    held_out: int = Field(16, ge=2)
    """One robot of so many is held out: the model is scored on its rows and never sees them."""
    val_interval: int = Field(25, ge=1)
    """Iterations between scores on the held-out replay."""
    noise_scales: tuple[float, ...] = (0.1, 0.4)
    """Noise under which it is scored too: standard deviations, normalised units, on states and actions it is fed."""


class PretrainConfig(TrainConfig):
    """Options of task Pretrain-v0: a policy trained by PPO in the simulator and a model fitted on its replay."""

    presets: ClassVar = PRETRAIN_PRESETS
    default_preset: ClassVar = "laptop"

    task: str = "Pretrain-v0"
    fit: ReplayFitConfig = ReplayFitConfig()
    model: str | None = None
    """Model that the fit goes on from, a run or a file; a new one when None."""
    export: str | None = None
    """Name of the dataset that the replay is written to."""
    export_transitions: int = Field(1_000_000, ge=1)
    """Most rows of that dataset: those of as many robots as it takes, from the first iteration to the last."""


class FinetuneConfig(PretrainConfig):
    """Options of task Finetune-v0: PPO on simulated and imagined steps together (arXiv:2501.10100, MBPO-PPO).

    It begins with a policy (``warm_start``) and a model. In the first ``ppo.critic_first`` iterations the policy's
    weights stay: the replay fills, the model goes on with it, and the critic learns.
    """

    presets: ClassVar = FINETUNE_PRESETS

    task: str = "Finetune-v0"
    imagine: bool = True
    """False trains on the simulated steps alone: what imagination is to be compared with."""
    imagine_after: int = Field(5, ge=0)
    """Iterations before imagination begins; the replay must hold a window of the model's history by then."""
    imagination: ImaginationConfig = ImaginationConfig(lam=0.0, init_share=0.0, episode_steps=128)
    """Imagined robots, which start anywhere in the replay. An episode that outlasts an iteration goes on with the
    model's memory from before its update."""

    @field_validator("imagination")
    @classmethod
    def _check_imagination(cls, value: ImaginationConfig) -> ImaginationConfig:
        if value.init_share:
            raise ValueError("init_share is for recorded episodes; a replay is started from anywhere")
        if value.halt_quantile is not None or value.penalty == "calibrated":
            raise ValueError("a halting threshold and a calibrated penalty need a model that stays as it is")
        return value


TASKS: Mapping[str, type[TrainConfig]] = {"Pretrain-v0": PretrainConfig, "Finetune-v0": FinetuneConfig}
"""Configuration classes of the tasks that train more than a policy."""


def configuration_of(task: str) -> type[TrainConfig]:
    """Return the class of a training's configuration.

    Raises:
        RwmError: Nothing is trained in the task.
    """
    if task == "Visualize-v0":
        raise RwmError(
            "Visualize-v0 is for looking at a robot and its imagined twin, not for training.", "rwm visualize"
        )
    return TASKS.get(task, TrainConfig)


def recorded_configuration(options: Mapping[str, object]) -> type[TrainConfig]:
    """Return the class of the configuration that a train run was recorded with."""
    if "imagination" in options:
        return FinetuneConfig
    return PretrainConfig if "fit" in options else TrainConfig
