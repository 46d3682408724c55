from __future__ import annotations

import numpy as np
import pytest

from rwmdata.episode_ends import find_episode_starts


def starts(rows, schema):
    return [s.row for s in find_episode_starts(rows, schema, 0.02)]


def test_ten_unmarked_episodes_have_exactly_nine_inner_boundaries(episodes, schema):
    found = find_episode_starts(np.concatenate(episodes(10, 1000)), schema, 0.02)
    assert [s.row for s in found] == list(range(1000, 10_000, 1000))
    assert all("all-zero action" in s.reason and not s.marked for s in found)


def test_boundaries_without_a_zero_action_are_found_by_the_jump(episodes, schema):
    rows = np.concatenate([e[1:] for e in episodes(10, 301)])
    found = find_episode_starts(rows, schema, 0.02)
    assert [s.row for s in found] == list(range(300, 3000, 300))
    assert all("joint positions jump" in s.reason for s in found)


def test_marked_ends_are_told_from_unmarked_ones(episodes, schema):
    first, second, third = episodes(3, 50)
    first[-1, -1] = 1
    found = find_episode_starts(np.concatenate([first, second, third]), schema, 0.02)
    assert [(s.row, s.marked) for s in found] == [(50, True), (100, False)]


def test_pushes_are_not_boundaries(episodes, schema):
    (rows,) = episodes(1, 500)
    rows[100:, schema.group("base_lin_vel")] += 1.0
    rows[200, schema.group("joint_vel")] += 5.0  # an impact: velocity spikes, position does not
    rows[200, schema.group("joint_pos")] += 0.05
    assert starts(rows, schema) == []


def test_legs_that_are_struck_while_the_robot_falls_are_not_boundaries(episodes, schema):
    """Their velocities turn round within a step, and the mean of both explains nothing; a reset does not do this."""
    (rows,) = episodes(1, 300)
    joints = schema.group("joint_pos").start + np.arange(3)
    rows[100:, joints] += 0.4
    assert starts(rows, schema) == [100]
    rows[99, joints + schema.group("joint_vel").start - schema.group("joint_pos").start] = 25.0
    assert starts(rows, schema) == []


def test_fast_falls_are_not_boundaries(schema):
    """Gravity turns at 8 rad/s; the angular velocity explains it."""
    angle = 8.0 * 0.02 * np.arange(50)
    rows = np.zeros((50, schema.width), np.float32)
    rows[:, schema.group("base_ang_vel")] = (8.0, 0, 0)
    # dg/dt = -w x g with w = 8 x gives g = (0, -sin, -cos) of the angle
    rows[:, schema.group("projected_gravity")] = np.stack((0 * angle, -np.sin(angle), -np.cos(angle)), axis=1)
    assert starts(rows, schema) == []
    rows[:, schema.group("base_ang_vel")] = 0
    rows[20:, schema.group("projected_gravity")] = (0, 0, -1)
    assert 20 in starts(rows, schema)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_robot_commanded_constantly_is_one_episode(episodes, schema, value):
    (rows,) = episodes(1, 300)
    rows[:, schema.action] = value
    assert starts(rows, schema) == []


def test_switching_the_policy_off_is_not_a_boundary(episodes, schema):
    """Actions become zero while the motion goes on smoothly."""
    (rows,) = episodes(1, 300)
    rows[150:, schema.action] = 0
    assert starts(rows, schema) == []
