"""A recording with its twins, placed in the world: what pictures and the browser show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reports.visualize.pose import Pose, integrate
from reports.visualize.recording import Recording
from reports.visualize.twin import Poses, Twin, imagine_twins, poses_of
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.envs.mujoco_shapes import RobotShapes


@dataclass(frozen=True)
class Scene:
    """Real robots and their twins."""

    title: str
    robot: RobotSpec
    recording: Recording
    twin: Twin | None
    poses: Poses
    shapes: RobotShapes | None
    """None for a robot without an MJCF, which cannot be drawn."""

    @property
    def beside_m(self) -> float:
        """How far to the real robot's left its twin is shown, m."""
        return 1.7 * self.robot.base_height_m

    @property
    def middling(self) -> int:
        """The robot whose twin's error is the median one."""
        if self.twin is None:
            return 0
        error = np.nan_to_num(np.nansum(self.twin.rel_l1, axis=1))
        return int(np.argsort(error, kind="stable")[(len(error) - 1) // 2])

    def configurations(self, robot: int, steps: np.ndarray, overlay: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return generalised positions ``(n, nq)`` of a robot and of its twin at ``steps (n,)``."""
        assert self.shapes is not None
        joints = self.recording.schema.group("joint_pos")
        rows = self.recording.rows[robot, steps]
        imagined = np.full_like(rows, np.nan) if self.twin is None else self.twin.rows[robot, steps]
        aside = np.array([0.0, 0.0 if overlay else self.beside_m, 0.0])
        real, twin = self.poses.real, self.poses.twin
        return (
            self.shapes.configurations(real.position[robot, steps], real.quaternion[robot, steps], rows[:, joints]),
            self.shapes.configurations(
                twin.position[robot, steps] + aside, twin.quaternion[robot, steps], imagined[:, joints]
            ),
        )

    def command_text(self, robot: int, step: int) -> str:
        """Return the command a row was made under, in words."""
        if self.recording.command is None:
            return "command not recorded"
        forward, left, turn = self.recording.command[robot, step]
        return f"command: forward {forward:+.2f} m/s, left {left:+.2f} m/s, turn {turn:+.2f} rad/s"

    def twin_text(self, robot: int, step: int) -> str:
        """Return what there is to say of the twin at a row."""
        if self.twin is None:
            return "no twin"
        since = int(self.twin.since[robot, step])
        if since < 1:
            return "reading the history"
        return (
            f"{since * self.recording.dt_s:.2f} s after synchronising, "
            f"relative error {self.twin.rel_l1[robot, step]:.2f}"
        )

    def drift(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distance (m) and difference of heading (rad) of twins and robots, ``(N, T)`` each."""
        distance, _, yaw = _apart(self.poses.twin, self.poses.real)
        return distance, yaw

    def integration_error(self) -> dict[str, float] | None:
        """Return the largest errors of the real robots' integrated poses, position and height (m) and heading (rad).

        Each episode is integrated from the simulator's pose of its first row on. None without an MJCF or where the
        simulator's poses are not known.
        """
        recording, simulated = self.recording, self.recording.simulated
        if simulated is None or self.shapes is None:
            return None
        largest = np.zeros(3)
        for robot in range(len(recording.rows)):
            for start, stop in recording.segments(robot):
                true = Pose(simulated.position[robot, start:stop], simulated.quaternion[robot, start:stop])
                begin, rows = Pose(true.position[0], true.quaternion[0]), recording.rows[robot, start:stop]
                pose = integrate(rows, recording.schema, recording.dt_s, begin, self.shapes)
                largest = np.fmax(largest, [np.fmax.reduce(part) for part in _apart(pose, true)])
        return dict(zip(("position", "height", "yaw"), largest.tolist(), strict=True))


def _apart(one: Pose, other: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distance on the ground (m), difference of height (m) and of heading (rad) of poses, ``(...)`` each."""
    between, yaw = one.position - other.position, one.yaw - other.yaw
    turned = np.abs((yaw + np.pi) % (2 * np.pi) - np.pi)
    return np.linalg.norm(between[..., :2], axis=-1), np.abs(between[..., 2]), turned


def make_scene(
    title: str,
    robot: RobotSpec,
    recording: Recording,
    model: DynamicsEnsemble | None,
    resync: int | None = None,
    progress: Progress = silent,
) -> Scene:
    """Imagine the twins of a recording, where there is a model, and place everyone in the world.

    Raises:
        RwmError: As :func:`~reports.visualize.twin.imagine_twins`.
    """
    twin = None if model is None else imagine_twins(model, recording, resync, progress)
    shapes = RobotShapes(robot) if robot.mjcf else None
    return Scene(title, robot, recording, twin, poses_of(recording, twin, shapes), shapes)
