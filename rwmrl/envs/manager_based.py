"""Environments with Isaac Lab's managers (Isaac Lab 2.3 and 3.0, mjlab) behind this toolkit's contract.

Such an environment resets itself inside ``step``; the last row of an episode is caught just before that. The simulators
differ in names, and in whether an array is a tensor or has one as ``torch``: what is there is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Self

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema
from rwmmodel.devices import resolve_device
from rwmrl.envs.base import CONTACT_FORCE_N, SOUND_LIMIT, EnvOptions, Observations, Step, VecEnv
from rwmrl.observations import noise_scale
from rwmrl.rewards import RewardModel
from rwmrl.tasks import TASKS

COMMANDS = ("base_velocity", "twist")
"""Usual names of the velocity command; otherwise the first command of three or more numbers is taken."""
GROUPS = ("system_state", "system_action", "system_contact", "system_termination")
TORQUES = ("actuators.applied_effort", "data.applied_torque", "data.qfrc_actuator")
"""Where an articulation has the torques of its drives: Isaac Lab 3.0, 2.3, mjlab."""
FORCES = ("data.net_normal_forces_w", "data.net_forces_w")
"""Where a contact sensor has them. Isaac Lab 3.0's net forces hold friction too, 2.3's do not."""


class ManagerBasedEnv(VecEnv):
    """A manager-based environment with the five observation groups.

    The ``system_*`` groups are the task's own where it defines them. Otherwise they are made from
    ``env.scene["robot"].data``, the contact sensor and the action manager, with joints in the order of ``robot.yaml``.
    The ``policy`` group is always assembled here, so that a policy sees the same 48 numbers everywhere. Rewards are
    this toolkit's terms with the robot's weights; a row is terminal where the task says the episode terminated.

    Args:
        env: The environment, unwrapped.
        robot: Names the joints and bodies to read as the simulator does, with or without ``_joint`` at the end.
        noise: Add observation noise to the ``policy`` group.
        seed: Seed of that noise.
        reward_weights: Overrides of the robot's reward weights.

    Raises:
        RwmError: The environment has no articulation "robot", lacks a joint, body, contact sensor or velocity command,
            runs at another rate than the robot, or its system groups have other sizes.
    """

    stale_torque_after_reset = True
    """Torques are those before the reset until the next physics step, as in Isaac Lab; shown as zero."""

    def __init__(
        self,
        env: Any,
        robot: RobotSpec,
        noise: bool = True,
        seed: int = 0,
        reward_weights: dict[str, float] | None = None,
    ) -> None:
        self._env, self.robot = env, robot
        self.schema = Schema.from_robot(robot)
        self.num_envs, self.num_actions = int(env.num_envs), len(robot.joints)
        self.device = torch.device(env.device)
        self.control_dt_s, self.max_episode_length = float(env.step_dt), int(env.max_episode_length)
        if abs(self.control_dt_s - robot.control_dt_s) > 1e-6:
            steps = f"{self.control_dt_s:g} s; robot '{robot.name}' is described with {robot.control_dt_s:g} s"
            raise RwmError(f"The task steps every {steps}.", "physics_dt_s and decimation in robot.yaml")
        self._robot = _articulation(env)
        self._joint_ids = _ids(robot.joints, self._robot.joint_names, "joint", robot)
        self._action_of_joint = _action_order(env, robot)
        self._joint_of_action = [self._action_of_joint.index(i) for i in range(self.num_actions)]
        self._command_name = _command_name(env)
        self._own_groups = [name for name in GROUPS if name in env.observation_manager.active_terms]
        self._find_contacts()
        self._noise_scale = noise_scale(self.schema, self.device) if noise else None
        self._noise_generator = torch.Generator(device=self.device).manual_seed(seed)
        self._rewards = RewardModel(robot, self.schema, self.num_envs, self.device, reward_weights)
        self._final: list[tuple[Tensor, Tensor]] = []
        self._stepping = False
        self._catch_final_rows()
        self.reset()

    @classmethod
    def of_task(cls, env: Any, robot: RobotSpec, options: EnvOptions) -> Self:
        """Return ``env`` with the noise, seed and reward weights of a task."""
        weights = robot.task_reward_weights.get(options.task, {})
        return cls(env, robot, options.noise is not False, options.seed, weights)

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since the last reset, ``(E,)``."""
        return self._env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self._env.episode_length_buf[:] = value

    @property
    def command(self) -> Tensor:
        """Commanded x and y velocity (m/s) and yaw rate (rad/s), base frame, ``(E, 3)``."""
        return self._env.command_manager.get_command(self._command_name)[:, :3]

    def reset(self) -> Observations:
        """Start a new episode in every environment."""
        self._env.reset()
        self._rows = self._read_rows()
        self._rewards.reset(torch.arange(self.num_envs, device=self.device), self._rows[:, self.schema.state])
        return self.get_observations()

    def current_rows(self) -> Tensor:
        """Return the row of the current state, ``(E, width)``; right after a reset its action is zero."""
        return self._rows

    def step(self, actions: Tensor) -> Step:
        """Apply ``actions (E, A)``, joints in the order of ``robot.yaml``; environments that end are reset."""
        actions = actions.detach().to(self.device)
        command = self.command.clone()
        self._final.clear()
        self._stepping = True
        try:
            _, _, terminated, timed_out, _ = self._env.step(actions[:, self._joint_of_action])
        finally:
            self._stepping = False
        terminated, timed_out = terminated.bool().clone(), timed_out.bool().clone()
        rows = self._read_rows()
        transition = rows.clone()
        for env_ids, final in self._final:
            transition[env_ids] = final
        transition[:, -1] = terminated.float()
        sound = (transition.nan_to_num(torch.inf).abs() < SOUND_LIMIT).all(dim=1)
        transition = torch.where(sound[:, None], transition, self._rows)
        if not sound.all():
            self._env.reset(env_ids=(~sound).nonzero().squeeze(-1))
            rows = self._read_rows()
        terminated &= sound
        truncated = (timed_out | ~sound) & ~terminated
        schema = self.schema
        state, contact, action = (transition[:, part] for part in (schema.state, schema.contact, schema.action))
        reward, terms = self._rewards.compute(state, contact, action, command)
        log: dict[str, float | Tensor] = {f"reward/{name}": value.mean() for name, value in terms.items()}
        log["unstable"] = (~sound).float()
        self._rows = rows
        done = (terminated | truncated).nonzero().squeeze(-1)
        self._rewards.reset(done, rows[done][:, self.schema.state])
        return Step(self.get_observations(), reward * sound, terminated, truncated, transition, log)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _catch_final_rows(self) -> None:
        """Read rows before the environment resets robots inside its step."""
        reset: Callable[..., Any] = self._env._reset_idx

        def read_then_reset(env_ids: Any, *args: Any, **options: Any) -> Any:
            if self._stepping:
                self._refresh()
                ids = torch.arange(self.num_envs, device=self.device)[env_ids]
                self._final.append((ids, self._read_rows()[ids]))
            return reset(env_ids, *args, **options)

        self._env._reset_idx = read_then_reset

    def _refresh(self) -> None:
        """Update the quantities derived from the physics state."""

    def _read_rows(self) -> Tensor:
        """Return the rows of the current state, ``(E, width)``, in a tensor of its own."""
        parts = [self._group(name) for name in GROUPS]
        return torch.cat(parts, dim=1).float()

    def _group(self, name: str) -> Tensor:
        columns, make = {
            "system_state": (self.schema.state, self._state),
            "system_action": (self.schema.action, self._action),
            "system_contact": (self.schema.contact, self._contact),
            "system_termination": (self.schema.termination, lambda: torch.zeros(self.num_envs, 1, device=self.device)),
        }[name]
        if name not in self._own_groups:
            return make()
        group: Tensor = self._env.observation_manager.compute_group(name)
        width = columns.stop - columns.start
        if group.shape != (self.num_envs, width):
            needed = f"robot '{self.robot.name}' needs ({self.num_envs}, {width})"
            raise RwmError(f"The task's group '{name}' has shape {tuple(group.shape)}; {needed}.")
        return group

    def _state(self) -> Tensor:
        data, ids = self._robot.data, self._joint_ids
        # Isaac Lab's are velocities of the centre of mass, as its own observations and recordings have them.
        linear, angular = (_read(data, f"root_{k}_vel_b", f"root_link_{k}_vel_b") for k in ("lin", "ang"))
        # A simulator that applies torques only when it steps still shows those of the episode before.
        fresh = self._env.episode_length_buf == 0
        torque = torch.where(fresh[:, None] & self.stale_torque_after_reset, 0.0, _read(self._robot, *TORQUES)[:, ids])
        gravity, velocity = _read(data, "projected_gravity_b"), _read(data, "joint_vel")[:, ids]
        position = (_read(data, "joint_pos") - _read(data, "default_joint_pos"))[:, ids]
        return torch.cat((linear, angular, gravity, position, velocity, torque), dim=1)

    def _action(self) -> Tensor:
        return self._env.action_manager.action[:, self._action_of_joint]

    def _find_contacts(self) -> None:
        """Find the sensor that reports net contact forces of thighs and feet."""
        bodies = [*self.robot.thigh_bodies, *self.robot.foot_bodies]
        for sensor in self._env.scene.sensors.values():
            names = _first(sensor, "sensor_names", "body_names")
            if names is not None and _first(sensor, *FORCES) is not None:
                self._contact_sensor = sensor
                self._contact_ids = _ids(bodies, names, "body of the contact sensor", self.robot)
                return
        raise RwmError("The task's scene has no contact sensor; rows need thigh and foot contacts.")

    def _contact(self) -> Tensor:
        """Return thigh, then foot contacts, ``(E, 2 L)``, 0 or 1."""
        force = _read(self._contact_sensor, *FORCES)[:, self._contact_ids]
        return (force.norm(dim=-1) > CONTACT_FORCE_N).float()


def _articulation(env: Any) -> Any:
    try:
        return env.scene["robot"]
    except KeyError as exc:
        raise RwmError("The task's scene has no articulation named 'robot'.") from exc


def _first(source: Any, *paths: str) -> Any:
    """Return the first of the attributes, dotted, that exists; None without any."""
    for path in paths:
        try:
            return attrgetter(path)(source)
        except AttributeError:
            continue
    return None


def _read(source: Any, *paths: str) -> Tensor:
    """Return the first of the arrays that exists as a tensor."""
    array = _first(source, *paths)
    if array is None:
        raise RwmError(f"The simulator's {type(source).__name__} has none of {', '.join(paths)}.")
    return getattr(array, "torch", array)


def _ids(wanted: Sequence[str], have: Sequence[str], what: str, robot: RobotSpec) -> list[int]:
    """Return where each wanted name is among the simulator's, which may end in ``_joint``."""
    bare = [name.removesuffix("_joint") for name in have]
    names = [name.removesuffix("_joint") for name in wanted]
    missing = [name for name in names if name not in bare]
    if missing:
        fault = f"The simulator has no {what} {', '.join(missing)} of robot '{robot.name}'"
        raise RwmError(f"{fault}; it has {', '.join(have)}.", "--robot NAME, or the names in robot.yaml")
    return [bare.index(name) for name in names]


def _action_order(env: Any, robot: RobotSpec) -> list[int]:
    """Return for each joint of ``robot.yaml`` which of the environment's actions moves it."""
    names: list[str] = []
    for term in env.action_manager.active_terms:
        names += _first(env.action_manager.get_term(term), "target_names", "_joint_names") or ()
    if len(names) != len(robot.joints):
        moved = f"{len(names)} joints ({', '.join(names)})"
        raise RwmError(f"The task's actions move {moved}; robot '{robot.name}' has {len(robot.joints)}.")
    return _ids(robot.joints, names, "action for joint", robot)


def _command_name(env: Any) -> str:
    manager = env.command_manager
    known = [name for name in COMMANDS if name in manager.active_terms]
    known += [n for n in manager.active_terms if n not in known and manager.get_command(n).shape[-1] >= 3]
    if not known:
        raise RwmError("The task has no velocity command; policies need one.")
    return str(known[0])


def pick_task(task: str, robot: RobotSpec, backend: str, registered: Sequence[str]) -> str:
    """Return the registered id of a task.

    Args:
        task: A registered id, or one of this toolkit's tasks, which stands for the first registered of the robot's
            ``backend_tasks`` in ``robot.yaml`` (``{task}`` in them is replaced by its name).
        robot: The robot.
        backend: Name of the simulator.
        registered: Every id it knows.

    Raises:
        RwmError: None of them is registered; close names are listed.
    """
    if task in registered:
        return task
    wanted = [name.format(task=task) for name in robot.backend_tasks.get(backend, [])] if task in TASKS else [task]
    for name in wanted:
        if name in registered:
            return name
    velocity = [name for name in registered if "velocity" in name.lower()]
    asked = f"None of {', '.join(wanted)} is" if wanted else f"Robot '{robot.name}' names no task of {backend}, none is"
    known = f"velocity tasks: {', '.join(velocity) or 'none'}"
    advice = "--task with a registered id, or backend_tasks in robot.yaml"
    raise RwmError(f"{asked} registered with {backend}; {known}.", advice)


def device_of(options: EnvOptions) -> str:
    """Return the device to simulate on, as these simulators call it: with its number.

    Raises:
        RwmError: This machine has no such device.
    """
    device = resolve_device(options.device)
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def configure(cfg: Any, options: EnvOptions) -> None:
    """Set a task's seed, time limit and events."""
    cfg.seed = options.seed
    if options.episode_length_s is not None:
        cfg.episode_length_s = options.episode_length_s
    drop_events(cfg.events, options.pushes, options.randomize)


def drop_events(events: object, pushes: bool | None, randomize: bool | None) -> None:
    """Remove pushes (``pushes`` False) and randomisation of the robots (``randomize`` False) from a task's events.

    Events are a dict or the attributes of an object. Pushes have that word in their name; robots are varied at
    start-up.
    """
    by_name = events if isinstance(events, dict) else vars(events)
    for name, event in list(by_name.items()):
        varies = getattr(event, "mode", None) == "startup"
        unwanted = (pushes is False and "push" in name) or (randomize is False and varies)
        if unwanted and isinstance(events, dict):
            del events[name]
        elif unwanted:
            setattr(events, name, None)
