"""Plausibility of a dataset: warnings, not errors, as a robot can be at its limits and a sensor can be quiet."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec, load_robot

JOINT_MARGIN_RAD = 0.1
"""How far an impact may press a joint beyond its limit."""
TORQUE_FACTOR, VELOCITY_FACTOR = 1.1, 2.0
"""Factors on the limits beyond which torques and velocities cannot be this robot's. An impact can turn a joint faster
than its drive can."""
FROZEN_S = 1.0
"""A continuous sensor that repeats one value for this long, while others change, is stuck..."""
STANDS_RAD, STANDS_BY_VELOCITY_RAD = 0.05, 0.1
"""... unless the robot stands: no other joint moves further meanwhile, by its position or by its (noisier) velocity."""
AT_LIMIT = 0.99
"""Share of its drive's limit from which a torque is at it."""
SHIFT_STD = 1.5
"""Warn when the means of two shards differ by more, in standard deviations of the whole dataset. Two shards can differ
by 2 at most."""


def implausible(dataset: Dataset, matrix: np.ndarray) -> Iterator[tuple[str, str, str]]:
    """Yield (check, where, message) for everything implausible in a dataset's rows ``(R, width)``."""
    if missing := dataset.manifest.provenance.get("missing_groups", []):
        yield "missing", "dataset.json", f"{', '.join(missing)} not recorded, written as zeros"
    effort_limits = np.array(math.inf)
    try:
        robot = load_robot(dataset.robot)
        effort_limits = np.array(robot.drive.effort_limit)
        yield from _beyond_limits(dataset, matrix, robot, missing)
    except RwmError:
        yield "robot", "dataset.json", f"robot '{dataset.robot}' is not known here, so its limits were not checked"
    yield from _stuck(dataset, matrix, missing, effort_limits)
    yield from _repeated(dataset, matrix)
    yield from _shifted(dataset, matrix)


def _beyond_limits(
    dataset: Dataset, matrix: np.ndarray, robot: RobotSpec, missing: list[str]
) -> Iterator[tuple[str, str, str]]:
    limits = np.array(robot.joint_pos_limits) - np.array(robot.default_joint_pos)[:, None]
    velocity = VELOCITY_FACTOR * np.array(robot.drive.velocity_limit)
    torque = TORQUE_FACTOR * np.array(robot.drive.effort_limit)
    ranges = {
        "joint_pos": (limits[:, 0] - JOINT_MARGIN_RAD, limits[:, 1] + JOINT_MARGIN_RAD),
        "joint_vel": (-velocity, velocity),
        "joint_torque": (-torque, torque),
    }
    for group, (low, high) in ranges.items():
        if group in missing:
            continue
        columns = dataset.schema.group(group)
        values = matrix[:, columns]
        wrong = (values < low) | (values > high)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            name = dataset.schema.csv_names[columns.start + column]
            text = f"is {values[row, column]:.3g}, beyond what {robot.title} can do ({wrong.any(axis=1).sum()} rows)"
            yield "limits", f"row {row}, column {name}", text


def _stuck(
    dataset: Dataset, matrix: np.ndarray, missing: list[str], effort_limits: np.ndarray
) -> Iterator[tuple[str, str, str]]:
    """Find continuous state columns that repeat one value while the robot moves.

    A torque may stay at its drive's limit, of which there are one or one a joint: so it does where a leg is jammed
    under a robot that fell.
    """
    schema, rows = dataset.schema, round(FROZEN_S * dataset.control_hz)
    torques = schema.group("joint_torque")
    at_limit = AT_LIMIT * np.broadcast_to(effort_limits, len(schema.joints))
    recorded = [j for j in range(schema.state.stop) if schema.columns[j].group not in missing]
    for j in recorded:
        same = np.concatenate(([False], matrix[1:, j] == matrix[:-1, j]))
        same[dataset.episodes.start] = False
        if schema.columns[j].group == "joint_torque":
            same &= np.abs(matrix[:, j]) < at_limit[j - torques.start]
        begins, ends = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])))).reshape(-1, 2).T
        long = ends - begins >= rows
        if not long.any():
            continue
        runs = zip(begins[long] - 1, ends[long], strict=True)
        held = [(first, stop) for first, stop in runs if _moves(dataset, matrix[first:stop], j)]
        if held:
            first, total = held[0][0], sum(b - a for a, b in held)
            text = f"keeps the value {matrix[first, j]:.4g} for over {FROZEN_S:g} s ({total} rows)"
            yield "stuck", f"row {first}, column {schema.names[j]}", text


def _moves(dataset: Dataset, rows: np.ndarray, column: int) -> bool:
    """Return whether a joint moves in the middle rows of ``(n, width)``, as columns other than ``column`` say."""
    rows = rows[len(rows) // 10 : len(rows) - len(rows) // 10]  # At either end the robot may just stop or start.
    for group, least in (("joint_pos", STANDS_RAD), ("joint_vel", STANDS_BY_VELOCITY_RAD)):
        columns = dataset.schema.group(group)
        moved = rows[:, [k for k in range(columns.start, columns.stop) if k != column]].astype(np.float64)
        if group == "joint_vel":
            moved = np.cumsum(moved, axis=0) / dataset.control_hz
        if np.ptp(moved, axis=0).max() > least:
            return True
    return False


def _repeated(dataset: Dataset, matrix: np.ndarray) -> Iterator[tuple[str, str, str]]:
    """Find rows equal to the one before, and repeated episodes."""
    same = (matrix[1:] == matrix[:-1]).all(axis=1)
    same[dataset.episodes.start[1:] - 1] = False
    if same.any():
        text = f"is the same as the row before in every column ({same.sum()} rows)"
        yield "duplicate", f"row {np.flatnonzero(same)[0] + 1}", text
    bounds = zip(dataset.episodes.start, dataset.episodes.length, strict=True)
    seen = Counter(hashlib.sha256(matrix[a : a + n].data).digest() for a, n in bounds if n > 1)
    if twice := sum(count - 1 for count in seen.values()):
        yield "duplicate", "dataset", f"{twice} episodes are exact copies of others"


def _shifted(dataset: Dataset, matrix: np.ndarray) -> Iterator[tuple[str, str, str]]:
    """Find state columns whose mean differs between shards by far more than the values vary."""
    state = dataset.schema.state
    bounds = np.cumsum([shard.rows for shard in dataset.manifest.shards])[:-1]
    means = [rows.mean(axis=0, dtype=np.float64) for rows in np.split(matrix[:, state], bounds)]
    std = np.array([column.std for column in dataset.manifest.columns[state]])
    spread = np.ptp(np.stack(means), axis=0) / np.maximum(std, 1e-6)
    for j in np.flatnonzero(spread > SHIFT_STD):
        text = f"its mean differs between shards by {spread[j]:.1f} standard deviations"
        yield "shift", f"column {dataset.schema.names[j]}", text
