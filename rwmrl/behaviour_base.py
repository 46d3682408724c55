"""Behaviours act in an environment to collect data: their base class, and combinations of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rwmdata.robots import RobotSpec
from rwmrl.envs.base import Observations


class Behaviour(ABC):
    """Something that acts for E environments, without memory unless ``reset`` says otherwise."""

    name: str
    num_envs: int
    device = torch.device("cpu")
    """Where observations are expected and actions returned."""

    @abstractmethod
    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""

    def reset(self, env_ids: Tensor) -> None:
        """Start new episodes in ``env_ids (n,)``."""
        return

    def names(self) -> list[str]:
        """Return what acts in each environment's current episode, E names."""
        return [self.name] * self.num_envs


@dataclass(frozen=True)
class BehaviourContext:
    """The environment a behaviour is made for, and its random stream."""

    robot: RobotSpec
    num_envs: int
    generator: torch.Generator
    """Source of all random draws."""

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        """Draw ``(count, 1)`` numbers from [low, high)."""
        return low + (high - low) * torch.rand(count, 1, generator=self.generator)


class Gaussian(Behaviour):
    """Independent normal actions of one standard deviation."""

    name = "gaussian"

    def __init__(self, context: BehaviourContext, std: float) -> None:
        self.num_envs, self.std, self._context = context.num_envs, std, context

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        shape = (self.num_envs, len(self._context.robot.joints))
        return self.std * torch.randn(shape, generator=self._context.generator)


class Noisy(Behaviour):
    """A behaviour with another's actions added, for exploration.

    ``label`` is the name of the sum; ``{}`` in it stands for the base's name.
    """

    def __init__(self, base: Behaviour, noise: Behaviour, label: str = "{}") -> None:
        self.base, self.noise, self.label = base, noise, label
        self.name, self.num_envs = label.format(base.name), base.num_envs

    def reset(self, env_ids: Tensor) -> None:
        """Start new episodes in ``env_ids (n,)``."""
        self.base.reset(env_ids)
        self.noise.reset(env_ids)

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        return self.base.act(observations) + self.noise.act(observations)

    def names(self) -> list[str]:
        """Return what acts in each environment, E names."""
        return [self.label.format(name) for name in self.base.names()]


class Mixture(Behaviour):
    """Draws one of several behaviours for every episode."""

    name = "mixture"

    def __init__(self, parts: Sequence[Behaviour], shares: Sequence[float], context: BehaviourContext) -> None:
        self.parts, self._shares, self._context = list(parts), torch.tensor(shares), context
        self.num_envs = context.num_envs
        self.choice = torch.zeros(context.num_envs, dtype=torch.int64)
        self.reset(torch.arange(context.num_envs))

    def reset(self, env_ids: Tensor) -> None:
        """Draw a behaviour for each of ``env_ids (n,)`` and start it."""
        if len(env_ids) == 0:
            return
        draw = torch.multinomial(self._shares, len(env_ids), replacement=True, generator=self._context.generator)
        self.choice[env_ids] = draw
        for k, part in enumerate(self.parts):
            part.reset(env_ids[draw == k])

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        actions = torch.stack([part.act(observations) for part in self.parts])
        return actions[self.choice, torch.arange(len(self.choice))]

    def names(self) -> list[str]:
        """Return what acts in each environment, E names."""
        return [self.parts[i].name for i in self.choice.tolist()]
