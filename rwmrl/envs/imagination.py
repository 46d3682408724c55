"""The world model as an environment: what a policy is trained in (arXiv:2504.16680, MOPO-PPO)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.robots import Frozen, RobotSpec
from rwmdata.windows import window_starts
from rwmmodel.data import RowStore
from rwmmodel.ensemble import DynamicsEnsemble, Prediction
from rwmrl.commands import CommandConfig, CommandSampler
from rwmrl.envs.base import Observations, Step, VecEnv
from rwmrl.observations import add_noise, noise_scale, policy_observation
from rwmrl.rewards import RewardModel


class ImaginationConfig(Frozen):
    """Options of :class:`ImaginationEnv`; the defaults are the paper's, at laptop size."""

    num_envs: int = Field(1024, ge=1)
    episode_steps: int = Field(256, ge=1)
    rollout: Literal["member", "mean"] = "member"
    """Which prediction is followed: a random member's per environment, redrawn at reset, or the ensemble mean."""
    lam: float = Field(1.0, ge=0)
    """Penalty weight lambda."""
    init_share: float = Field(0.8, ge=0, le=1)
    """Share of starts from the beginnings of recorded episodes; the others start anywhere in the data."""
    noise: bool = True
    """Noise on the policy's observation."""
    command: CommandConfig = CommandConfig(resample_s=(2.0, 2.4))
    push_velocity: float = Field(0.5, ge=0)
    """Half width of the change of the base's x and y velocity, m/s; 0 pushes never."""
    push_interval_steps: tuple[int, int] = (48, 96)
    seed: int = 0


class ImaginationEnv(VecEnv):
    """E imagined robots that move as a frozen dynamics ensemble predicts.

    A new episode starts from a window of recorded rows: the model reads its whole history, and the last row's action
    is the policy's last action. Per step: reward of the predicted state (the simulator's own reward terms), minus
    ``lam * epistemic * dt``; predicted contacts and termination are sigmoids rounded. An environment whose prediction
    is not finite is reset, gets no reward and is counted in ``log["non_finite"]``.

    Args:
        model: The ensemble; it is put in evaluation mode and never trained here.
        dataset: Where the starts come from (its train split).
        robot: Gives the rewards.
        config: Options.

    Raises:
        RwmError: Model and dataset do not fit, or no episode is as long as the model's history.
    """

    def __init__(
        self, model: DynamicsEnsemble, dataset: Dataset, robot: RobotSpec, config: ImaginationConfig | None = None
    ) -> None:
        c = self.config = config or ImaginationConfig()
        self.model = model.eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        self.schema, self.num_envs = dataset.schema, c.num_envs
        self.num_actions, self.control_dt_s = self.schema.dims["action"], 1 / dataset.control_hz
        self.max_episode_length = c.episode_steps
        self.generator = torch.Generator(self.device).manual_seed(c.seed)
        self._starts = _start_sets(dataset, model.config.history, self.device)
        self._store = RowStore(dataset, model.normalizer, self.device)
        self._commands = CommandSampler(c.num_envs, c.command, self.control_dt_s, self.generator, self.device)
        self.rewards = RewardModel(robot, self.schema, c.num_envs, self.device)
        self._noise_scale = noise_scale(self.schema, self.device)
        self._velocity_xy = self.schema.group("base_lin_vel").start + torch.arange(2, device=self.device)
        self.member_ids = torch.zeros(c.num_envs, dtype=torch.int64, device=self.device)
        self.episode_length_buf = torch.zeros(c.num_envs, dtype=torch.int64, device=self.device)
        self._push_left = torch.zeros(c.num_envs, dtype=torch.int64, device=self.device)
        self._state = torch.zeros(c.num_envs, self.schema.dims["state"], device=self.device)
        self._rows = torch.zeros(c.num_envs, self.schema.width, device=self.device)
        with torch.no_grad():
            everyone = torch.arange(c.num_envs, device=self.device)
            windows = self._draw_windows(c.num_envs)
            self._carry = model.warm_up(windows[0][:, :-1], windows[1][:, 1:])
            self._begin(everyone, *windows)

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), ``(E, 3)``."""
        return self._commands.command

    @torch.no_grad()
    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        self._reset(torch.arange(self.num_envs, device=self.device))
        return self.get_observations()

    def get_observations(self) -> Observations:
        """Return the five observation groups of the current predicted state; only ``policy`` is noisy."""
        s = self.schema
        state, action = self._rows[:, s.state], self._rows[:, s.action]
        policy = policy_observation(state, self.command, action, s)
        if self.config.noise:
            policy = add_noise(policy, self._noise_scale, self.generator)
        return {
            "policy": policy,
            "system_state": state.clone(),
            "system_action": action.clone(),
            "system_contact": self._rows[:, s.contact].clone(),
            "system_termination": self._rows[:, s.termination].clone(),
        }

    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``, physical units."""
        return self._rows.clone()

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Predict one step under ``actions (E, A)``; environments that are done start from new recorded windows."""
        self._push()
        action = actions.to(self.device, torch.float32)
        members = self.member_ids if self.config.rollout == "member" else None
        prediction, self._carry = self.model.step(
            self._state, self.model.normalizer.action(action), self._carry, members
        )
        bad = self._take_in(prediction, action)
        self.episode_length_buf += 1
        self._commands.advance()
        rows, s = self._rows, self.schema
        reward, terms = self.rewards.compute(rows[:, s.state], rows[:, s.contact], action, self.command)
        penalty = self.config.lam * prediction.epistemic * self.control_dt_s
        penalised = torch.where(bad, torch.zeros_like(reward), reward - penalty)
        terminated = (rows[:, -1] > 0.5) & ~bad
        truncated = ((self.episode_length_buf >= self.max_episode_length) & ~terminated) | bad
        log: dict[str, float | Tensor] = {f"reward/{k}": v.mean() for k, v in terms.items()}
        log |= {
            "imagined/reward": reward.mean(),
            "imagined/penalised_reward": penalised.mean(),
            "imagined/epistemic": prediction.epistemic.mean(),
            "imagined/epistemic_max": prediction.epistemic.max(),
            "imagined/ended_by_prediction": terminated.float().mean(),
            "imagined/ended_by_time": truncated.float().mean(),
            "imagined/non_finite": bad.float().sum(),
        }
        transition = rows.clone()
        self._reset((terminated | truncated).nonzero().squeeze(-1))
        return Step(self.get_observations(), penalised, terminated, truncated, transition, log)

    def _take_in(self, prediction: Prediction, action: Tensor) -> Tensor:
        """Make the prediction the current state; return which environments' prediction is not finite, ``(E,)``."""
        if prediction.contact is None or prediction.termination is None:
            raise RwmError("The model gave no contact and termination; imagination needs its auxiliary outputs.")
        s, rows = self.schema, self._rows
        bad = ~torch.isfinite(prediction.state).all(dim=-1) | ~torch.isfinite(prediction.epistemic)
        self._state = torch.where(bad[:, None], self._state, prediction.state)
        rows[:, s.state] = self.model.normalizer.denorm_state(self._state)
        rows[:, s.action] = action
        rows[:, s.contact] = (prediction.contact > 0).float()  # sigmoid(x) rounds to 1 exactly where x > 0
        rows[:, s.termination] = (prediction.termination > 0).float()
        if prediction.extension is not None:
            rows[:, s.extension] = prediction.extension
        prediction.epistemic.masked_fill_(bad, 0.0)
        return bad

    def _draw_windows(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised states and actions ``(n, M, ...)`` and contacts of the last row of recorded windows."""
        from_init = torch.rand(count, generator=self.generator, device=self.device) < self.config.init_share
        first, anywhere = (
            s[torch.randint(len(s), (count,), generator=self.generator, device=self.device)] for s in self._starts
        )
        starts = torch.where(from_init, first, anywhere).cpu().numpy()
        windows = self._store.windows(starts, self.model.config.history)
        return windows.states.clone(), windows.actions.clone(), windows.contact[:, -1].clone()

    def _reset(self, env_ids: Tensor) -> None:
        """Start new episodes in ``env_ids``: one batched pass of the model over their whole histories."""
        if len(env_ids) == 0:
            return
        windows = self._draw_windows(len(env_ids))
        self._carry = self._carry.replace(env_ids, self.model.warm_up(windows[0][:, :-1], windows[1][:, 1:]))
        self._begin(env_ids, *windows)

    def _begin(self, env_ids: Tensor, states: Tensor, actions: Tensor, contact: Tensor) -> None:
        s, normalizer, count = self.schema, self.model.normalizer, len(env_ids)
        state, action = normalizer.denorm_state(states[:, -1]), normalizer.denorm_action(actions[:, -1])
        rows = torch.zeros(count, s.width, device=self.device)
        rows[:, s.state], rows[:, s.action], rows[:, s.contact] = state, action, contact
        self._rows[env_ids], self._state[env_ids] = rows, states[:, -1]
        self.episode_length_buf[env_ids] = 0
        members = self.model.config.members
        self.member_ids[env_ids] = torch.randint(members, (count,), generator=self.generator, device=self.device)
        self._push_left[env_ids] = self._push_interval(count)
        self._commands.reset(env_ids)
        self.rewards.reset(env_ids, state, action)

    def _push(self) -> None:
        """Change the predicted base's horizontal velocity where a push is due, before it is fed back."""
        if self.config.push_velocity == 0:
            return
        self._push_left -= 1
        due = (self._push_left <= 0).nonzero().squeeze(-1)
        if len(due) == 0:
            return
        unit = torch.rand(len(due), 2, generator=self.generator, device=self.device)
        kick = (2 * unit - 1) * self.config.push_velocity
        self._rows[due[:, None], self._velocity_xy] += kick
        self._state[due[:, None], self._velocity_xy] += kick / self.model.normalizer.state_std[self._velocity_xy]
        self._push_left[due] = self._push_interval(len(due))

    def _push_interval(self, count: int) -> Tensor:
        low, high = self.config.push_interval_steps
        return torch.randint(low, high + 1, (count,), generator=self.generator, device=self.device)


def _start_sets(dataset: Dataset, history: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the starts of windows at episode beginnings, and of all windows, both from the train split."""
    train, episodes = dataset.split("train"), dataset.episodes
    anywhere = window_starts(episodes.start, episodes.length, history, train)
    if len(anywhere) == 0:
        raise RwmError(
            f"No training episode of '{dataset.name}' has the {history} rows a start needs.",
            "a dataset with longer episodes",
        )
    first = anywhere[np.isin(anywhere, episodes.start[train])]
    return torch.from_numpy(first).to(device), torch.from_numpy(anywhere).to(device)
