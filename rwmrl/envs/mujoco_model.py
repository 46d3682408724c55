"""A robot's MuJoCo model: its MJCF plus the drives and sensors that follow from ``robot.yaml``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

import mujoco
import numpy as np

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec

CONTACT_FORCE_N = 1.0
"""A body counts as in contact above this ground force."""
RESET_POOL = 512


@dataclass(frozen=True)
class RobotModel:
    """A compiled model and where to find things in its arrays.

    Sensors stand in one array: joint torques ``(J,)`` first, then the ground force ``(3,)`` of every thigh, every
    foot and the base, in the world frame.
    """

    model: mujoco.MjModel
    qpos_index: np.ndarray
    """Joint positions in qpos, ``(J,)``, in the robot's joint order."""
    qvel_index: np.ndarray
    """Joint velocities in qvel, ``(J,)``."""


def load_model(robot: RobotSpec) -> RobotModel:
    """Compile the robot's MJCF with position drives and contact sensors added.

    Raises:
        RwmError: The MJCF is missing, does not compile, or lacks a joint or body that robot.yaml names.
    """
    path = robot.mjcf_path
    try:
        root = ET.parse(path).getroot()
        _check_names(robot, root)
        _add_drives(robot, root)
        _add_sensors(robot, root)
        option = root.find("option")
        if option is None:
            option = ET.SubElement(root, "option")
        option.set("timestep", repr(robot.physics_dt_s))
        model = mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))
    except (OSError, ET.ParseError, ValueError) as exc:
        raise RwmError(f"{path} is not a usable MJCF: {' '.join(str(exc).split())}.") from exc
    qpos = np.array([model.joint(j).qposadr[0] for j in robot.joints])
    qvel = np.array([model.joint(j).dofadr[0] for j in robot.joints])
    return RobotModel(model, qpos, qvel)


def _check_names(robot: RobotSpec, root: ET.Element) -> None:
    joints = {e.get("name") for e in root.iter("joint")}
    bodies = {e.get("name") for e in root.iter("body")}
    missing = [f"joint {j}" for j in robot.joints if j not in joints]
    missing += [f"body {b}" for b in (robot.base_body, *robot.thigh_bodies, *robot.foot_bodies) if b not in bodies]
    if missing:
        raise ValueError(f"robot.yaml names {', '.join(missing)}, which it does not have")


def _add_drives(robot: RobotSpec, root: ET.Element) -> None:
    drive, actuator = robot.drive, ET.SubElement(root, "actuator")
    for joint in robot.joints:
        ET.SubElement(
            actuator, "position", name=joint, joint=joint, kp=repr(drive.stiffness), kv=repr(drive.damping),
            forcerange=f"{-drive.effort_limit} {drive.effort_limit}",
        )  # fmt: skip


def _add_sensors(robot: RobotSpec, root: ET.Element) -> None:
    sensor = ET.SubElement(root, "sensor")
    for joint in robot.joints:
        ET.SubElement(sensor, "actuatorfrc", actuator=joint)
    for body in (*robot.thigh_bodies, *robot.foot_bodies, robot.base_body):
        ET.SubElement(sensor, "contact", body1=body, body2="world", data="force", reduce="netforce", num="1")


def randomized_models(robot: RobotSpec, base: RobotModel, count: int, rng: np.random.Generator) -> list[mujoco.MjModel]:
    """Return ``count`` copies of the model with the base's mass and centre of mass drawn anew.

    The base's inertia is scaled with its mass.
    """
    ranges, models = robot.randomization, []
    body = base.model.body(robot.base_body).id
    for _ in range(count):
        model = base.model.__copy__()
        mass = model.body_mass[body] + rng.uniform(*ranges.base_mass_kg)
        model.body_inertia[body] *= mass / model.body_mass[body]
        model.body_mass[body] = mass
        model.body_ipos[body] += rng.uniform(-1, 1, 3) * ranges.base_com_m
        mujoco.mj_setConst(model, mujoco.MjData(model))
        models.append(model)
    return models


@dataclass(frozen=True)
class ResetPool:
    """Joint positions to start from, ``(P, J)`` rad, with the base height that keeps them above ground, ``(P,)`` m."""

    joint_pos: np.ndarray
    height: np.ndarray


def reset_pool(robot: RobotSpec, base: RobotModel, rng: np.random.Generator) -> ResetPool:
    """Draw start poses (default times a factor within the reset range) and lift those that reach into the ground."""
    model, data = base.model, mujoco.MjData(base.model)
    default = np.array(robot.default_joint_pos)
    joint_pos = default * rng.uniform(*robot.reset.joint_scale, size=(RESET_POOL, len(default)))
    height = np.full(RESET_POOL, robot.base_height_m)
    feet = [model.body(b).id for b in robot.foot_bodies]
    radius = max(model.geom_size[g, 0] for b in feet for g in range(model.ngeom) if model.geom_bodyid[g] == b)
    for i, pose in enumerate(joint_pos):
        data.qpos[:] = model.qpos0
        data.qpos[base.qpos_index] = pose
        mujoco.mj_kinematics(model, data)
        lowest = data.xpos[feet, 2].min() - data.qpos[2] - radius
        height[i] = max(height[i], -lowest)
    return ResetPool(joint_pos, height)
