"""The contract of every vectorised environment: simulator, imagination, adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rwmdata.config import Frozen
from rwmdata.schema import Schema
from rwmrl.observations import observation_groups
from rwmrl.snapshots import Snapshot

CONTACT_FORCE_N = 1.0
"""A body touches the ground where the net force on it exceeds this."""
SOUND_LIMIT = 1.0e4
"""No state of a legged robot comes near this, in SI units or normalised; one that does has blown up."""

Observations = dict[str, Tensor]
"""Observation groups: ``policy (E, 48)`` with noise; ``system_state (E, S)``, ``system_action (E, A)``,
``system_contact (E, C)`` and ``system_termination (E, 1)`` without, in physical units."""


class EnvOptions(Frozen):
    """A task and the circumstances it is simulated in."""

    task: str = "Pretrain-v0"
    """One of ``rwmrl.tasks.TASKS``, or an id registered with another simulator than the embedded one."""
    num_envs: Annotated[int, Field(ge=1)] = 1
    """Robots simulated side by side."""
    seed: int = 0
    """The same seed gives the same motion."""
    episode_length_s: Annotated[float, Field(gt=0)] | None = None
    """Time limit of an episode; the robot's or the simulator's own when None."""
    pushes: bool | None = None
    """Kick the base; as the task has it when None. Likewise the next two."""
    noise: bool | None = None
    """Observation noise."""
    randomize: bool | None = None
    """Vary the robots."""
    bounds_m: tuple[float, float] | None = None
    """Length and width of a rectangle around the origin that commands keep the robot in; embedded simulator only."""
    device: str = "auto"
    """Where a simulator that runs on either computes: auto, cpu, cuda or cuda:N. The embedded one has the processor."""
    threads: Annotated[int, Field(ge=0)] | None = None
    """Physics threads of the embedded simulator; 0 steps on the calling thread, None takes the cores this process may
    use."""


@dataclass(frozen=True)
class Step:
    """Outcome of one control step; tensors are over E environments."""

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
    """Steps since training began, for schedules; a resumed training sets it."""
    _noise_scale: Tensor | None
    """Half width of the noise on the policy's observation, see :func:`~rwmrl.observations.noise_scale`."""
    _noise_generator: torch.Generator

    @property
    @abstractmethod
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), base frame, ``(E, 3)``."""

    @abstractmethod
    def reset(self) -> Observations:
        """Start a new episode in every environment."""

    def get_observations(self) -> Observations:
        """Return the observations of the current state; every call draws new noise, and only ``policy`` is noisy."""
        rows, scale, generator = self.current_rows(), self._noise_scale, self._noise_generator
        return observation_groups(rows, self.command, self.schema, scale, generator)

    @abstractmethod
    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)`` for one control step."""

    @abstractmethod
    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``; right after a reset its action is the one before it.

        That action is zero in a simulator; in imagination it is the last of the recorded window.
        """

    @property
    def base_position(self) -> Tensor | None:
        """Position of the base in the world, m, ``(E, 3)``; None where it is not told."""
        return None

    @property
    def base_quaternion(self) -> Tensor | None:
        """Orientation of the base in the world, (w, x, y, z), ``(E, 4)``; None where it is not told."""
        return None

    @property
    def pushed(self) -> Tensor | None:
        """Robots whose base the last step kicked, ``(E,)`` bool; None where it is not told."""
        return None

    def episode_parameters(self) -> dict[str, Tensor]:
        """Return the values domain randomisation gave each environment's current episode, each ``(E,)``."""
        return {}

    def state(self) -> Snapshot | None:
        """Return all that the coming steps depend on beside their actions, in copies that later steps leave alone.

        None where a simulator cannot tell; a resumed training then begins with new episodes. An environment made of
        others has a state if all of them have.
        """
        return None

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state` of an environment made alike: the same actions give the same steps, bit for bit.

        On a GPU they are the same but for what its arithmetic leaves open. The next step's noise is restored too, so
        the observations that were current then are to be kept by whoever acts.

        Raises:
            KeyError, ValueError: The state is of another environment.
        """
        raise NotImplementedError(f"{type(self).__name__} has no state to restore.")

    def close(self) -> None:  # noqa: B027
        """Release threads and processes; most environments hold none."""
