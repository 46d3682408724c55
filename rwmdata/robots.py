"""Robots are folders: ``robots/<name>/robot.yaml`` and, for the embedded simulator, an MJCF beside it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from rwmdata.config import Frozen, one_line
from rwmdata.errors import RwmError
from rwmdata.shipped import ASSETS
from rwmdata.yaml_file import read_yaml

PerJoint = float | list[float]
"""One number for all joints, or one for each."""


class JointDrive(NamedTuple):
    """The drive of one joint; units as in :class:`DriveSpec`."""

    stiffness: float
    damping: float
    effort_limit: float
    saturation_effort: float
    velocity_limit: float


class DriveSpec(Frozen):
    """Joint drives: PD position control with a DC-motor torque-speed limit."""

    stiffness: PerJoint
    """Proportional gain, N m / rad."""
    damping: PerJoint
    """Derivative gain, N m s / rad."""
    effort_limit: PerJoint
    """Continuous torque limit, N m."""
    saturation_effort: PerJoint
    """Stall torque of the torque-speed line, N m."""
    velocity_limit: PerJoint
    """No-load joint speed, rad/s."""

    def of_joints(self, count: int) -> list[JointDrive]:
        """Return the drives of ``count`` joints."""
        columns = [np.broadcast_to(getattr(self, name), count).tolist() for name in JointDrive._fields]
        return [JointDrive(*values) for values in zip(*columns, strict=True)]


class NormalizerSpec(Frozen):
    """Reference normaliser per column group; a group that is absent has mean 0 and std 1."""

    mean: dict[str, float | list[float]] = {}
    std: dict[str, float | list[float]] = {}


class ResetSpec(Frozen):
    """Ranges of a new episode's initial state (uniform, symmetric unless a pair is given)."""

    position_xy_m: float = 0.5
    velocity: float = 0.5
    """Linear (m/s) and angular (rad/s) base velocity."""
    joint_scale: tuple[float, float] = (0.5, 1.5)
    """Factor on the default joint position."""


class RandomizationSpec(Frozen):
    """Domain randomisation ranges of the simulator."""

    base_mass_kg: tuple[float, float] = (-5.0, 5.0)
    base_com_m: tuple[float, float, float] = (0.05, 0.05, 0.01)
    friction: float = 0.8
    """Sliding friction of the ground contact (static 0.8, dynamic 0.6; MuJoCo has one number)."""


class AssetSpec(Frozen):
    """What Isaac Lab's own tasks load for a robot, below ``Isaac/IsaacLab`` of an asset root, and what they call it."""

    usd: str
    """Path of the robot."""
    joint_suffix: str = ""
    """What their joint names end in, and those of this description do not."""
    actuator_net: str | None = None
    """Path of the TorchScript model of its drives, where the tasks use one."""


class RobotSpec(Frozen):
    """Everything the toolkit knows about a robot. Per-joint lists follow ``joints``; per-leg lists follow ``legs``."""

    name: str
    title: str
    legs: list[str]
    joints: list[str]
    default_joint_pos: list[float]
    """rad"""
    joint_pos_limits: list[tuple[float, float]]
    """rad, absolute (not relative to the default pose)"""
    base_height_m: float
    base_body: str
    thigh_bodies: list[str]
    foot_bodies: list[str]
    action_scale: float
    """Target joint position = default + action_scale * action, rad per unit action."""
    drive: DriveSpec
    physics_dt_s: float = Field(0.005, gt=0, le=1)
    decimation: int = Field(4, ge=1, le=10_000)
    episode_length_s: float = Field(20.0, gt=0, le=1e6)
    reward_weights: dict[str, float]
    task_reward_weights: dict[str, dict[str, float]] = {}
    """Overrides of the weights, by task name."""
    task_air_time_s: dict[str, float] = {}
    """Step duration for which the ``feet_air_time`` reward is zero, by task name; 0.5 where absent."""
    foot_positions_m: list[tuple[float, float]]
    """x (forward) and y (left) of each foot in the default pose, base frame."""
    mirror_signs: list[float] | None = None
    """For a symmetric robot: -1 where a joint's angle changes sign in the mirror image (hip roll), else 1."""
    normalizer: NormalizerSpec = NormalizerSpec()
    reset: ResetSpec = ResetSpec()
    randomization: RandomizationSpec = RandomizationSpec()
    backend_tasks: dict[str, list[str]] = {}
    """By simulator: ids of its tasks for this robot, of which the first registered one is used; ``{task}`` stands for
    this toolkit's name of the task."""
    isaaclab_assets: AssetSpec | None = None
    """For :func:`rwmrl.envs.usd.write_assets`; a robot without it goes to ``Robots/<name>/<name>.usd``."""
    mjcf: str | None = None
    """Path of the MJCF, relative to the robot's folder."""
    folder: Path | None = None
    """Where the robot was loaded from; filled in by the loader."""

    @model_validator(mode="after")
    def _check_lengths(self) -> RobotSpec:
        of_joints = ("default_joint_pos", "joint_pos_limits", *(["mirror_signs"] if self.mirror_signs else []))
        of_legs = ("foot_positions_m", "thigh_bodies", "foot_bodies")
        expected = dict.fromkeys(of_joints, len(self.joints)) | dict.fromkeys(of_legs, len(self.legs))
        counts = {key: len(getattr(self, key)) for key in expected}
        listed = {f"drive.{key}": value for key, value in self.drive if isinstance(value, list)}
        counts |= {key: len(value) for key, value in listed.items()}
        expected |= dict.fromkeys(listed, len(self.joints))
        faults = [f"{key} has {counts[key]} entries, expected {n}" for key, n in expected.items() if counts[key] != n]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def control_dt_s(self) -> float:
        """Duration of one control step, s."""
        return self.physics_dt_s * self.decimation

    @property
    def mjcf_path(self) -> Path:
        """Absolute path of the MJCF.

        Raises:
            RwmError: The robot has none, so the MuJoCo backend cannot simulate it.
        """
        if self.mjcf is None or self.folder is None:
            hint = "add 'mjcf: <file>.xml' to its robot.yaml, or use --backend isaaclab"
            raise RwmError(f"Robot '{self.name}' has no MJCF, so the mujoco backend cannot simulate it.", hint)
        return self.folder / self.mjcf


def robot_folders() -> dict[str, Path]:
    """Return every known robot: those shipped, then those under ``$RWM_ROBOTS`` (which win)."""
    roots = [ASSETS / "robots"]
    roots += [Path(p) for p in os.environ.get("RWM_ROBOTS", "").split(os.pathsep) if p]
    return {f.parent.name: f.parent for root in roots for f in sorted(root.glob("*/robot.yaml"))}


@lru_cache(maxsize=32)
def load_robot(name: str) -> RobotSpec:
    """Load a robot by name, or by the path of its folder.

    Raises:
        RwmError: No such robot, its ``robot.yaml`` does not validate (every fault is listed), or it is named otherwise
            than its folder, by which what is made of it would look for it.
    """
    known = robot_folders()
    folder = known.get(name) or Path(name)
    path = folder / "robot.yaml"
    if not path.is_file():
        fault = f"Unknown robot '{name}'; known robots: {', '.join(sorted(known)) or 'none'}."
        raise RwmError(fault, "--robot with the path of its folder, or RWM_ROBOTS=the folder above it")
    try:
        robot = RobotSpec(**read_yaml(path), folder=folder.resolve())
    except (ValueError, TypeError, OSError) as exc:
        raise RwmError(f"{path} is not a valid robot description: {one_line(exc)}.") from exc
    if robot.folder and robot.name != robot.folder.name:
        fault = f"{path} has the name '{robot.name}', its folder '{robot.folder.name}'; its datasets would not find it."
        raise RwmError(fault, f"name: {robot.folder.name}")
    return robot
