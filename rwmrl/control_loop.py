"""The loop of control: a behaviour acts in an environment, step after step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from rwmrl.behaviour_base import Behaviour
from rwmrl.envs.base import Observations, Step, VecEnv

Perception = Callable[[int, Observations], Observations]
"""Turns the environment's observations at step k into what the behaviour sees."""


@dataclass(frozen=True)
class Played:
    """One control step; tensors are on the environment's device."""

    command: Tensor
    """Velocity command ``(E, 3)`` the step was made under."""
    action: Tensor
    """``(E, A)``"""
    step: Step


def play(
    env: VecEnv, behaviour: Behaviour, steps: int | None = None, perception: Perception | None = None
) -> Iterator[Played]:
    """Start new episodes at once and return an iterator that makes a control step for each item.

    The environment resets robots whose episode ends, the behaviour does not notice: a caller that follows more than
    the first episodes calls ``behaviour.reset`` before it asks for the next step.

    Args:
        env: The environment.
        behaviour: Acts on its own device, wherever the environment lives.
        steps: Control steps; no end when None.
        perception: Changes what the behaviour sees.
    """
    observations = env.reset()
    behaviour.reset(torch.arange(env.num_envs))
    return _steps(env, behaviour, observations, steps, perception)


def act(behaviour: Behaviour, observations: Observations, device: torch.device) -> Tensor:
    """Return a behaviour's actions ``(E, A)`` on ``device``; it sees the observations on its own."""
    return behaviour.act({name: group.to(behaviour.device) for name, group in observations.items()}).to(device)


def _steps(
    env: VecEnv, behaviour: Behaviour, observations: Observations, steps: int | None, perception: Perception | None
) -> Iterator[Played]:
    for k in count() if steps is None else range(steps):
        if perception is not None:
            observations = perception(k, observations)
        command, action = env.command.clone(), act(behaviour, observations, env.device)
        step = env.step(action)
        yield Played(command, action, step)
        observations = step.observations
