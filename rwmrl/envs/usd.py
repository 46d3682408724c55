"""Robots as USD where Isaac Lab's tasks look for them below an asset root, so that no asset server is needed."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError
from rwmdata.optional import optional_import
from rwmdata.robots import AssetSpec, JointDrive, RobotSpec
from rwmrl.envs.mujoco_model import layout_of, load_model

with optional_import("USD files need the package pxr", extra="usd", advice="; Isaac Lab 3.0 brings it"):
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics

BELOW_ROOT = "Isaac/IsaacLab"
GROUND_PLANE = "Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
"""What Isaac Lab 3.0's flat tasks load as their ground."""
ROBOT = "/robot"
Shape = Callable[[Usd.Stage, str, np.ndarray], Any]


def write_assets(robots: Sequence[RobotSpec], root: Path) -> list[Path]:
    """Write robots, the drives their tasks load, and the ground plane below an asset root.

    Bodies, masses, joint limits, armature and collision shapes are those the embedded simulator has; what is only there
    for looks is left out. Where a task loads a network for the drives, a PD drive with the robot's gains stands in for
    it, in the form of such a network.

    Returns:
        The files written.

    Raises:
        RwmError: pxr is missing, a robot has no MJCF, a collision shape that is not written, or a network for drives
            that differ.
    """
    below, files = root / BELOW_ROOT, []
    for robot in robots:
        assets = robot.isaaclab_assets or AssetSpec(usd=f"Robots/{robot.name}/{robot.name}.usd")
        files.append(_write_stage(robot_stage(robot, assets.joint_suffix), below / assets.usd))
        if assets.actuator_net:
            files.append(_write_drive(_only_drive(robot), below / assets.actuator_net))
    return [*files, _write_stage(ground_stage(), below / GROUND_PLANE)]


def robot_stage(robot: RobotSpec, joint_suffix: str = "") -> Usd.Stage:
    """Return a robot as an articulation: bodies side by side below ``/robot``, joints below ``/robot/joints``.

    Raises:
        RwmError: The robot has no MJCF, or a collision shape that is not written.
    """
    model = load_model(robot)
    layout_of(robot, model)
    data = mujoco.MjData(model)
    data.qpos[:7] = 0, 0, 0, 1, 0, 0, 0
    mujoco.mj_kinematics(model, data)
    stage = _new_stage(ROBOT)
    for body in range(1, model.nbody):
        _add_body(stage, robot, model, data, body)
    UsdGeom.Scope.Define(stage, f"{ROBOT}/joints")
    for body in range(2, model.nbody):
        _add_joint(stage, model, body, joint_suffix)
    return stage


def ground_stage() -> Usd.Stage:
    """Return an endless plane that collides."""
    stage = _new_stage("/ground")
    plane = UsdGeom.Plane.Define(stage, "/ground/plane")
    plane.CreateAxisAttr("Z")
    UsdPhysics.CollisionAPI.Apply(plane.GetPrim())
    return stage


class DriveNet(torch.nn.Module):
    """A PD drive in the form of a recurrent network of drives, which Isaac Lab reads the size of its memory from."""

    def __init__(self, drive: JointDrive) -> None:
        super().__init__()
        self.stiffness, self.damping = drive.stiffness, drive.damping
        self.lstm = torch.nn.LSTM(2, 1, batch_first=True)

    def forward(self, errors: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return torques ``(N, 1)`` for position errors and velocities ``(N, 1, 2)``, and the memory as it is."""
        return self.stiffness * errors[..., 0] - self.damping * errors[..., 1], memory


def _new_stage(root: str) -> Usd.Stage:
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, root).GetPrim())
    return stage


def _add_body(stage: Usd.Stage, robot: RobotSpec, model: mujoco.MjModel, data: mujoco.MjData, body: int) -> None:
    path = f"{ROBOT}/{model.body(body).name}"
    frame = UsdGeom.Xform.Define(stage, path)
    _place(frame, data.xpos[body], data.xquat[body])
    prim = frame.GetPrim()
    UsdPhysics.RigidBodyAPI.Apply(prim)
    mass = UsdPhysics.MassAPI.Apply(prim)
    mass.CreateMassAttr(float(model.body_mass[body]))
    mass.CreateCenterOfMassAttr(_vector(model.body_ipos[body]))
    mass.CreateDiagonalInertiaAttr(_vector(model.body_inertia[body]))
    mass.CreatePrincipalAxesAttr(_quaternion(model.body_iquat[body]))
    if body == 1:
        UsdPhysics.ArticulationRootAPI.Apply(prim)
    first = int(model.body_geomadr[body])
    for number in range(int(model.body_geomnum[body])):
        geom = first + number
        if model.geom_contype[geom] or model.geom_conaffinity[geom]:
            shape = _add_shape(stage, f"{path}/collision_{number}", robot, model, geom)
            UsdPhysics.CollisionAPI.Apply(shape.GetPrim())


def _add_shape(stage: Usd.Stage, path: str, robot: RobotSpec, model: mujoco.MjModel, geom: int) -> UsdGeom.Gprim:
    kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), [float(x) for x in model.geom_size[geom]]
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        shape = UsdGeom.Sphere.Define(stage, path)
        shape.CreateRadiusAttr(size[0])
    elif kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
        of = UsdGeom.Capsule if kind == mujoco.mjtGeom.mjGEOM_CAPSULE else UsdGeom.Cylinder
        shape = of.Define(stage, path)
        shape.CreateRadiusAttr(size[0])
        shape.CreateHeightAttr(2 * size[1])
        shape.CreateAxisAttr("Z")
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        shape = UsdGeom.Cube.Define(stage, path)
        shape.CreateSizeAttr(2.0)
    else:
        name = kind.name.removeprefix("mjGEOM_").lower()
        known = "only spheres, capsules, cylinders and boxes are written"
        raise RwmError(f"{robot.mjcf_path}: a collision shape is of kind {name}; {known}.")
    _place(shape, model.geom_pos[geom], model.geom_quat[geom])
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        shape.AddScaleOp().Set(_vector(size))
    return shape


def _add_joint(stage: Usd.Stage, model: mujoco.MjModel, body: int, suffix: str) -> None:
    """Join a body to the one it hangs on; its joint turns about the z axis of a frame of its own."""
    place, turn = np.zeros(3), np.array([1.0, 0, 0, 0])
    if model.body_jntnum[body]:
        number = int(model.body_jntadr[body])
        place = model.jnt_pos[number]
        mujoco.mju_quatZ2Vec(turn, model.jnt_axis[number])
        joint = UsdPhysics.RevoluteJoint.Define(stage, f"{ROBOT}/joints/{model.joint(number).name}{suffix}")
        joint.CreateAxisAttr("Z")
        low, high = model.jnt_range[number]
        joint.CreateLowerLimitAttr(math.degrees(low))
        joint.CreateUpperLimitAttr(math.degrees(high))
        armature = float(model.dof_armature[model.jnt_dofadr[number]])
        joint.GetPrim().CreateAttribute("newton:armature", Sdf.ValueTypeNames.Float).Set(armature)
        UsdPhysics.DriveAPI.Apply(joint.GetPrim(), "angular").CreateTypeAttr("force")
    else:
        joint = UsdPhysics.FixedJoint.Define(stage, f"{ROBOT}/joints/{model.body(body).name}_fixed")
    parent = int(model.body_parentid[body])
    joint.CreateBody0Rel().SetTargets([f"{ROBOT}/{model.body(parent).name}"])
    joint.CreateBody1Rel().SetTargets([f"{ROBOT}/{model.body(body).name}"])
    seen_from_parent, turned = np.zeros(3), np.zeros(4)
    mujoco.mju_rotVecQuat(seen_from_parent, place, model.body_quat[body])
    mujoco.mju_mulQuat(turned, model.body_quat[body], turn)
    joint.CreateLocalPos0Attr(_vector(model.body_pos[body] + seen_from_parent))
    joint.CreateLocalRot0Attr(_quaternion(turned))
    joint.CreateLocalPos1Attr(_vector(place))
    joint.CreateLocalRot1Attr(_quaternion(turn))


def _place(shape: UsdGeom.Xformable, position: np.ndarray, quaternion: np.ndarray) -> None:
    shape.AddTranslateOp().Set(Gf.Vec3d(*map(float, position)))
    shape.AddOrientOp().Set(_quaternion(quaternion))


def _vector(values: Sequence[float] | np.ndarray) -> Gf.Vec3f:
    return Gf.Vec3f(*map(float, values))


def _quaternion(values: np.ndarray) -> Gf.Quatf:
    """Return a quaternion (w, x, y, z)."""
    return Gf.Quatf(*map(float, values))


def _write_stage(stage: Usd.Stage, path: Path) -> Path:
    return _write(path, stage.GetRootLayer().ExportToString().encode())


def _only_drive(robot: RobotSpec) -> JointDrive:
    drives = set(robot.drive.of_joints(len(robot.joints)))
    if len(drives) > 1:
        raise RwmError(f"The drives of {robot.name} differ from joint to joint; one network cannot stand in for them.")
    return drives.pop()


def _write_drive(drive: JointDrive, path: Path) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        packed = io.BytesIO()
        torch.jit.save(torch.jit.script(DriveNet(drive)), packed)  # A traced one would not keep what its memory is.
    return _write(path, packed.getvalue())


def _write(path: Path, content: bytes) -> Path:
    commit_file(path, lambda temporary: temporary.write_bytes(content))
    return path
