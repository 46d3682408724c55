"""The world model as an environment to train policies in (arXiv:2504.16680, MOPO-PPO)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.text import quoted
from rwmdata.windows import split_starts
from rwmmodel.data import RowStore
from rwmmodel.ensemble import Carry, DynamicsEnsemble, Prediction
from rwmrl.envs.base import SOUND_LIMIT, Observations, Step, VecEnv
from rwmrl.envs.recorded_starts import RecordedStarts, Start, Starts
from rwmrl.envs.replay_starts import ReplayStarts
from rwmrl.observations import noise_scale, policy_observation
from rwmrl.policy_network import MlpPolicy
from rwmrl.replay import Replay
from rwmrl.rewards import RewardModel
from rwmrl.snapshots import Snapshot, copies, like, put_back, rewind
from rwmrl.velocity_commands import CommandConfig, CommandSampler

HALT_WINDOWS = 4096
"""Most recorded windows used to find the halting threshold."""
REMEMBERED = ("member_ids", "episode_length_buf", "_age", "_push_left", "_state", "_rows")
"""Tensors of the environment itself that steps change."""


class ImaginationConfig(Frozen):
    """Options of :class:`ImaginationEnv`; the defaults are the paper's, at laptop size."""

    num_envs: int = Field(1024, ge=1)
    episode_steps: int = Field(256, ge=1)
    rollout: Literal["member", "mean"] = "member"
    """Which prediction is followed: a random member's per environment, redrawn at reset, or the ensemble mean."""
    lam: float = Field(1.0, ge=0)
    """Penalty weight lambda."""
    lam_ramp_steps: int = Field(0, ge=0)
    """Steps over which lambda rises from 0 to its value; 0 for the whole penalty from the start, as in the paper."""
    penalty: Literal["epistemic", "largest", "calibrated"] = "epistemic"
    """What is penalised: the members' standard deviation summed over state dimensions (the paper's), the summed
    distance of the member farthest from the mean, or the former times the calibration's factor of the step."""
    anchor: float = Field(0.0, ge=0)
    """Weight of the squared distance between an action and that of the policy that training begins with, summed over
    joints: it keeps the policy where the data is. The paper has none."""
    fall_penalty: float = Field(0.0, ge=0)
    """Subtracted from the reward of a step that ends in a predicted fall; the paper has none."""
    halt_quantile: float | None = Field(None, gt=0, lt=1)
    """End an episode as a fall once its penalised uncertainty passes this quantile of that on held-out recorded
    windows, one step ahead (a halt state as in arXiv:2005.05951); None never does."""
    init_share: float = Field(0.8, ge=0, le=1)
    """Share of starts from the beginnings of recorded episodes; the others start anywhere in the data."""
    forgetful_resets: bool = False
    """Reset environments go on from an empty memory and their newest row alone, not from their history: a fault of the
    authors' code, to compare with."""
    noise: bool = True
    """Noise on the policy's observation."""
    command: CommandConfig = CommandConfig(resample_s=(2.0, 2.4))
    push_velocity: float = Field(0.5, ge=0)
    """Largest change of the base's x and y velocity by a push, m/s; 0 for no pushes."""
    push_interval_steps: tuple[int, int] = (48, 96)
    """Fewest and most control steps between two pushes."""
    seed: int = 0

    @field_validator("push_interval_steps")
    @classmethod
    def _check_interval(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError(f"{value} is not a range of at least one step")
        return value

    @field_validator("command")
    @classmethod
    def _check_command(cls, value: CommandConfig) -> CommandConfig:
        if value.heading:
            raise ValueError("a predicted state has no heading to steer to; command yaw rates instead")
        return value


class ImaginationEnv(VecEnv):
    """E imagined robots that move as a frozen dynamics ensemble predicts.

    A new episode starts from a window of recorded rows: the model reads its whole history, and the last row's action
    is the policy's last action. Per step: reward of the predicted state (the simulator's own reward terms), minus
    ``lam * uncertainty * dt`` (by default the epistemic one) and ``anchor * |action - anchor's action|^2 * dt``;
    predicted contacts and termination are sigmoids rounded.
    Then new commands, then pushes: they change the state that the policy sees next and the model goes on from.

    An unsound prediction (not finite, or beyond ``SOUND_LIMIT``) ends its episode as truncated with reward 0. Its
    transition repeats the last sound state, and ``log["imagined/unsound_count"]`` counts it.

    Args:
        model: The ensemble; it is put in evaluation mode and never trained here.
        source: Where episodes start: a dataset's train split, or a replay that the model is fitted on.
        robot: Defines the rewards.
        config: Options.
        anchor: The policy that ``config.anchor`` keeps actions near to.

    Attributes:
        epistemic: Of the last step's predictions, ``(E,)``; 0 for unsound ones.

    Raises:
        RwmError: Model, dataset and robot do not fit, the model is broken or not calibrated where it has to be, no
            episode is as long as its history, or there is no anchor where one is asked for.
    """

    def __init__(
        self,
        model: DynamicsEnsemble,
        source: Dataset | Replay,
        robot: RobotSpec,
        config: ImaginationConfig | None = None,
        anchor: MlpPolicy | None = None,
    ) -> None:
        config = self.config = config or ImaginationConfig()
        if config.anchor and anchor is None:
            raise RwmError("There is no policy for the anchor to hold on to.", "--warm-start bc, or --set anchor=0")
        if isinstance(source, Dataset):
            _refuse_mismatch(model, source, robot)
        if config.penalty == "calibrated" and model.calibration is None:
            raise RwmError("The model was never calibrated, so there is no calibrated penalty.", "rwm model calibrate")
        self.model = model.eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        self.anchor = anchor.to(self.device).eval() if anchor and config.anchor else None
        self.schema, self.num_envs = source.schema, config.num_envs
        self.num_actions, self.control_dt_s = self.schema.dims["action"], robot.control_dt_s
        self.max_episode_length = config.episode_steps
        self.generator = torch.Generator(self.device)
        # Noise has its own stream: switching it off, or observing twice, does not change the motion.
        self._noise_generator = torch.Generator(self.device)
        self.halt_above = math.inf
        self.starts: Starts
        if isinstance(source, Dataset):
            store = RowStore(source, model.normalizer, self.device)
            self.starts = RecordedStarts(model, source, store, config.init_share, self.generator)
            if config.halt_quantile is not None:
                self.halt_above = self._conformal_threshold(source, store, config.halt_quantile)
        else:
            self.starts = ReplayStarts(model, source, self.generator)
        self.reseed()
        self._commands = CommandSampler(config.num_envs, config.command, self.control_dt_s, self.generator, self.device)
        self.rewards = RewardModel(robot, self.schema, config.num_envs, self.device)
        self._noise_scale = noise_scale(self.schema, self.device) if config.noise else None
        self._velocity_xy = self.schema.group("base_lin_vel").start + torch.arange(2, device=self.device)
        # _age counts predictions since the recorded history; episode_length_buf is the trainer's to change.
        counters = torch.zeros(4, config.num_envs, dtype=torch.int64, device=self.device)
        self.member_ids, self.episode_length_buf, self._age, self._push_left = (row.clone() for row in counters)
        self._state = torch.zeros(config.num_envs, self.schema.dims["state"], device=self.device)
        self._rows = torch.zeros(config.num_envs, self.schema.width, device=self.device)
        self.epistemic = torch.zeros(config.num_envs, device=self.device)
        with torch.no_grad():
            start = self.starts.draw(config.num_envs)
            self._carry = start.carry
            self._begin(torch.arange(config.num_envs, device=self.device), start)

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), ``(E, 3)``."""
        return self._commands.command

    @property
    def lam(self) -> float:
        """Penalty weight of the next step: lambda, or less while it is ramped in."""
        config = self.config
        return config.lam * min(self.steps_done / config.lam_ramp_steps, 1.0) if config.lam_ramp_steps else config.lam

    def reseed(self) -> None:
        """Restart every random stream: after a reset the same actions give the same episodes again."""
        self.generator.manual_seed(self.config.seed)
        self._noise_generator.manual_seed(self.config.seed + 1)
        self.starts.begin_anew()

    def state(self) -> Snapshot:
        """Return the imagined states, the model's memory of them, commands, pushes to come and random streams."""
        return {
            "carry": [part.clone() for part in self._carry.parts],
            "commands": self._commands.state(),
            "rewards": self.rewards.state(),
            "starts": self.starts.state(),
            "streams": {"motion": self.generator.get_state(), "noise": self._noise_generator.get_state()},
            "steps_done": self.steps_done,
            **copies(self, REMEMBERED),
        }

    @torch.no_grad()
    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state` of an imagination with the same model and dataset."""
        parts = tuple(like(own, saved) for own, saved in zip(self._carry.parts, state["carry"], strict=True))
        self._carry = Carry(parts[: len(self._carry.state)], parts[len(self._carry.state) :])
        self._commands.restore(state["commands"])
        self.rewards.restore(state["rewards"])
        self.starts.restore(state["starts"])
        self.steps_done = state["steps_done"]
        put_back(self, REMEMBERED, state)
        rewind(self.generator, state["streams"]["motion"])  # After the starts, which draw from it.
        rewind(self._noise_generator, state["streams"]["noise"])

    @torch.no_grad()
    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        self._reset(torch.arange(self.num_envs, device=self.device))
        return self.get_observations()

    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``, physical units; a push is part of it.

        Right after a reset its action is the last one of the recorded window.
        """
        return self._rows.clone()

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Predict one step under ``actions (E, A)``; environments that are done start from new recorded windows."""
        action = actions.to(self.device, torch.float32)
        away = self._distance_from_anchor(action)
        members = self.member_ids if self.config.rollout == "member" else None
        normalised = self.model.normalizer.action(action)
        prediction, self._carry = self.model.step(self._state, normalised, self._carry, members, std=False)
        sound = self._take_in(prediction, action)
        self.episode_length_buf += 1
        self.epistemic = epistemic = prediction.epistemic.masked_fill(~sound, 0.0)
        self._age += 1
        uncertainty = self._uncertainty(prediction, self._age).masked_fill(~sound, 0.0)
        rows, s = self._rows, self.schema
        reward, terms = self.rewards.compute(rows[:, s.state], rows[:, s.contact], action, self.command)
        reward = reward.masked_fill(~sound, 0.0)
        halted = uncertainty > self.halt_above
        terminated = ((rows[:, -1] > 0.5) | halted) & sound
        penalty = self.lam * uncertainty + self.config.anchor * away.masked_fill(~sound, 0.0)
        penalised = reward - penalty * self.control_dt_s - self.config.fall_penalty * terminated
        self.steps_done += 1
        timed_out = (self.episode_length_buf >= self.max_episode_length) & sound & ~terminated
        ended = (terminated | timed_out | ~sound).nonzero().squeeze(-1)
        log: dict[str, float | Tensor] = {f"reward/{k}": v.mean() for k, v in terms.items()}
        log |= {
            "imagined/reward": reward.mean(),
            "imagined/penalised_reward": penalised.mean(),
            "imagined/lam": self.lam,
            "imagined/epistemic": epistemic.mean(),
            "imagined/epistemic_max": epistemic.max(),
            "imagined/ended_by_prediction": terminated.float().mean(),
            "imagined/halted": halted.float().mean(),
            "imagined/ended_by_time": timed_out.float().mean(),
            "imagined/unsound_count": (~sound).float().sum(),
        }
        if self.anchor is not None:
            log["imagined/from_anchor"] = away.mean()
        if len(ended):
            log |= {f"episode_sum/{k}": v[ended] for k, v in self.rewards.episode_sums.items()}
        transition = rows.clone()
        self._commands.advance()
        self._push()
        self._reset(ended)
        return Step(self.get_observations(), penalised, terminated, timed_out | ~sound, transition, log)

    def _take_in(self, prediction: Prediction, action: Tensor) -> Tensor:
        """Make the prediction the current state where it is sound; return where that is, ``(E,)`` bool."""
        contact, termination = prediction.contact, prediction.termination
        if contact is None or termination is None:
            raise RwmError("The model gave no contact and termination; imagination needs its auxiliary outputs.")
        schema, rows = self.schema, self._rows
        outputs = torch.cat((prediction.state, contact, termination, prediction.epistemic[:, None]), dim=-1)
        sound = outputs.abs().amax(dim=-1) < SOUND_LIMIT  # False for NaN too
        self._state = torch.where(sound[:, None], prediction.state, self._state)
        rows[:, schema.state] = self.model.normalizer.denorm_state(self._state)
        rows[:, schema.action] = action
        rows[:, schema.contact] = (contact > 0).float()  # a sigmoid rounds to 1 where its argument is positive
        rows[:, schema.termination] = (termination > 0).float()
        if prediction.extension is not None:
            rows[:, schema.extension] = prediction.extension
        return sound

    def _distance_from_anchor(self, action: Tensor) -> Tensor:
        """Return the squared distance of ``action (E, A)`` from the anchor's without noise, ``(E,)``; 0 without one."""
        if self.anchor is None:
            return action.new_zeros(len(action))
        rows, s = self._rows, self.schema
        observation = policy_observation(rows[:, s.state], self.command, rows[:, s.action], s)
        return (action - self.anchor(observation)).square().sum(dim=-1)

    def _uncertainty(self, prediction: Prediction, step: Tensor) -> Tensor:
        """Return the penalised uncertainty ``(E,)``; ``step (E,)`` counts predictions since the history."""
        if self.config.penalty == "largest":
            means = prediction.member_mean
            return (means - means.mean(dim=0)).abs().sum(dim=-1).amax(dim=0)
        if self.config.penalty == "calibrated" and self.model.calibration is not None:
            return prediction.epistemic * self.model.calibration.at(step)
        return prediction.epistemic

    @torch.no_grad()
    def _conformal_threshold(self, dataset: Dataset, store: RowStore, quantile: float) -> float:
        """Return the quantile of the uncertainty one step ahead of recorded windows no fit has trained on.

        With n windows it is the one of rank ceil((n + 1) quantile), so that a new window passes it with probability
        1 - quantile at most.
        """
        history = self.model.config.history
        starts = split_starts(dataset, "val", history + 1)
        starts = np.random.default_rng(self.config.seed).permutation(starts)[:HALT_WINDOWS]
        windows = store.windows(starts, history + 1)
        prediction = self.model(windows.states[:, :history], windows.actions[:, 1:])
        uncertainty = self._uncertainty(prediction, torch.ones(len(starts), dtype=torch.int64, device=self.device))
        rank = min(math.ceil((len(starts) + 1) * quantile), len(starts))
        return float(uncertainty.sort().values[rank - 1])

    def _reset(self, env_ids: Tensor) -> None:
        """Start new episodes in ``env_ids`` from recorded windows, which the model has read in one batched pass."""
        if len(env_ids) == 0:
            return
        start = self.starts.draw(len(env_ids))
        carry = start.carry.emptied() if self.config.forgetful_resets else start.carry
        self._carry = self._carry.replace(env_ids, carry)
        self._begin(env_ids, start)

    def _begin(self, env_ids: Tensor, start: Start) -> None:
        schema, normalizer, count = self.schema, self.model.normalizer, len(env_ids)
        state, action = normalizer.denorm_state(start.state), normalizer.denorm_action(start.action)
        rows = torch.zeros(count, schema.width, device=self.device)
        rows[:, schema.state], rows[:, schema.action], rows[:, schema.contact] = state, action, start.contact[:, -1]
        self._rows[env_ids], self._state[env_ids] = rows, start.state
        self.episode_length_buf[env_ids] = 0
        self._age[env_ids] = 0
        members = self.model.config.members
        self.member_ids[env_ids] = torch.randint(members, (count,), generator=self.generator, device=self.device)
        self._push_left[env_ids] = self._push_interval(count)
        self._commands.reset(env_ids)
        self.rewards.reset(env_ids, state, action, start.contact)

    def _push(self) -> None:
        """Change the predicted base's horizontal velocity where a push is due."""
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


def _refuse_mismatch(model: DynamicsEnsemble, dataset: Dataset, robot: RobotSpec) -> None:
    """Raise one error that names every mismatch of model, dataset and robot."""
    schema, faults = dataset.schema, []
    for kind in ("state", "action", "extension", "contact"):
        own, size = schema.dims[kind], getattr(model.config, f"{kind}_dim")
        if own != size:
            faults.append(f"the dataset has {own} {kind} columns, the model {size}")
    if not faults and model.info is not None and model.info.columns != schema.csv_names:
        faults.append("the model's columns have other names than the dataset's")
    if schema.joints != tuple(robot.joints) or schema.legs != tuple(robot.legs):
        faults.append(f"the dataset's joints or legs are not those of '{robot.name}'")
    if abs(dataset.control_hz * robot.control_dt_s - 1) > 1e-3:
        rates = f"{dataset.control_hz:g} rows a second, '{robot.name}' {1 / robot.control_dt_s:g}"
        faults.append(f"the dataset has {rates}")
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        faults.append("the model has parameters that are not finite")
    if faults:
        mismatch = f"Nothing can be imagined with this model on '{dataset.name}': {'; '.join(faults)}"
        raise RwmError(f"{mismatch}.", f"rwm fit {quoted(dataset.name)}")
