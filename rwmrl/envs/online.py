"""The environment of online training: simulated robots whose rows are kept, and imagined ones beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rwmrl.envs.base import Observations, Step, VecEnv
from rwmrl.export import Recorder
from rwmrl.replay import Replay
from rwmrl.snapshots import Snapshot


class OnlineEnv(VecEnv):
    """Simulated robots; every row goes to the replay, and to a recorder where there is one.

    Args:
        real: The simulated robots.
        replay: Keeps their newest rows.
        recorder: Collects the episodes of some of them.
        stage: Gives the name under which the recorder notes the policy that acts.
    """

    def __init__(self, real: VecEnv, replay: Replay, recorder: Recorder | None, stage: Callable[[int], str]) -> None:
        self.real, self.replay, self.recorder, self.stage = real, replay, recorder, stage
        self.num_envs, self.num_actions = real.num_envs, real.num_actions
        self.max_episode_length, self.device = real.max_episode_length, real.device
        self.control_dt_s, self.schema = real.control_dt_s, real.schema
        replay.begin(torch.arange(real.num_envs, device=replay.device), real.current_rows())
        if recorder:
            recorder.start(self._names())

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), ``(E, 3)``."""
        return self.real.command

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since the last reset, ``(E,)``."""
        return self.real.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.real.episode_length_buf = value

    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        observations = self.real.reset()
        self.replay.begin(torch.arange(self.real.num_envs, device=self.replay.device), self.real.current_rows())
        return observations

    def get_observations(self) -> Observations:
        """Return the observations of the current state."""
        return self.real.get_observations()

    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``."""
        return self.real.current_rows()

    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)`` for one control step."""
        command = self.real.command.clone()
        step = self.real.step(actions.to(self.real.device))
        self.steps_done += 1
        self.replay.add(step, self.real.current_rows())
        if self.recorder and not self.recorder.full:
            self.recorder.add(command, step)
            self.recorder.turn_over(step, self._names())
        return step

    def _names(self) -> list[str]:
        return [self.stage(self.steps_done)] * self.real.num_envs

    def state(self) -> Snapshot | None:
        """Return the state of robots, replay and recorder; None where the simulator cannot tell its own."""
        real = self.real.state()
        recorded = self.recorder.state() if self.recorder else None
        return None if real is None else {"real": real, "replay": self.replay.state(), "recorder": recorded}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`.

        Raises:
            KeyError, ValueError: The state is of another environment.
        """
        self.real.restore(state["real"])
        self.replay.restore(state["replay"])
        if self.recorder:
            self.recorder.restore(state["recorder"])

    def close(self) -> None:
        """Release threads and processes."""
        self.real.close()
