"""The contract of every vectorised environment: simulator, imagination, adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rwmdata.schema import Schema

Observations = dict[str, Tensor]
"""Observation groups: ``policy (E, 48)`` with noise; ``system_state (E, S)``, ``system_action (E, A)``,
``system_contact (E, C)`` and ``system_termination (E, 1)`` without, in physical units."""


@dataclass(frozen=True)
class Step:
    """What one control step gives; tensors are over E environments."""

    observations: Observations
    """After the automatic reset of environments that are done."""
    reward: Tensor
    """``(E,)``"""
    terminated: Tensor
    """``(E,)`` bool: the episode ended in a terminal state."""
    truncated: Tensor
    """``(E,)`` bool: the episode was cut by its time limit; not a death."""
    transition: Tensor
    """``(E, width)``: the full row this step produced, before any reset."""
    log: dict[str, float | Tensor] = field(default_factory=dict)
    """Numbers worth logging this step."""

    @property
    def done(self) -> Tensor:
        """``(E,)`` bool: terminated or truncated."""
        return self.terminated | self.truncated


class VecEnv(ABC):
    """E environments that step together and reset themselves when done."""

    num_envs: int
    num_actions: int
    max_episode_length: int
    """Control steps after which an episode is truncated."""
    episode_length_buf: Tensor
    """``(E,)`` int64: control steps since the last reset."""
    device: torch.device
    control_dt_s: float
    schema: Schema
    steps_done: int = 0
    """Steps since training began, for what changes over it; a resumed training sets it."""

    @property
    @abstractmethod
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), base frame, ``(E, 3)``."""

    @abstractmethod
    def reset(self) -> Observations:
        """Start a new episode in every environment."""

    @abstractmethod
    def get_observations(self) -> Observations:
        """Return the observations of the current state."""

    @abstractmethod
    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)`` for one control step."""

    @abstractmethod
    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``; right after a reset its action is the one before it.

        That action is zero in a simulator; in imagination it is the last of the recorded window.
        """

    def episode_parameters(self) -> dict[str, Tensor]:
        """Return what was drawn for each environment's current episode by domain randomisation, each ``(E,)``."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Release threads and processes; most environments hold none."""
