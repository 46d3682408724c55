"""The embedded simulator: E robots stepped together by MuJoCo's threaded rollout."""

from __future__ import annotations

import os

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from torch import Tensor

from rwmdata.robots import Frozen, RobotSpec
from rwmdata.schema import Schema
from rwmrl.commands import CommandConfig, CommandSampler
from rwmrl.envs.base import Observations, Step, VecEnv
from rwmrl.envs.mujoco_model import CONTACT_FORCE_N, load_model, randomized_models, reset_pool
from rwmrl.observations import add_noise, noise_scale, policy_observation
from rwmrl.rewards import RewardModel

STATE_SPEC = mujoco.mjtState.mjSTATE_FULLPHYSICS
TIME, QPOS = 0, 1
"""Where the time and the first position stand in a physics state."""
RANDOMIZED_MODELS = 64


class MujocoEnvConfig(Frozen):
    """Options of :class:`MujocoEnv`."""

    num_envs: int = 1024
    seed: int = 0
    threads: int | None = None
    """Simulation threads; all cores when absent. The result does not depend on it."""
    noise: bool = True
    pushes: bool = True
    randomize: bool = True
    """Draw base mass and centre of mass per environment."""
    push_velocity: float = 0.5
    """Half width of the change of the base's x and y velocity, m/s."""
    push_interval_s: tuple[float, float] = (10.0, 15.0)
    command: CommandConfig = CommandConfig(heading=True)
    reward_weights: dict[str, float] = {}
    """Overrides of the robot's weights."""


class MujocoEnv(VecEnv):
    """A flat-ground velocity task on MuJoCo (arXiv:2504.16680; Isaac Lab's velocity task).

    A control step is ``decimation`` physics steps towards the target ``default + action_scale * action``. The base
    touching the ground with more than 1 N ends an episode; so does the time limit, as a truncation. An environment
    whose physics becomes unstable is reset and counted in ``log["unstable"]``; its step is marked in
    :attr:`unstable` and must not be used as data.

    Attributes:
        unstable: ``(E,)`` bool: the last step's row is not physical.
    """

    def __init__(self, robot: RobotSpec, config: MujocoEnvConfig | None = None) -> None:
        c = self.config = config or MujocoEnvConfig()
        self.robot, self.num_envs, self.num_actions = robot, c.num_envs, len(robot.joints)
        self.schema, self.control_dt_s = Schema.from_robot(robot), robot.control_dt_s
        self.device = torch.device("cpu")
        self.max_episode_length = round(robot.episode_length_s / self.control_dt_s)
        self.generator = torch.Generator().manual_seed(c.seed)
        self._rng = np.random.default_rng(c.seed)
        self._base = load_model(robot)
        models = (
            randomized_models(robot, self._base, RANDOMIZED_MODELS, self._rng) if c.randomize else [self._base.model]
        )
        self._models = [models[i % len(models)] for i in range(c.num_envs)]
        self._pool = reset_pool(robot, self._base, self._rng)
        self._commands = CommandSampler(c.num_envs, c.command, self.control_dt_s, self.generator, self.device)
        self.rewards = RewardModel(robot, self.schema, c.num_envs, self.device, c.reward_weights)
        self._noise_scale = noise_scale(self.schema, self.device)
        self._default = np.array(robot.default_joint_pos)
        self._allocate()
        self.reset()

    def _allocate(self) -> None:
        model, envs, steps = self._base.model, self.num_envs, self.robot.decimation
        threads = self.config.threads or os.cpu_count() or 1
        self._rollout = Rollout(nthread=threads)
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._physics = np.zeros((envs, mujoco.mj_stateSize(model, STATE_SPEC)))
        self._states = np.zeros((envs, steps, self._physics.shape[1]))
        self._sensors = np.zeros((envs, steps, model.nsensordata))
        self._control = np.zeros((envs, steps, model.nu))
        self._rows = torch.zeros(envs, self.schema.width)
        self._push_left = np.zeros(envs, np.int64)
        self.episode_length_buf = torch.zeros(envs, dtype=torch.int64)
        self.unstable = torch.zeros(envs, dtype=torch.bool)
        qvel = QPOS + model.nq
        self._qvel = slice(qvel, qvel + model.nv)
        self._joint_pos = QPOS + self._base.qpos_index
        self._joint_vel = qvel + self._base.qvel_index

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), ``(E, 3)``."""
        return self._commands.command

    @property
    def base_position(self) -> np.ndarray:
        """Position of the base in the world, ``(E, 3)``, m."""
        return self._physics[:, QPOS : QPOS + 3]

    @property
    def base_quaternion(self) -> np.ndarray:
        """Orientation of the base in the world, ``(E, 4)``, w first."""
        return self._physics[:, QPOS + 3 : QPOS + 7]

    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        self._reset(np.arange(self.num_envs))
        return self.get_observations()

    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)`` for one control step; environments that are done start a new episode."""
        self._push()
        action = actions.detach().to(self.device, torch.float32)
        self._control[:] = (self._default + self.robot.action_scale * action.numpy())[:, None]
        before = self._physics[:, TIME].copy()
        self._rollout.rollout(
            self._models, self._data, initial_state=self._physics, control=self._control,
            nstep=self.robot.decimation, state=self._states, sensordata=self._sensors, skip_checks=True,
        )  # fmt: skip
        self._physics[:] = self._states[:, -1]
        elapsed = self._physics[:, TIME] - before
        stable = np.isfinite(self._physics).all(axis=1) & (np.abs(elapsed - self.control_dt_s) < 1e-6)
        self.unstable = torch.from_numpy(~stable)
        self._read_rows(action)
        self.episode_length_buf += 1
        return self._finish_step(action)

    def _finish_step(self, action: Tensor) -> Step:
        rows, schema = self._rows, self.schema
        self._commands.advance(torch.from_numpy(self._yaw()))
        state, contact = rows[:, schema.state], rows[:, schema.contact]
        reward, terms = self.rewards.compute(state, contact, action, self.command)
        terminated = rows[:, -1] > 0.5
        truncated = (self.episode_length_buf >= self.max_episode_length) & ~terminated
        transition = rows.clone()
        ended = terminated | truncated | self.unstable
        reward = torch.where(self.unstable, torch.zeros_like(reward), reward)
        log: dict[str, float | Tensor] = {f"reward/{k}": v.mean() for k, v in terms.items()}
        log["unstable"] = float(self.unstable.sum())
        self._reset(ended.numpy().nonzero()[0])
        return Step(self.get_observations(), reward, terminated, truncated | self.unstable, transition, log)

    def get_observations(self) -> Observations:
        """Return the five observation groups of the current state; only ``policy`` is noisy."""
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
        """Return the row of the current state, ``(E, width)``."""
        return self._rows.clone()

    def _read_rows(self, action: Tensor) -> None:
        """Fill the rows from the physics states and sensors of the last substep."""
        rows, s = self._rows.numpy(), self.schema
        _write_base(rows, s, self.base_quaternion, self._physics[:, self._qvel])
        rows[:, s.group("joint_pos")] = self._physics[:, self._joint_pos] - self._default
        rows[:, s.group("joint_vel")] = self._physics[:, self._joint_vel]
        sensors, joints = self._sensors[:, -1], self.num_actions
        rows[:, s.group("joint_torque")] = sensors[:, :joints]
        force = sensors[:, joints:].reshape(self.num_envs, -1, 3)
        rows[:, s.contact.start :] = np.square(force).sum(axis=-1) > CONTACT_FORCE_N**2
        self._rows[:, s.action] = action

    def _reset(self, ids: np.ndarray) -> None:
        """Start new episodes in ``ids``: pose from the pool, place, heading and velocity drawn (method, reset)."""
        if len(ids) == 0:
            return
        count, limits = len(ids), self.robot.reset
        pose = self._rng.integers(len(self._pool.height), size=count)
        yaw = self._rng.uniform(-np.pi, np.pi, count)
        physics = np.zeros((count, self._physics.shape[1]))
        physics[:, QPOS : QPOS + 2] = self._rng.uniform(-1, 1, (count, 2)) * limits.position_xy_m
        physics[:, QPOS + 2] = self._pool.height[pose]
        physics[:, QPOS + 3], physics[:, QPOS + 6] = np.cos(yaw / 2), np.sin(yaw / 2)
        physics[:, self._joint_pos] = self._pool.joint_pos[pose]
        physics[:, self._qvel.start : self._qvel.start + 6] = self._rng.uniform(-1, 1, (count, 6)) * limits.velocity
        self._physics[ids] = physics
        self._push_left[ids] = self._push_interval(count)
        rows = np.zeros((count, self.schema.width), np.float32)
        _write_base(rows, self.schema, self.base_quaternion[ids], physics[:, self._qvel])
        rows[:, self.schema.group("joint_pos")] = self._pool.joint_pos[pose] - self._default
        env_ids = torch.from_numpy(ids)
        self._rows[env_ids] = torch.from_numpy(rows)
        self.episode_length_buf[env_ids] = 0
        self._commands.reset(env_ids, torch.from_numpy(self._yaw()))
        self.rewards.reset(env_ids, self._rows[env_ids, : self.schema.state.stop])

    def _push(self) -> None:
        """Change the base's horizontal velocity where a push is due."""
        if not self.config.pushes:
            return
        self._push_left -= 1
        due = (self._push_left <= 0).nonzero()[0]
        if len(due):
            kick = self._rng.uniform(-1, 1, (len(due), 2)) * self.config.push_velocity
            self._physics[due, self._qvel.start : self._qvel.start + 2] += kick
            self._push_left[due] = self._push_interval(len(due))

    def _push_interval(self, count: int) -> np.ndarray:
        low, high = (round(s / self.control_dt_s) for s in self.config.push_interval_s)
        return self._rng.integers(low, high + 1, count)

    def _yaw(self) -> np.ndarray:
        w, x, y, z = self.base_quaternion.T
        return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)).astype(np.float32)


def _write_base(rows: np.ndarray, schema: Schema, quaternion: np.ndarray, qvel: np.ndarray) -> None:
    """Write base velocities and projected gravity from MuJoCo's velocities (world linear, base angular)."""
    rows[:, schema.group("base_lin_vel")] = to_base_frame(quaternion, qvel[:, :3])
    rows[:, schema.group("base_ang_vel")] = qvel[:, 3:6]
    down = np.broadcast_to(np.array([0.0, 0.0, -1.0]), (len(quaternion), 3))
    rows[:, schema.group("projected_gravity")] = to_base_frame(quaternion, down)


def to_base_frame(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate world vectors ``(n, 3)`` into the frame of unit quaternions ``(n, 4)``, w first."""
    w, axis = quaternion[:, :1], quaternion[:, 1:]
    twice = 2.0 * np.cross(axis, vector)
    return vector - w * twice + np.cross(axis, twice)
