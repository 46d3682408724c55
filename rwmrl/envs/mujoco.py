"""The embedded simulator: a vectorised velocity-tracking task on MuJoCo."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rwmdata.config import Frozen
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema
from rwmrl.envs.base import CONTACT_FORCE_N, SOUND_LIMIT, EnvOptions, Observations, Step, VecEnv
from rwmrl.envs.mujoco_physics import BatchPhysics
from rwmrl.observations import noise_scale
from rwmrl.rewards import AIR_TIME_THRESHOLD_S, RewardModel
from rwmrl.snapshots import Snapshot, copies, put_back, rewind
from rwmrl.velocity_commands import CommandConfig, CommandSampler

TRUNK_PARAMETERS = ("base_mass_offset_kg", "base_com_offset_x_m", "base_com_offset_y_m", "base_com_offset_z_m")
PUSH_INTERVAL_S = (10.0, 15.0)
PUSH_VELOCITY = 0.5
"""A push changes the base's x and y velocity (world frame) by up to this, m/s."""
BOUNDED_RESAMPLE_S = (1.0, 3.0)
"""How long a command is held within bounds: in ten seconds nearly every one would leave."""
REMEMBERED = ("episode_length_buf", "_push_steps_left", "_rows")
"""Tensors of the environment itself that steps change."""


class MujocoEnvConfig(Frozen):
    """Settings of the MuJoCo environment."""

    num_envs: Annotated[int, Field(ge=1)] = 1024
    seed: int = 0
    noise: bool = True
    """Add observation noise to the ``policy`` group."""
    pushes: bool = True
    """Kick the base every 10-15 s."""
    randomize: bool = True
    """Vary the trunk's mass and centre of mass between environments."""
    variants: Annotated[int, Field(ge=1)] = 64
    """Randomised models that the environments share."""
    episode_length_s: Annotated[float, Field(gt=0)] | None = None
    """The robot's own when None."""
    threads: Annotated[int, Field(ge=0)] | None = None
    """Physics threads; 0 steps on the calling thread, None takes the cores this process may use."""
    reward_weights: dict[str, float] = {}
    """Overrides of the robot's reward weights."""
    air_time_threshold_s: float = AIR_TIME_THRESHOLD_S
    command: CommandConfig = CommandConfig(heading=True)


class MujocoEnv(VecEnv):
    """E robots on flat ground, simulated by MuJoCo on the CPU.

    One step: actions become joint targets; physics; pushes; rows, rewards and ends of episodes; resets; new commands.
    A row is the robot's state after the push, as the policy sees it next. Base velocity, orientation and joints are
    those at the end of the control step; forces and torques are those of its last physics step.

    A simulation that blows up ends its episode as truncated with reward 0. Its transition repeats the last sound row,
    and ``Step.log["unstable"]`` ``(E,)`` is 1 there, so that such an episode can be left out of a dataset.
    """

    def __init__(self, robot: RobotSpec, config: MujocoEnvConfig) -> None:
        self.robot, self.config = robot, config
        self.schema = Schema.from_robot(robot)
        self.num_envs, self.num_actions = config.num_envs, len(robot.joints)
        self.control_dt_s, self.device = robot.control_dt_s, torch.device("cpu")
        seconds = config.episode_length_s or robot.episode_length_s
        self.max_episode_length = max(1, round(seconds / robot.control_dt_s))
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.int64)
        variants = config.variants if config.randomize else 0
        self.physics = BatchPhysics(robot, self.num_envs, variants, config.threads, config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        # Noise has its own stream: switching it off does not change the motion.
        self._noise_generator = torch.Generator().manual_seed(config.seed + 1)
        self._noise_scale = noise_scale(self.schema, self.device) if config.noise else None
        self._default = torch.tensor(robot.default_joint_pos, dtype=torch.float64)
        self._commands = CommandSampler(self.num_envs, config.command, self.control_dt_s, self._generator, self.device)
        self._rewards = RewardModel(
            robot, self.schema, self.num_envs, self.device, config.reward_weights, config.air_time_threshold_s
        )
        self._push_steps_left = torch.zeros(self.num_envs, dtype=torch.int64)
        self._pushed = torch.zeros(self.num_envs, dtype=torch.bool)
        self._kick = np.zeros((self.num_envs, 2))
        self._columns = {name: self.schema.group(name) for name in self.schema.groups}
        self._rows = torch.zeros(self.num_envs, self.schema.width)
        self.reset()

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), base frame, ``(E, 3)``."""
        return self._commands.command

    @property
    def base_position(self) -> Tensor:
        """Position of the base in the world, m, ``(E, 3)`` float64."""
        return torch.from_numpy(self.physics.state[:, self.physics.layout.position].copy())

    @property
    def base_quaternion(self) -> Tensor:
        """Orientation of the base in the world, (w, x, y, z), ``(E, 4)`` float64."""
        return torch.from_numpy(self.physics.state[:, self.physics.layout.quaternion].copy())

    @property
    def pushed(self) -> Tensor:
        """Robots whose base the last step kicked, ``(E,)`` bool."""
        return self._pushed

    @property
    def kick(self) -> np.ndarray:
        """What the last step's pushes added to the base's x and y velocity, world frame, m/s, ``(E, 2)``."""
        return self._kick

    def episode_parameters(self) -> dict[str, Tensor]:
        """Return each trunk's deviation from the nominal robot, ``(E,)`` each: mass (kg), centre of mass (m)."""
        if not self.config.randomize:
            return {}
        return dict(zip(TRUNK_PARAMETERS, torch.from_numpy(self.physics.trunk_offsets).unbind(dim=1), strict=True))

    def close(self) -> None:
        """Stop the physics threads."""
        self.physics.close()

    def state(self) -> Snapshot:
        """Return the robots' states, commands, pushes to come and random streams."""
        streams = {"motion": self._generator.get_state(), "noise": self._noise_generator.get_state()}
        parts = {"commands": self._commands.state(), "rewards": self._rewards.state()}
        return {"physics": self.physics.snapshot(), "streams": streams, **parts, **copies(self, REMEMBERED)}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`; the randomised models are those of the seed."""
        self.physics.restore(state["physics"])
        self._commands.restore(state["commands"])
        self._rewards.restore(state["rewards"])
        put_back(self, REMEMBERED, state)
        rewind(self._generator, state["streams"]["motion"])
        rewind(self._noise_generator, state["streams"]["noise"])

    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        self._reset(torch.arange(self.num_envs))
        return self.get_observations()

    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``; right after a reset its action is zero."""
        return self._rows

    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)`` for one control step; environments that end are reset."""
        actions = actions.detach().float()
        sound = torch.from_numpy(self.physics.step(self._targets(actions)))
        self._push()
        rows = self._build_rows(self.physics.state, self.physics.sensors, actions)
        sound &= rows.abs().amax(dim=1) < SOUND_LIMIT
        rows = torch.where(sound[:, None], rows, self._rows)
        state, contact = rows[:, self.schema.state], rows[:, self.schema.contact]
        reward, terms = self._rewards.compute(state, contact, actions, self.command)
        self.episode_length_buf += 1
        terminated = (rows[:, -1] > 0.5) & sound
        truncated = ((self.episode_length_buf >= self.max_episode_length) | ~sound) & ~terminated
        log: dict[str, float | Tensor] = {f"reward/{name}": value.mean() for name, value in terms.items()}
        log["unstable"] = (~sound).float()
        self._rows = rows.clone()
        self._reset((terminated | truncated).nonzero().squeeze(-1))
        self._commands.advance(self._pose())
        return Step(self.get_observations(), reward * sound, terminated, truncated, rows, log)

    def _targets(self, actions: Tensor) -> np.ndarray:
        return (self._default + self.robot.action_scale * actions.double()).numpy()

    def _build_rows(self, state: np.ndarray, sensors: np.ndarray, actions: Tensor) -> Tensor:
        """Return the rows ``(n, width)`` of physics states ``(n, ...)``."""
        columns, layout = self._columns, self.physics.layout
        states, readings = torch.from_numpy(state), torch.from_numpy(sensors)
        rows = torch.empty(len(states), self.schema.width)
        axes = rotation(states[:, layout.quaternion])
        rows[:, columns["base_lin_vel"]] = (states[:, layout.lin_vel_w, None] * axes).sum(dim=1).float()
        rows[:, columns["base_ang_vel"]] = states[:, layout.ang_vel_b].float()
        rows[:, columns["projected_gravity"]] = -axes[:, 2].float()
        rows[:, columns["joint_pos"]] = (states[:, layout.joint_pos] - self._default).float()
        rows[:, columns["joint_vel"]] = states[:, layout.joint_vel].float()
        rows[:, columns["joint_torque"]] = readings[:, layout.torque].float()
        rows[:, columns["action"]] = actions
        force = readings[:, layout.contact].unflatten(1, (-1, 3)).norm(dim=-1)
        # Thighs, feet, base: the order of the contact columns and of the termination column behind them.
        rows[:, columns["thigh_contact"].start :] = (force > CONTACT_FORCE_N).float()
        return rows

    def _push(self) -> None:
        if not self.config.pushes:
            return
        self._push_steps_left -= 1
        self._pushed = self._push_steps_left <= 0
        self._kick[:] = 0.0
        due = self._pushed.nonzero().squeeze(-1)
        if len(due):
            self._kick[due.numpy()] = self._uniform(len(due), 2).numpy() * PUSH_VELOCITY
            self._add_kicks(due.numpy())
            self._schedule_push(due)

    def _add_kicks(self, due: np.ndarray) -> None:
        velocity = self.physics.layout.lin_vel_w.start
        self.physics.state[due, velocity : velocity + 2] += self._kick[due]

    def _schedule_push(self, env_ids: Tensor) -> None:
        low, high = (seconds / self.control_dt_s for seconds in PUSH_INTERVAL_S)
        unit = (self._uniform(len(env_ids)) + 1) / 2
        self._push_steps_left[env_ids] = (low + unit * (high - low)).long()

    def _reset(self, env_ids: Tensor) -> None:
        if len(env_ids) == 0:
            return
        ids, actions = env_ids.numpy(), torch.zeros(len(env_ids), self.num_actions)
        self.physics.place(ids, self._start_states(len(ids)), self._targets(actions))
        rows = self._build_rows(self.physics.state[ids], self.physics.sensors[ids], actions)
        self._rows[env_ids] = rows
        self._rewards.reset(env_ids, rows[:, self.schema.state])
        self.episode_length_buf[env_ids] = 0
        self._schedule_push(env_ids)
        self._commands.reset(env_ids, self._pose())

    def _start_states(self, count: int) -> np.ndarray:
        """Draw physics states to start from, ``(count, layout.width)``."""
        spec, layout = self.robot.reset, self.physics.layout
        states = np.zeros((count, layout.width))
        states[:, layout.position][:, :2] = self._uniform(count, 2) * spec.position_xy_m
        states[:, layout.position][:, 2] = self.robot.base_height_m
        half_yaw = self._uniform(count) * (np.pi / 2)
        states[:, layout.quaternion.start] = half_yaw.cos()
        states[:, layout.quaternion.stop - 1] = half_yaw.sin()
        states[:, layout.lin_vel_w] = self._uniform(count, 3) * spec.velocity
        states[:, layout.ang_vel_b] = self._uniform(count, 3) * spec.velocity
        low, high = spec.joint_scale
        unit = (self._uniform(count, self.num_actions) + 1) / 2
        states[:, layout.joint_pos] = self._default * (low + unit * (high - low))
        return states

    def _uniform(self, *shape: int) -> Tensor:
        """Draw from [-1, 1)."""
        return 2 * torch.rand(shape, generator=self._generator, dtype=torch.float64) - 1

    def _pose(self) -> Tensor:
        """Return x and y (m, world frame) and heading (rad) of every base, ``(E, 3)``."""
        state, layout = torch.from_numpy(self.physics.state), self.physics.layout
        w, x, y, z = state[:, layout.quaternion].unbind(dim=1)
        yaw = torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return torch.cat((state[:, layout.position][:, :2], yaw[:, None]), dim=1).float()


def make_mujoco_env(robot: RobotSpec, options: EnvOptions) -> MujocoEnv:
    """Return the environment of a task; see :func:`rwmrl.backends.make_env`."""
    command = CommandConfig(heading=True)
    if options.bounds_m:
        command = CommandConfig(heading=True, bounds_m=options.bounds_m, resample_s=BOUNDED_RESAMPLE_S)
    config = MujocoEnvConfig(
        **options.model_dump(exclude={"task", "bounds_m", "device"}, exclude_none=True),
        reward_weights=robot.task_reward_weights.get(options.task, {}),
        air_time_threshold_s=robot.task_air_time_s.get(options.task, AIR_TIME_THRESHOLD_S),
        command=command,
    )
    return MujocoEnv(robot, config)


def rotation(quaternion: Tensor) -> Tensor:
    """Return the rotation matrices, base to world, of unit quaternions (w, x, y, z): ``(n, 4)`` -> ``(n, 3, 3)``."""
    w, x, y, z = quaternion.unbind(dim=-1)
    matrix = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([entry for row in matrix for entry in row], dim=-1).unflatten(-1, (3, 3))
