"""What a robot's columns say about each other: contradictions are faults of an import, whatever the format.

Thresholds lie between what was measured on rollouts of the embedded simulator (both robots; expert to random, scripted,
with noise, pushes and falls) and what the planted fault gives there. Cosines are those of :mod:`rwmdata.motion`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rwmdata.joint_order import joint_orders, suspected_order
from rwmdata.motion import agreement, agreements, gravity_changes, joint_changes, steps_of
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema

FEWEST_STEPS = 100
"""With fewer, nothing is said."""
UPSIDE_DOWN = 0.3
"""Mean of gravity's z above which it points up: a robot that walks has -0.9 and less."""
TURNS = 0.5
"""Least cosine between gravity's changes and w x g where gravity is smooth: measured 0.95 and more (0.86 for random
actions in Newton), 0.05 and less with quaternions in the wrong order, below 0 with an axis turned round."""
SMOOTH = 0.3
"""Correlation of gravity's changes with the next ones above which they are a motion, not a sensor's noise: measured
0.57 and more, 0.75 and more with quaternions in the wrong order; -0.5 for noise, as of an accelerometer."""
MOVES = 0.5
"""Least cosine between a joint's changes of position and its velocity: measured 0.91 and more."""
MOVES_LIKE = 0.8
"""Cosine from which on a unit can be read off, or another joint's velocity recognised."""
LEAST_TURN, LEAST_MOVE_RAD = 5e-4, 1e-3
"""Root mean square of the changes per row (gravity; joints) below which nothing is said of them."""
DRIVEN, DRIVEN_BETTER = 0.2, 0.12
"""An action's own joint answers to it by a partial correlation of 0.32 and more, mean over the joints; in another order
by 0.15 and less while the right one keeps its 0.32. Below the first, and with another order better by the second, the
actions are in that order."""
FEWEST_DRIVEN = 1000
DEGREES = 180 / np.pi

Finding = tuple[str, str, str]
"""Check, where, message."""


@dataclass(frozen=True)
class Recording:
    """Rows of one robot, its episodes one after the other."""

    rows: np.ndarray
    """``(R, width)``"""
    schema: Schema
    start: np.ndarray
    length: np.ndarray
    hz: float
    missing: Sequence[str] = ()
    """Groups that were not recorded."""
    robot: RobotSpec | None = None

    def steps(self) -> np.ndarray:
        """Return the rows ``(n,)`` that have a next one."""
        return steps_of(self.start, self.length)

    def lacks(self, *groups: str) -> bool:
        """Return whether one of the groups was not recorded."""
        return any(group in self.missing for group in groups)


def contradictions(recording: Recording) -> Iterator[Finding]:
    """Yield (check, where, message) for what a robot's columns say against each other."""
    steps = recording.steps()
    if len(steps) >= FEWEST_STEPS:
        yield from _gravity(recording, steps)
        yield from _joints(recording, steps)


def suspicions(recording: Recording) -> Iterator[Finding]:
    """Yield (check, where, message) for joints and actions that seem to be in another order."""
    steps, robot = recording.steps(), recording.robot
    if len(steps) < FEWEST_STEPS or robot is None or recording.lacks("joint_pos"):
        return
    schema = recording.schema
    pose = np.median(recording.rows[:, schema.group("joint_pos")], axis=0) + robot.default_joint_pos
    if order := suspected_order(pose, robot, robot.joints):
        text = f"the median pose is that of {robot.title} with its joints in the order "
        yield "order", "joint columns", text + ", ".join(joint_orders(robot)[order])
    if len(steps) >= FEWEST_DRIVEN and not recording.lacks("joint_vel", "action"):
        yield from _action_order(recording, steps, robot)


def _gravity(recording: Recording, steps: np.ndarray) -> Iterator[Finding]:
    if recording.lacks("projected_gravity"):
        return
    down = recording.rows[:, recording.schema.group("projected_gravity")][:, 2]
    if down.mean() > UPSIDE_DOWN:
        text = (
            f"gravity points up in {np.mean(down > 0):.0%} of the rows: its sign or the order of quaternions is wrong"
        )
        yield "gravity", "column projected_gravity_z", text
    if recording.lacks("base_ang_vel"):
        return
    changes, rates = gravity_changes(recording.rows, recording.schema, steps)
    found = agreement(changes, rates, 1 / recording.hz)
    if found.change < LEAST_TURN:
        return
    if found.cosine < TURNS and _smoothness(changes, steps) > SMOOTH:
        text = (
            f"gravity does not turn as the angular velocity says (cosine {found.cosine:.2f}, expected above {TURNS:g})"
        )
        yield "gravity", "gravity and angular velocity", f"{text}: a sign, a frame or the order of quaternions is wrong"
    elif found.cosine > MOVES_LIKE and found.other_unit:
        yield "gravity", "angular velocity", f"is {_off(found.factor, recording.hz)}, by what gravity's changes say"


def _smoothness(changes: np.ndarray, steps: np.ndarray) -> float:
    """Return the correlation of changes ``(n, k)`` with those of the next step."""
    follows = np.diff(steps) == 1
    total = float((changes**2).sum())
    return float((changes[1:][follows] * changes[:-1][follows]).sum()) / total if total > 0 else 0.0


def _joints(recording: Recording, steps: np.ndarray) -> Iterator[Finding]:
    """Find joints whose positions are not the integral of their velocities."""
    if recording.lacks("joint_pos", "joint_vel"):
        return
    changes, rates = joint_changes(recording.rows, recording.schema, steps)
    names, dt = recording.schema.joints, 1 / recording.hz
    units: dict[str, float] = {}
    unlike: list[str] = []
    for j, (name, found) in enumerate(zip(names, agreements(changes, rates, dt), strict=True)):
        if found.change < LEAST_MOVE_RAD:
            continue
        if found.cosine < MOVES:
            others = {o: agreement(changes[:, [j]], rates[:, [k]], dt).cosine for k, o in enumerate(names) if k != j}
            like = max(others, key=lambda other: others[other])
            reason = f" (as {like})" if others[like] > MOVES_LIKE else ""
            unlike.append(name + (" (the opposite sign)" if found.cosine < -MOVES else reason))
        elif found.cosine > MOVES_LIKE and found.other_unit:
            units[name] = found.factor
    if unlike:
        text = f"positions are not the integral of the velocities: {', '.join(unlike)}"
        yield "integral", "joint_pos and joint_vel", text
    if units:
        which = "all joints" if len(units) == len(names) else ", ".join(units)
        off = _off(float(np.median(list(units.values()))), recording.hz)
        yield (
            "integral",
            "joint_pos and joint_vel",
            f"velocities are {off}, by what the positions' changes say: {which}",
        )


def _off(factor: float, hz: float) -> str:
    """Say what a factor between rates and changes may come from."""
    for unit, expected in (("rates in degrees", DEGREES), ("positions in degrees", 1 / DEGREES)):
        if abs(factor / expected - 1) < 0.3:
            return f"off by a factor of {factor:.3g} ({unit}?)"
    return f"off by a factor of {factor:.3g} (recorded at {hz * factor:.3g} Hz, not {hz:g} Hz, or another unit?)"


def _action_order(recording: Recording, steps: np.ndarray, robot: RobotSpec) -> Iterator[Finding]:
    """Find actions that other joints answer to."""
    schema, rows = recording.schema, recording.rows
    position, velocity, action = (
        rows[:, schema.group(g)].astype(np.float64) for g in ("joint_pos", "joint_vel", "action")
    )
    answers = _answers(position[steps], velocity[steps], velocity[steps + 1] - velocity[steps], action[steps + 1])
    index = np.arange(len(robot.joints))
    scores = {order: float(answers[index, [order.index(j) for j in robot.joints]].mean()) for order in _orders(robot)}
    own, best = scores[tuple(robot.joints)], max(scores, key=lambda order: scores[order])
    if own < DRIVEN and scores[best] > own + DRIVEN_BETTER:
        text = (
            f"joints answer to their actions by a correlation of {own:.2f}, and by {scores[best]:.2f} if these are in "
        )
        yield "order", "action columns", f"{text}the order {', '.join(best)}"


def _answers(position: np.ndarray, velocity: np.ndarray, change: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Return how each joint's velocity changes with each action, without what its own state explains, ``(J, J)``.

    Partial correlations, joints by actions; a position drive answers to its own target.
    """
    count = position.shape[1]
    answers = np.zeros((count, count))
    for j in range(count):
        basis, _ = np.linalg.qr(np.stack((position[:, j], velocity[:, j], np.ones(len(position))), axis=1))
        joint = change[:, j] - basis @ (basis.T @ change[:, j])
        actions = action - basis @ (basis.T @ action)
        size = np.sqrt((actions**2).sum(axis=0) * (joint**2).sum())
        answers[j] = (joint @ actions) / np.where(size > 0, size, 1.0)
    return answers


def _orders(robot: RobotSpec) -> Iterator[tuple[str, ...]]:
    """Give the orders of joints with the legs in any order, joint by joint or leg by leg; the robot's own first."""
    yield tuple(robot.joints)
    if "legs" not in joint_orders(robot):
        return
    for legs in itertools.permutations(robot.legs):
        by_leg = [[joint for joint in robot.joints if joint.startswith(leg)] for leg in legs]
        yield tuple(joint for leg in by_leg for joint in leg)
        yield tuple(joint for parts in zip(*by_leg, strict=True) for joint in parts)
