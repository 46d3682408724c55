"""Our PPO configuration as rsl_rl's own, and what its networks need in mixed precision."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwmmodel.devices import Precision
from rwmrl.policy_network import linear_layers
from rwmrl.ppo_config import PPOConfig
from rwmrl.symmetry import Mirror

if TYPE_CHECKING:
    from tensordict import TensorDict


def to_rsl_rl(config: PPOConfig, mirror: Mirror | None = None, precision: Precision = "float32") -> dict[str, Any]:
    """Return rsl_rl's configuration; a new dict each time, because rsl_rl changes the one it is given.

    ``mirror`` mirrors the robot; it is needed where ``config.symmetry`` is on. With ``bfloat16`` the networks' products
    are mixed in an update; for the last layer see :func:`keep_outputs`.
    """
    symmetry: dict[str, object] = {}
    if config.symmetry and mirror:
        function = partial(with_mirror_image, mirror)
        symmetry = {"symmetry_cfg": {"use_data_augmentation": True, "data_augmentation_func": function}}
    network: dict[str, object] = {"class_name": "MLPModel", "obs_normalization": config.obs_normalization}
    network |= {"hidden_dims": list(config.hidden_dims), "activation": config.activation}
    exploration = {"class_name": "GaussianDistribution", "init_std": config.init_std}
    return {
        "num_steps_per_env": config.num_steps, "save_interval": config.checkpoint_interval,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**network, "distribution_cfg": exploration}, "critic": {**network},
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": config.epochs, "num_mini_batches": config.mini_batches,
            "clip_param": config.clip, "gamma": config.gamma, "lam": config.gae_lambda,
            "value_loss_coef": config.value_coef, "use_clipped_value_loss": True, "entropy_coef": config.entropy_coef,
            "learning_rate": config.lr, "schedule": config.schedule, "desired_kl": config.desired_kl,
            "max_grad_norm": config.max_grad_norm, "use_mixed_precision": precision == "bfloat16", **symmetry,
        },
    }  # fmt: skip


def keep_outputs(network: nn.Module) -> None:
    """Let a network's last layer compute in float32 within mixed precision.

    Its output is a mean whose distance from an action is told in standard deviations, or a value: too coarse in
    bfloat16, which has 8 bits of mantissa.
    """
    last = linear_layers(network)[-1]

    def forward(input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.float(), last.weight, last.bias)

    last.forward = forward  # type: ignore[method-assign]


def with_mirror_image(
    mirror: Mirror, env: object, obs: TensorDict | None, actions: Tensor | None
) -> tuple[TensorDict | None, Tensor | None]:
    """Return observations and actions, each followed by its mirror image, as rsl_rl's augmentation expects."""
    if obs is not None:
        both: Any = (obs, obs.apply(mirror.observations))
        obs = torch.cat(both)  # type: ignore[assignment]
    if actions is not None:
        actions = torch.cat([actions, mirror.actions(actions)])
    return obs, actions
