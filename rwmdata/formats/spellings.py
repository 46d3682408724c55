"""How recorders spell a robot's joints and legs: by other names, or by the leg and a number within it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rwmdata.formats.names import ends_words, words
from rwmdata.joint_order import joint_orders
from rwmdata.robots import RobotSpec, load_robot, robot_folders

LEGS = (
    ("FL", "FR", "RL", "RR"),
    ("LF", "RF", "LH", "RH"),
    ("FL", "FR", "HL", "HR"),
    ("FL", "FR", "BL", "BR"),
    ("front left", "front right", "rear left", "rear right"),
    ("front left", "front right", "hind left", "hind right"),
    ("front left", "front right", "back left", "back right"),
)
"""Names of four legs: front left, front right, hind left, hind right."""
JOINTS = (
    ("hip", "thigh", "calf"),
    ("HAA", "HFE", "KFE"),
    ("abad", "hip", "knee"),
    ("hx", "hy", "kn"),
    ("hipx", "hipy", "knee"),
    ("abduction", "hip", "knee"),
    ("hip", "thigh", "knee"),
    ("abad", "thigh", "calf"),
    ("0", "1", "2"),
    ("1", "2", "3"),
)
"""Names of a leg's joints, from the body down: sideways, forward, knee."""


def leg_spellings(robot: RobotSpec) -> Iterator[list[str]]:
    """Give other names of a robot's legs, each a list in the robot's order; none unless it has the usual four."""
    for place in _places(robot):
        yield from ([legs[k] for k in place] for legs in LEGS if [legs[k] for k in place] != robot.legs)


def joint_spellings(robot: RobotSpec) -> Iterator[list[str]]:
    """Give other names of a robot's joints, each a list in the robot's order; none unless it has three a leg.

    Each is a text of words, ``front left hip``, or one word, ``FLhip``.
    """
    by_leg = joint_orders(robot).get("legs", [])
    for place in _places(robot) if len(by_leg) == 3 * len(robot.legs) else ():
        where = {joint: (place[k // 3], k % 3) for k, joint in enumerate(by_leg)}
        for legs in LEGS:
            for joints in JOINTS:
                pairs = [(legs[leg], joints[number]) for leg, number in (where[joint] for joint in robot.joints)]
                yield [f"{leg} {joint}" for leg, joint in pairs]
                yield [f"{leg}{joint}" for leg, joint in pairs]


def _places(robot: RobotSpec) -> Iterator[list[int]]:
    """Give where the robot's legs are, in its order."""
    for legs in LEGS:
        if sorted(legs) == sorted(robot.legs):
            yield [legs.index(leg) for leg in robot.legs]
            return


def named_joints(columns: Iterable[str], robot: RobotSpec) -> int:
    """Return how many of a robot's joints are named, as the robot names them, in some column."""
    found = [words(column) for column in columns]
    return sum(any(ends_words(joint) <= some for some in found) for joint in robot.joints)


def robots_by_names(columns: Sequence[str]) -> list[RobotSpec]:
    """Return the known robots all of whose joints are named in columns."""
    robots = [load_robot(name) for name in robot_folders()]
    return [robot for robot in robots if named_joints(columns, robot) == len(robot.joints)]


def options(robots: Iterable[RobotSpec]) -> str:
    """Return robots as the option that names one, ``--robot go1 or go2``."""
    return f"--robot {' or '.join(robot.name for robot in robots)}"
