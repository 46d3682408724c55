"""One of our environments as rsl_rl takes it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rwmdata.optional import optional_import
from rwmrl.envs.base import Observations, VecEnv
from rwmrl.snapshots import Snapshot

needing_rsl_rl = partial(
    optional_import, "PPO needs the package rsl-rl-lib 5.4 or newer", extra="rl", advice=", or rwm doctor"
)
"""Context in which rsl_rl, and what comes with it, is imported."""

with needing_rsl_rl():
    from tensordict import TensorDict


class RslVecEnv:
    """One of our environments in the form rsl_rl expects.

    Attributes:
        current: Observations of the last step, if any, which :meth:`get_observations` repeats: new ones would be of
            the same state with other noise.
    """

    current: TensorDict | None = None

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.num_actions = env.num_actions
        self.max_episode_length, self.device = env.max_episode_length, env.device
        self.cfg: dict[str, object] = {}

    @property
    def num_envs(self) -> int:
        """How many environments there are now."""
        return self.env.num_envs

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since the last reset, ``(E,)``."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.env.episode_length_buf = value

    def _pack(self, observations: Observations) -> TensorDict:
        return TensorDict({"policy": observations["policy"]}, batch_size=[self.num_envs], device=self.device)

    def get_observations(self) -> TensorDict:
        """Return the policy's observations."""
        return self._pack(self.env.get_observations()) if self.current is None else self.current

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, object]]:
        """Step; time-outs are passed on so that their value is bootstrapped: they are not falls."""
        # rsl_rl collects in inference mode; its tensors could not be changed in place after training.
        with torch.inference_mode(False), torch.no_grad():
            step = self.env.step(actions.clone())
        extras = {"time_outs": step.truncated.float(), "log": step.log}
        self.current = self._pack(step.observations)
        return self.current, step.reward, step.done.long(), extras

    def state(self) -> Snapshot | None:
        """Return the environment's state with the current observations, if it can tell."""
        state = self.env.state()
        return None if state is None else {"env": state, "observations": self.get_observations()["policy"].clone()}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`."""
        self.env.restore(state["env"])
        self.current = self._pack({"policy": state["observations"]})
