"""A policy's training that begins with the networks of another run, or with a policy file."""

from __future__ import annotations

from torch import Tensor, nn

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.runs import Checkpoint
from rwmdata.text import quoted
from rwmmodel.checkpoint import load_state
from rwmrl.obs_normalizer import normalizer_state, with_normalizer
from rwmrl.policy_file import load_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo
from rwmrl.ppo_config import PPOConfig

AVERAGED = "averaged"
"""Key of the averaged actor's weights in a saved state."""
EXPLORATION = "distribution."
"""Prefix of the actor's tensors of exploration."""


def begin_with(source: Checkpoint, actor: nn.Module, critic: nn.Module, robot: RobotSpec, config: PPOConfig) -> None:
    """Give an actor and a critic of rsl_rl the networks and normalisers of another run, but not its exploration.

    A file, or a run that keeps only a policy (behaviour cloning), gives the actor and the normalisers; the critic stays
    as it is.

    Raises:
        RwmError: There is no policy to begin with, or its networks, observations or actions are others than ours.
    """
    kept = source.run.state_file if source.run and source.run.state_file.exists() else None
    state = load_state(kept, next(actor.parameters()).device) if kept else None
    policy = load_policy(source.file, robot, strict=False)
    _refuse_other(policy.info, source.id, robot, config)
    state = state or _state_of(policy, critic)
    if AVERAGED in state:  # The policy of that run is the averaged actor, not its newest one.
        averaged = {f"mlp.{k}": v for k, v in policy.mlp.state_dict().items()}
        state = {**state, "actor_state_dict": {**state["actor_state_dict"], **averaged}}
    try:
        for network, name in ((actor, "actor_state_dict"), (critic, "critic_state_dict")):
            own = {k: v for k, v in network.state_dict().items() if k.startswith(EXPLORATION)}
            given = {k: v for k, v in state[name].items() if not k.startswith(EXPLORATION)}
            network.load_state_dict(with_normalizer(given, config.obs_normalization) | own)
    except (RuntimeError, KeyError) as exc:
        raise RwmError(f"The networks of {source.id} do not fit ours: {one_line(exc)}.", "rwm runs ls") from exc


def _refuse_other(info: PolicyInfo, name: str, robot: RobotSpec, config: PPOConfig) -> None:
    own, misfit = PolicyInfo.of(robot, config.hidden_dims), f"The networks of {name} do not fit ours"
    for what in ("observations", "joints"):
        if getattr(info, what) != getattr(own, what):
            fault = f"it is a policy of '{info.robot}', with other {what} than '{robot.name}' has"
            raise RwmError(f"{misfit}: {fault}.", f"--robot {quoted(info.robot)}")
    if info.hidden_dims != own.hidden_dims:
        sizes = [str(size) for size in info.hidden_dims]
        hint = f"--set ppo.hidden_dims=[{','.join(sizes)}]"
        raise RwmError(f"{misfit}: its hidden layers are {' x '.join(sizes)}.", hint)
    if {info.activation, info.last_activation} - {config.activation, None}:
        hint = "" if info.last_activation else f"--set ppo.activation={info.activation}"
        raise RwmError(f"{misfit}: it has other activations.", hint)


def _state_of(policy: MlpPolicy, critic: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return a policy's actor, and our critic behind its normaliser, as a checkpoint holds them."""
    normalizer = normalizer_state(policy.mean, policy.scale)
    actor = {f"mlp.{k}": v for k, v in policy.mlp.state_dict().items()}
    own = {k: v for k, v in critic.state_dict().items() if k.startswith("mlp.")}
    return {"actor_state_dict": normalizer | actor, "critic_state_dict": normalizer | own}
