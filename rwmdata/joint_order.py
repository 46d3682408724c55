"""Orders that joints are recorded in, and which of them a pose fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec, load_robot, robot_folders

REST_RAD = 0.25
"""A median pose further than this from the default one, mean over the joints, is suspected to be another's. Robots that
walk, stumble and fall in the embedded simulator stay within 0.17, one under random actions within 0.28; the joints of
an ANYmal D leg by leg are at 0.47 from those joint by joint."""
REST_FACTOR = 0.5
"""... but only where another order or robot brings it below this part of the distance."""


def joint_orders(robot: RobotSpec) -> dict[str, list[str]]:
    """Return orders that simulators and drives list a robot's joints in, by name; the robot's own first.

    ``legs`` is leg by leg (Newton, most drives), ``types`` all hips, then all thighs (PhysX).
    """
    legs = [[joint for joint in robot.joints if joint.startswith(leg)] for leg in robot.legs]
    orders = {"robot": list(robot.joints)}
    if sorted(joint for leg in legs for joint in leg) == sorted(robot.joints) and len({*map(len, legs)}) == 1:
        orders["legs"] = [joint for leg in legs for joint in leg]
        orders["types"] = [joint for parts in zip(*legs, strict=True) for joint in parts]
    return orders


def read_joint_order(robot: RobotSpec, text: str) -> list[str]:
    """Return the joints in an order given by name, or as the joints themselves, separated by commas.

    Raises:
        RwmError: It is neither.
    """
    orders = joint_orders(robot)
    joints = orders.get(text) or [name.strip() for name in text.split(",")]
    if sorted(joints) != sorted(robot.joints):
        fault = f"'{text}' is no order of the joints of {robot.title}: {', '.join(robot.joints)}."
        raise RwmError(fault, f"--joint-order {', '.join(orders)}, or all joints separated by commas")
    return joints


def rest_distance(pose: np.ndarray, robot: RobotSpec, joints: Sequence[str]) -> float:
    """Return how far absolute joint positions in the order ``joints`` are from the robot's default pose, rad.

    Args:
        pose: One pose ``(J,)``, such as the median of a recording.
        robot: The robot.
        joints: Order of the columns.

    Returns:
        The mean over the joints; infinite where a joint is beyond its limits.
    """
    ordered = pose[[list(joints).index(name) for name in robot.joints]]
    limits = np.array(robot.joint_pos_limits)
    if ((ordered < limits[:, 0]) | (ordered > limits[:, 1])).any():
        return float("inf")
    return float(np.abs(ordered - robot.default_joint_pos).mean())


def suspected_order(pose: np.ndarray, robot: RobotSpec, joints: Sequence[str]) -> str | None:
    """Return the name of an order that a median pose ``(J,)`` fits far better than the one it is read in, or None."""
    distance = {name: rest_distance(pose, robot, order) for name, order in joint_orders(robot).items()}
    ours, best = rest_distance(pose, robot, joints), min(distance, key=lambda name: distance[name])
    return best if ours > REST_RAD and distance[best] < REST_FACTOR * ours else None


def suspected_robot(pose: np.ndarray, robot: RobotSpec) -> RobotSpec | None:
    """Return another known robot that a median pose ``(J,)`` fits far better, in some order of its joints, or None."""
    ours, like = nearest_order(pose, robot), robots_like(pose)
    if ours > REST_RAD and like and nearest_order(pose, like[0]) < REST_FACTOR * ours:
        return like[0]
    return None


def nearest_order(pose: np.ndarray, robot: RobotSpec) -> float:
    """Return the least :func:`rest_distance` over a robot's joint orders."""
    return min(rest_distance(pose, robot, order) for order in joint_orders(robot).values())


def robots_like(pose: np.ndarray) -> list[RobotSpec]:
    """Return the known robots whose default pose a median pose ``(J,)`` is near in some order, the nearest first.

    A robot whose default pose is near zero is none of them: so are positions of any robot that are relative to its own.
    """
    robots = [robot for name in robot_folders() if len((robot := load_robot(name)).joints) == len(pose)]
    robots = [robot for robot in robots if nearest_order(np.zeros(len(pose)), robot) > REST_RAD]
    near = [(distance, robot) for robot in robots if (distance := nearest_order(pose, robot)) < REST_RAD]
    return [robot for _, robot in sorted(near, key=lambda pair: pair[0])]
