"""The checkpoints rsl_rl's runners load act as the policy; with rsl_rl 3 or 5 at hand its own classes load them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rwmdata.robots import load_robot
from rwmmodel.checkpoint import save_state
from rwmrl.deploy import rsl_rl_5_checkpoint, rsl_rl_checkpoint
from rwmrl.policy_file import MlpPolicy, PolicyInfo

try:
    from rsl_rl.modules import ActorCritic
except ImportError:
    ActorCritic = None
try:
    from rsl_rl.algorithms import PPO
    from rsl_rl.models import MLPModel
    from tensordict import TensorDict
except ImportError:
    MLPModel = None


@pytest.fixture
def policy():
    torch.manual_seed(0)
    policy = MlpPolicy(PolicyInfo.of(load_robot("anymal_d"), (32, 16)))
    policy.mean.normal_()
    policy.scale.uniform_(0.1, 3.0)
    return policy


@torch.no_grad()
def test_the_normaliser_is_in_the_first_layer(policy, tmp_path):
    save_state(tmp_path / "model_0.pt", rsl_rl_checkpoint(policy))
    content = torch.load(tmp_path / "model_0.pt", weights_only=True)
    weights, x = content["model_state_dict"], 2 * torch.randn(9, 48)
    sizes = [weights[f"actor.{k}.weight"].shape for k in (0, 2, 4)]
    assert sizes == [(32, 48), (16, 32), (12, 16)] and weights["critic.4.weight"].shape == (1, 16)
    expected = policy(x)
    for layer in (0, 2, 4):
        x = x @ weights[f"actor.{layer}.weight"].T + weights[f"actor.{layer}.bias"]
        x = nn.functional.elu(x) if layer < 4 else x
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)
    assert len(content["optimizer_state_dict"]["param_groups"][0]["params"]) == len(weights)


@pytest.mark.skipif(ActorCritic is None, reason="rsl_rl 3, the one Isaac Lab 2 has, is not installed")
@torch.no_grad()
def test_the_classes_of_rsl_rl_3_load_it(policy):
    x = {"policy": torch.randn(5, 48)}
    groups = {"policy": ["policy"], "critic": ["policy"]}
    network = ActorCritic(x, groups, 12, actor_hidden_dims=[32, 16], critic_hidden_dims=[32, 16])
    content = rsl_rl_checkpoint(policy)
    network.load_state_dict(content["model_state_dict"])
    torch.optim.Adam(network.parameters()).load_state_dict(content["optimizer_state_dict"])
    torch.testing.assert_close(network.act_inference(x), policy(x["policy"]), rtol=0, atol=1e-5)


@pytest.mark.skipif(MLPModel is None, reason="rsl_rl 4 or later is not installed")
@torch.no_grad()
def test_the_algorithm_of_rsl_rl_5_loads_it(policy, tmp_path):
    save_state(tmp_path / "model_0.pt", rsl_rl_5_checkpoint(policy))
    content = torch.load(tmp_path / "model_0.pt", weights_only=True)
    x = TensorDict({"policy": torch.randn(5, 48)}, batch_size=5)
    groups, options = {"actor": ["policy"], "critic": ["policy"]}, {"hidden_dims": [32, 16], "activation": "elu"}
    gaussian = {"class_name": "GaussianDistribution"}
    actor = MLPModel(x, groups, "actor", 12, distribution_cfg=gaussian, **options)
    ppo = PPO(actor, MLPModel(x, groups, "critic", 1, **options), storage=None)
    assert ppo.load(content, None, strict=True) and content["iter"] == 0
    torch.testing.assert_close(ppo.get_policy()(x), policy(x["policy"]), rtol=0, atol=1e-5)
    assert ppo.critic(x).abs().max() == 0
