"""What acts in an environment to collect data: the contract, and behaviours made of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rwmdata.robots import RobotSpec
from rwmrl.envs.base import Observations


class Behaviour(Protocol):
    """Something that acts for E environments."""

    name: str

    def reset(self, env_ids: Tensor) -> None:
        """Start new episodes in ``env_ids (n,)``."""

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""

    def names(self) -> list[str]:
        """Return what acts in each environment's current episode, E names."""


@dataclass(frozen=True)
class Setting:
    """What a behaviour needs to know about the environment it acts in."""

    robot: RobotSpec
    num_envs: int
    generator: torch.Generator
    """All draws come from here."""

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        """Draw ``(count, 1)`` numbers from [low, high)."""
        return low + (high - low) * torch.rand(count, 1, generator=self.generator)


class Gaussian:
    """Independent normal actions of one standard deviation."""

    def __init__(self, setting: Setting, std: float, name: str = "gaussian") -> None:
        self.name, self.std, self._setting = name, std, setting

    def reset(self, env_ids: Tensor) -> None:
        """Do nothing: white noise remembers nothing."""

    def act(self, observations: Observations) -> Tensor:
        """Return actions ``(E, A)``."""
        shape = (self._setting.num_envs, len(self._setting.robot.joints))
        return self.std * torch.randn(shape, generator=self._setting.generator)

    def names(self) -> list[str]:
        """Return the behaviour's name E times."""
        return [self.name] * self._setting.num_envs


class Noisy:
    """A behaviour plus the actions of another: exploration.

    Args:
        base: The behaviour.
        noise: What is added to its actions.
        label: Name of the sum; ``{}`` stands for the base's.
    """

    def __init__(self, base: Behaviour, noise: Behaviour, label: str = "{}") -> None:
        self.base, self.noise, self.label = base, noise, label
        self.name = label.format(base.name)

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


class Mixture:
    """Draws one of several behaviours for every episode."""

    name = "mixture"

    def __init__(self, parts: Sequence[Behaviour], shares: Sequence[float], setting: Setting) -> None:
        self.parts, self._shares, self._setting = list(parts), torch.tensor(shares), setting
        self.choice = torch.zeros(setting.num_envs, dtype=torch.int64)
        self.reset(torch.arange(setting.num_envs))

    def reset(self, env_ids: Tensor) -> None:
        """Draw a behaviour for each of ``env_ids (n,)`` and start it."""
        if len(env_ids) == 0:
            return
        draw = torch.multinomial(self._shares, len(env_ids), replacement=True, generator=self._setting.generator)
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
