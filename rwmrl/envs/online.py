"""The environment of online training: simulated robots whose rows are kept, and imagined ones beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rwmrl.envs.base import Observations, Step, VecEnv
from rwmrl.envs.imagination import ImaginationEnv
from rwmrl.export import Recorder
from rwmrl.replay import Replay
from rwmrl.snapshots import Snapshot


class OnlineEnv(VecEnv):
    """Simulated robots, whose every row goes to the replay, and imagined ones beside them once they are asked for.

    The simulated robots come first in every tensor. What is logged of the imagined ones begins with ``imagined/``.

    Args:
        real: The simulated robots.
        replay: Keeps their newest rows.
        recorder: Collects the episodes of some of them.
        stage: Gives the name under which the recorder notes the policy that acts.
        dream: Makes the imagined robots, from what the replay holds then.

    Attributes:
        imagined: The imagined robots; None until :meth:`imagine`.
    """

    def __init__(
        self,
        real: VecEnv,
        replay: Replay,
        recorder: Recorder | None,
        stage: Callable[[int], str],
        dream: Callable[[], ImaginationEnv],
    ) -> None:
        self.real, self.replay, self.recorder, self.stage, self.dream = real, replay, recorder, stage, dream
        self.num_actions, self.max_episode_length, self.device = real.num_actions, real.max_episode_length, real.device
        self.num_envs = real.num_envs
        self.control_dt_s, self.schema = real.control_dt_s, real.schema
        self.imagined: ImaginationEnv | None = None
        replay.begin(torch.arange(real.num_envs, device=replay.device), real.current_rows())
        if recorder:
            recorder.start(self._names())

    @property
    def num_simulated(self) -> int:
        """How many robots are simulated."""
        return self.real.num_envs

    def imagine(self) -> ImaginationEnv:
        """Let imagined robots act beside the simulated ones from now on; return them.

        Their ages are spread over an episode: else all would begin anew in the same step, again and again.
        """
        if self.imagined is None:
            self.imagined = self.dream()
            count, longest = self.imagined.num_envs, self.imagined.max_episode_length
            self.imagined.episode_length_buf = torch.arange(count, device=self.imagined.device) * longest // count
            self.num_envs = self.num_simulated + self.imagined.num_envs
        return self.imagined

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), ``(E, 3)``."""
        return self._both(self.real.command, lambda imagined: imagined.command)

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since the last reset, ``(E,)``."""
        return self._both(self.real.episode_length_buf, lambda imagined: imagined.episode_length_buf)

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.real.episode_length_buf = value[: self.num_simulated]
        if self.imagined:
            own = value[self.num_simulated :] % self.imagined.max_episode_length
            self.imagined.episode_length_buf = own.to(self.imagined.device)

    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        self.real.reset()
        self.replay.begin(torch.arange(self.num_simulated, device=self.replay.device), self.real.current_rows())
        if self.imagined:
            self.imagined.reset()
        return self.get_observations()

    def get_observations(self) -> Observations:
        """Return the observations of the current state."""
        return self._join(self.real.get_observations(), lambda imagined: imagined.get_observations())

    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``."""
        return self._both(self.real.current_rows(), lambda imagined: imagined.current_rows())

    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)`` for one control step."""
        command = self.real.command.clone()
        step = self.real.step(actions[: self.num_simulated].to(self.real.device))
        self.steps_done += 1
        self.replay.add(step, self.real.current_rows())
        if self.recorder and not self.recorder.full:
            self.recorder.add(command, step)
            self.recorder.turn_over(step, self._names())
        if self.imagined is None:
            return step
        dreamt = self.imagined.step(actions[self.num_simulated :])
        log = step.log | {k: v for k, v in dreamt.log.items() if k.startswith("imagined/")}
        observations = self._join(step.observations, lambda _: dreamt.observations)
        parts = {
            name: torch.cat((getattr(step, name), getattr(dreamt, name).to(self.device)))
            for name in ("reward", "terminated", "truncated", "transition")
        }
        return Step(observations=observations, log=log, **parts)

    def _both(self, real: Tensor, of_imagined: Callable[[ImaginationEnv], Tensor]) -> Tensor:
        """Return a tensor of the simulated robots, followed by that of the imagined ones where there are any."""
        return torch.cat((real, of_imagined(self.imagined).to(self.device))) if self.imagined else real

    def _join(self, real: Observations, of_imagined: Callable[[ImaginationEnv], Observations]) -> Observations:
        if self.imagined is None:
            return real
        dreamt = of_imagined(self.imagined)
        return {name: torch.cat((group, dreamt[name].to(self.device))) for name, group in real.items()}

    def _names(self) -> list[str]:
        return [self.stage(self.steps_done)] * self.real.num_envs

    def state(self) -> Snapshot | None:
        """Return the state of all robots, replay and recorder; None where the simulator cannot tell its own."""
        real = self.real.state()
        recorded = self.recorder.state() if self.recorder else None
        imagined = self.imagined.state() if self.imagined else None
        return real and {"real": real, "imagined": imagined, "replay": self.replay.state(), "recorder": recorded}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`.

        Raises:
            KeyError, ValueError: The state is of another environment.
        """
        self.real.restore(state["real"])
        self.replay.restore(state["replay"])
        if self.recorder:
            self.recorder.restore(state["recorder"])
        if state["imagined"]:
            self.imagine().restore(state["imagined"])

    def begin_anew(self, replay: Snapshot, steps_done: int, recorded: int, dropped: int) -> None:
        """Go on with new episodes where the simulator's own state is lost.

        Args:
            replay: What the replay held.
            steps_done: Steps made before.
            recorded: Rows that the recorder has given away.
            dropped: Episodes that it has left out.

        Raises:
            KeyError, ValueError: The replay is another one.
        """
        self.steps_done = steps_done
        self.replay.restore(replay)
        self.replay.begin(torch.arange(self.num_simulated, device=self.replay.device), self.real.current_rows())
        if self.recorder:
            self.recorder.go_on(recorded, dropped, self._names())

    def close(self) -> None:
        """Release threads and processes."""
        self.real.close()
