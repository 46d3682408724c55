"""Where a robot is, from rows that do not say it: velocities are integrated, tilt and height follow from the row.

Roll and pitch are those of projected gravity. Heading and ground position are integrals of the base's velocities by
the trapezoid rule, from heading 0 at the origin. The base's height is not observed: while a foot or a thigh touches
(or the robot has fallen), its lowest point is put on the ground; in between, vertical velocity is integrated, but
nothing sinks into the ground. Without any recorded contact the lowest point always touches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwmdata.schema import Schema
from rwmrl.envs.mujoco_shapes import RobotShapes


@dataclass(frozen=True)
class Pose:
    """Base poses in the world: ``position (..., 3)``, m; ``quaternion (..., 4)``, (w, x, y, z)."""

    position: np.ndarray
    quaternion: np.ndarray

    @property
    def yaw(self) -> np.ndarray:
        """Heading, rad, ``(...)``."""
        w, x, y, z = np.moveaxis(self.quaternion, -1, 0)
        return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


ORIGIN = Pose(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))


def integrate(
    rows: np.ndarray, schema: Schema, dt_s: float, start: Pose = ORIGIN, shapes: RobotShapes | None = None
) -> Pose:
    """Return the base's poses over consecutive rows ``(n, width)`` of one robot.

    Args:
        rows: Physical units.
        schema: Their columns.
        dt_s: Time between rows, s.
        start: Pose of the first row, of which heading and ground position are taken.
        shapes: Puts the robot on the ground; without them its height is that of ``start``.
    """
    rows = rows.astype(np.float64)
    lin_vel, ang_vel, gravity = (
        rows[:, schema.group(g)] for g in ("base_lin_vel", "base_ang_vel", "projected_gravity")
    )
    quaternion = np.empty((len(rows), 4))
    position, velocity = np.empty((len(rows), 3)), np.empty((len(rows), 3))
    for k in range(len(rows)):
        if k:
            turned = _multiply(quaternion[k - 1], _exponential((ang_vel[k - 1] + ang_vel[k]) / 2 * dt_s))
        else:
            turned = np.asarray(start.quaternion, np.float64)
        quaternion[k] = _tilted(turned, gravity[k])
        velocity[k] = _rotate(quaternion[k], lin_vel[k])
        moved = (velocity[k - 1] + velocity[k]) / 2 * dt_s if k else 0.0
        position[k] = (position[k - 1] if k else start.position) + moved
    if shapes is not None:
        position[:, 2] = _heights(rows, schema, quaternion, position[:, 2], shapes)
    return Pose(position, quaternion)


def _heights(
    rows: np.ndarray, schema: Schema, quaternion: np.ndarray, integrated: np.ndarray, shapes: RobotShapes
) -> np.ndarray:
    qpos = shapes.configurations(np.zeros((len(rows), 3)), quaternion, rows[:, schema.group("joint_pos")])
    on_ground = -shapes.lowest(qpos)
    touches = (rows[:, schema.contact] > 0.5).any(axis=1) | (rows[:, -1] > 0.5)
    if not touches.any():
        return on_ground
    height, rises = on_ground.copy(), np.diff(integrated, prepend=integrated[0])
    for k in range(1, len(rows)):
        if not touches[k]:
            height[k] = max(on_ground[k], height[k - 1] + rises[k])
    return height


def _tilted(quaternion: np.ndarray, gravity: np.ndarray) -> np.ndarray:
    """Return the orientation turned the shortest way so that ``gravity``, base frame, points down."""
    size = np.linalg.norm(gravity)
    if size < 1e-6:
        return quaternion
    down = _rotate(quaternion, gravity / size)
    axis, cosine = np.array([-down[1], down[0], 0.0]), -down[2]  # down x (0, 0, -1)
    if cosine < -1 + 1e-9:
        return _multiply(np.array([0.0, 1.0, 0.0, 0.0]), quaternion)
    turn = np.array([1 + cosine, *axis])
    turned = _multiply(turn / np.linalg.norm(turn), quaternion)
    return turned / np.linalg.norm(turned)


def _exponential(angle: np.ndarray) -> np.ndarray:
    half = np.linalg.norm(angle) / 2
    return np.array([np.cos(half), *(angle / 2 * np.sinc(half / np.pi))])


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w, v = a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.array([w, *v])


def _rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    twice = 2 * np.cross(quaternion[1:], vector)
    return vector + quaternion[0] * twice + np.cross(quaternion[1:], twice)
