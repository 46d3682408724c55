"""A robot's shapes and where they are in a pose: what a picture, or the height of a base above the ground, needs."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from rwmdata.robots import RobotSpec
from rwmrl.envs.mujoco_model import layout_of, load_model

DRAWN_GROUPS = (0, 1, 2)
"""Groups of geoms that MuJoCo's own viewer shows."""
KINDS = {
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_MESH: "mesh",
}


@dataclass(frozen=True)
class Shape:
    """A geom fixed to a body."""

    body: int
    kind: str
    """One of ``KINDS``' names."""
    size: np.ndarray
    """As MuJoCo has it: ``(3,)`` radius, half length, half sides, m."""
    position: np.ndarray
    """In the body's frame, m."""
    quaternion: np.ndarray
    """In the body's frame, (w, x, y, z)."""
    rgba: np.ndarray
    drawn: bool
    collides: bool
    vertices: np.ndarray
    """Of a mesh, ``(V, 3)``, geom frame, m; empty for the others."""
    faces: np.ndarray
    """Of a mesh, ``(F, 3)``."""


class RobotShapes:
    """The bodies of a robot's MJCF and the shapes fixed to them.

    Attributes:
        shapes: Every shape of the robot.
        bodies: Names of the bodies; those of ``shapes`` and poses are in this order.

    Raises:
        RwmError: The robot has no MJCF, or it does not compile.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._model = load_model(robot, visual=True)
        self._data = mujoco.MjData(self._model)
        self._joints = layout_of(robot, self._model).joint_pos - 1
        self._default = np.asarray(robot.default_joint_pos)
        ids = range(1, self._model.nbody)
        self.bodies = tuple(self._model.body(i).name for i in ids)
        self.shapes = [self._shape(g) for g in range(self._model.ngeom) if self._model.geom_bodyid[g] > 0]

    def _shape(self, geom: int) -> Shape:
        model = self._model
        kind = KINDS[mujoco.mjtGeom(int(model.geom_type[geom]))]
        vertices, faces = np.empty((0, 3)), np.empty((0, 3), np.int64)
        if kind == "mesh":
            mesh = model.geom_dataid[geom]
            first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            vertices = model.mesh_vert[first : first + count].copy()
            first, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
            faces = model.mesh_face[first : first + count].astype(np.int64)
        material = model.geom_matid[geom]
        rgba = model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]
        return Shape(
            body=int(model.geom_bodyid[geom]) - 1,
            kind=kind,
            size=model.geom_size[geom].copy(),
            position=model.geom_pos[geom].copy(),
            quaternion=model.geom_quat[geom].copy(),
            rgba=rgba.copy(),
            drawn=int(model.geom_group[geom]) in DRAWN_GROUPS,
            collides=bool(model.geom_contype[geom] or model.geom_conaffinity[geom]),
            vertices=vertices,
            faces=faces,
        )

    def configurations(self, position: np.ndarray, quaternion: np.ndarray, joint_pos: np.ndarray) -> np.ndarray:
        """Return MuJoCo's generalised positions ``(n, nq)``.

        Args:
            position: Of the base in the world, m, ``(n, 3)``.
            quaternion: Of the base, (w, x, y, z), ``(n, 4)``.
            joint_pos: Relative to the default pose, rad, ``(n, J)``.
        """
        qpos = np.tile(self._model.qpos0, (len(position), 1))
        qpos[:, :3], qpos[:, 3:7] = position, quaternion
        qpos[:, self._joints] = self._default + joint_pos
        return qpos

    def body_poses(self, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bodies' positions ``(n, B, 3)``, m, and quaternions ``(n, B, 4)`` of ``qpos (n, nq)``."""
        positions = np.empty((len(qpos), len(self.bodies), 3))
        quaternions = np.empty((len(qpos), len(self.bodies), 4))
        for k, row in enumerate(qpos):
            self._data.qpos[:] = row
            mujoco.mj_kinematics(self._model, self._data)
            positions[k], quaternions[k] = self._data.xpos[1:], self._data.xquat[1:]
        return positions, quaternions

    def lowest(self, qpos: np.ndarray) -> np.ndarray:
        """Return the height of the robot's lowest point that can touch the ground, m, ``(n,)``."""
        touching = [g for g in range(self._model.ngeom) if self._model.geom_bodyid[g] > 0 and self._collides(g)]
        shapes = [self._shape(g) for g in touching]
        heights = np.empty((len(qpos), len(touching)))
        for k, row in enumerate(qpos):
            self._data.qpos[:] = row
            mujoco.mj_kinematics(self._model, self._data)
            for j, (geom, shape) in enumerate(zip(touching, shapes, strict=True)):
                up = self._data.geom_xmat[geom].reshape(3, 3)[2]
                heights[k, j] = self._data.geom_xpos[geom, 2] - reach(shape, up)
        return heights.min(axis=1)

    def _collides(self, geom: int) -> bool:
        return bool(self._model.geom_contype[geom] or self._model.geom_conaffinity[geom])


def reach(shape: Shape, direction: np.ndarray) -> float:
    """Return how far a shape reaches from its centre against a unit ``direction (3,)`` in its own frame, m."""
    a, b, c = shape.size
    if shape.kind == "sphere":
        return float(a)
    if shape.kind == "capsule":
        return float(a + b * abs(direction[2]))
    if shape.kind == "cylinder":
        return float(a * np.sqrt(max(0.0, 1 - direction[2] ** 2)) + b * abs(direction[2]))
    if shape.kind == "ellipsoid":
        return float(np.linalg.norm(shape.size * direction))
    if shape.kind == "box":
        return float(np.abs((a, b, c) * direction).sum())
    return float(-(shape.vertices @ direction).min())
