"""Questions of a proposed mapping: which number is which joint, and which foot, with what the recorded pose tells."""

from __future__ import annotations

import numpy as np

from rwmdata.formats.mapping import ASK
from rwmdata.joint_order import joint_orders, rest_distance
from rwmdata.robots import RobotSpec


def joint_lines(robot: RobotSpec, pose: np.ndarray | None) -> list[str]:
    """Return the question which joint is which, with usual orders, those that the pose fits best first.

    Args:
        robot: The robot.
        pose: Median of the absolute joint positions as recorded ``(J,)``, rad; None where that is not known.
    """
    lines = [
        f"# {ASK}: which number is which joint? The robot's manual or its driver tells. Or look: with the motors off,",
        "# move one joint by hand while it records; the column that changes is that joint. Usual orders:",
    ]
    for distance, order in _usual_orders(robot, pose):
        lines.append(f"#   joints: [{', '.join(order)}]")
        if pose is not None:
            near = np.isfinite(distance)
            off = f"{distance:.2f} rad from the default pose" if near else "beyond the joints' limits"
            lines.append(f"#     (with it the recorded pose is {off})")
    if pose is not None:
        lines.append("# The right one is near the default pose, but left and right may be as near: look.")
    return [*lines, f"joints: {ASK}"]


def leg_lines(robot: RobotSpec, pose: np.ndarray | None) -> list[str]:
    """Return the question which foot is which, first in the order of the legs in the likeliest order of the joints."""
    (_, joints), *_ = _usual_orders(robot, pose)
    place = {leg: next((k for k, joint in enumerate(joints) if joint.startswith(leg)), 0) for leg in robot.legs}
    likely = sorted(robot.legs, key=lambda leg: place[leg])
    orders = [likely, *(order for order in (robot.legs, right_first(robot.legs)) if order != likely)]
    return [
        f"# {ASK}: which number is which foot? Mostly they are numbered as the joints are. Or look: lift the robot and",
        "# press one foot while it records; the column that changes is that foot. Usual orders:",
        *(f"#   legs: [{', '.join(order)}]" for order in orders),
        f"legs: {ASK}",
    ]


def right_first(legs: list[str]) -> list[str]:
    """Return the legs with those of a pair swapped, as Unitree numbers them."""
    return [leg for pair in zip(legs[1::2], legs[::2], strict=False) for leg in pair]


def _usual_orders(robot: RobotSpec, pose: np.ndarray | None) -> list[tuple[float, list[str]]]:
    """Return usual orders of the joints, each with the distance of the pose from the default one; the nearest first."""
    mirrored = robot.model_copy(update={"legs": right_first(robot.legs)})
    orders = list(joint_orders(robot).values())
    orders += [order for name, order in joint_orders(mirrored).items() if name == "legs"]
    different = [order for k, order in enumerate(orders) if order not in orders[:k]]
    return sorted(
        ((rest_distance(pose, robot, order) if pose is not None else 0.0, order) for order in different),
        key=lambda pair: pair[0],
    )
