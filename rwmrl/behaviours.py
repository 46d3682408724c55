"""The behaviours behind ``--policy``: scripted, shipped with the robot, read from a file, or mixtures of these."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.shipped import ASSETS
from rwmrl.behaviour_base import Behaviour, BehaviourContext, Gaussian, Mixture, Noisy
from rwmrl.envs.base import Observations
from rwmrl.policy_file import load_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo
from rwmrl.scripted import SmoothedRandom, scripted

BEHAVIOURS: dict[str, Callable[[BehaviourContext], Behaviour]] = {
    "scripted": scripted,
    "wander": lambda context: SmoothedRandom(context, (0.1, 1.0)),
}
"""Behaviours that need no policy file."""
RANDOM, MIXED = "random", "mixed"
RANDOM_STD = 1.0
"""Standard deviation of the untrained policy's actions: PPO's own at its start."""
STAGES = "stages"
"""Folder of a training run's intermediate policies, beside a robot's shipped policies."""


class PolicyBehaviour(Behaviour):
    """A trained policy's mean action, computed where the policy's weights are."""

    def __init__(self, policy: MlpPolicy, num_envs: int, name: str) -> None:
        self.policy, self.num_envs, self.name = policy, num_envs, name
        self.device = next(policy.parameters()).device

    @torch.no_grad()
    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        return self.policy(observations["policy"])


def untrained_policy(robot: RobotSpec, seed: int = 0) -> MlpPolicy:
    """Return the policy PPO starts from: small random weights, and actions of standard deviation ``RANDOM_STD``."""
    info = PolicyInfo.of(robot, (128, 128, 128)).model_copy(update={"noise_std": RANDOM_STD})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MlpPolicy(info).eval()


def policy_folders(robot: RobotSpec) -> list[Path]:
    """Return the folders searched for a robot's policies: its own, then the shipped ones."""
    own = [robot.folder / "policies"] if robot.folder else []
    return [*own, ASSETS / "policies" / robot.name]


def shipped_policies(robot: RobotSpec) -> dict[str, Path]:
    """Return the trained policies that come with a robot, by name."""
    return _by_name(robot, "")


def shipped_stages(robot: RobotSpec) -> dict[str, Path]:
    """Return the stages of a training run that come with a robot, by name, earliest first."""
    return _by_name(robot, STAGES)


def _by_name(robot: RobotSpec, below: str) -> dict[str, Path]:
    paths = [p for folder in reversed(policy_folders(robot)) for p in sorted((folder / below).glob("*.safetensors"))]
    return {path.stem: path for path in paths}


def make_behaviour(name: str, context: BehaviourContext, action_noise: float | None = None) -> Behaviour:
    """Return the behaviour called ``name``.

    Args:
        name: A name in ``BEHAVIOURS``; ``random``; the name of a policy shipped with the robot (``expert``,
            ``medium``); ``mixed``, the stages of its training in equal shares; the path of a policy file; or several
            of these with their shares, as in ``expert:0.7,random:0.3``, drawn anew for every episode.
        context: Robot, number of environments and random stream.
        action_noise: Standard deviation of normal noise on every action; what the policy file says when None.

    Raises:
        RwmError: There is no such behaviour, shares are not positive numbers, or a file is not a policy of this robot.
    """
    if "," in name or (":" in name and not Path(name).exists()):
        parts = [_share(part, name) for part in name.split(",")]
        behaviours = [make_behaviour(part, context, action_noise) for part, _ in parts]
        return Mixture(behaviours, [share for _, share in parts], context)
    if name == MIXED:
        stages = shipped_stages(context.robot)
        if not stages:
            raise RwmError(f"No training stages are shipped for {context.robot.name}.", "--policy scripted")
        behaviours = [_load(path, stage, context, action_noise) for stage, path in stages.items()]
        return Mixture(behaviours, [1.0] * len(behaviours), context)
    shipped = shipped_policies(context.robot)
    path = shipped.get(name, Path(name))
    if path.is_file():
        return _load(path, path.stem, context, action_noise)
    if name == RANDOM:
        untrained = PolicyBehaviour(untrained_policy(context.robot), context.num_envs, name)
        return _noisy(untrained, context, action_noise, RANDOM_STD)
    if name in BEHAVIOURS:
        return _noisy(BEHAVIOURS[name](context), context, action_noise, 0.0)
    names = dict.fromkeys([*BEHAVIOURS, RANDOM, *shipped, *([MIXED] if shipped_stages(context.robot) else [])])
    known = f"{', '.join(names)}, or the path of a policy file"
    raise RwmError(f"Unknown policy '{name}'; policies for {context.robot.name}: {known}.", "--policy scripted")


def _load(path: Path, name: str, context: BehaviourContext, action_noise: float | None) -> Behaviour:
    policy = load_policy(path, context.robot)
    return _noisy(PolicyBehaviour(policy, context.num_envs, name), context, action_noise, policy.info.noise_std)


def _noisy(base: Behaviour, context: BehaviourContext, asked: float | None, own: float) -> Behaviour:
    std = own if asked is None else asked
    if std == 0.0:
        return base
    return Noisy(base, Gaussian(context, std), "{}" if std == own else f"{{}}+noise{std:g}")


def _share(part: str, whole: str) -> tuple[str, float]:
    name, _, share = part.strip().rpartition(":")
    value = 0.0
    with suppress(ValueError):
        value = float(share)
    if not name or not 0.0 < value < float("inf"):
        fault = f"'{part.strip()}' in the mixture '{whole}' is not NAME:SHARE with a positive share"
        raise RwmError(f"{fault}.", "--policy expert:0.7,random:0.3")
    return name, value
