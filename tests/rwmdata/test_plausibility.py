"""What is unlikely is warned of, by row and column; a plain recording is not."""

from __future__ import annotations

import numpy as np
import pytest

from rwmdata.episodes import Episode
from rwmdata.plausibility import implausible
from rwmdata.validate import validate
from rwmdata.writer import DatasetWriter


@pytest.fixture
def found(home, schema, episodes):
    """Give the findings for two synthetic episodes after ``change(rows)`` of their 240 rows."""

    def find(change, provenance=None, **options):
        parts = episodes(2, 120)
        rows = np.concatenate(parts)
        change(rows)
        with DatasetWriter(home.data_dir, "set", "anymal_d", schema, 50.0, provenance or {}, **options) as writer:
            for part in (rows[:120], rows[120:]):
                writer.append(Episode(part, truncated=True))
            dataset = writer.commit()
        return list(implausible(dataset, dataset.matrix())), dataset

    return find


def test_a_plain_recording_is_plausible_but_for_what_it_does_not_have(found):
    """The synthetic one leaves some columns at zero, and its joints wander beyond a hip's stops."""
    assert {check for check, _, _ in found(lambda rows: None)[0]} <= {"stuck", "limits"}


def test_joints_beyond_their_stops_and_impossible_torques_are_named(found, schema):
    def change(rows):
        rows[7, schema.group("joint_pos").start + 2] = 9.0
        rows[9, schema.group("joint_torque").start] = -200.0

    warned = {where: message for check, where, message in found(change)[0] if check == "limits"}
    assert set(warned) == {"row 7, column joint_pos_RF_HAA", "row 9, column joint_torque_LF_HAA"}
    assert warned["row 7, column joint_pos_RF_HAA"] == "is 9, beyond what ANYmal D can do (1 rows)"


def test_a_sensor_that_stops_is_stuck_and_one_that_pauses_is_not(found, schema):
    def change(rows):
        rows[:, schema.group("joint_torque")] = np.random.default_rng(0).normal(size=(240, 12))
        rows[20:80, 0] = rows[20, 0]
        rows[20:50, 1] = rows[20, 1]

    warned = [(where, message) for check, where, message in found(change)[0] if check == "stuck"]
    assert ("row 20, column base_lin_vel_x" in [w for w, _ in warned]) and "base_lin_vel_y" not in str(warned)
    assert "for over 1 s (60 rows)" in dict(warned)["row 20, column base_lin_vel_x"]


def test_a_torque_at_its_drives_limit_is_not_stuck(found, schema):
    """As of a leg that is jammed under a robot; the same torque a little below the limit is a sensor's fault."""
    first = schema.group("joint_torque").start

    def jam(rows):
        rows[:, schema.group("joint_torque")] = np.random.default_rng(0).normal(size=(240, 12))
        rows[20:100, first] = -80.0
        rows[20:100, first + 1] = 70.0

    stuck = [where for check, where, _ in found(jam)[0] if check == "stuck" and "torque" in where]
    assert stuck == ["row 20, column joint_torque_LH_HAA"]


def test_repeated_rows_are_counted(found):
    def repeat_rows(rows):
        rows[31:34] = rows[30]

    assert ("duplicate", "row 31", "is the same as the row before in every column (3 rows)") in found(repeat_rows)[0]


def test_the_same_episode_twice_is_counted(found):
    def repeat_episode(rows):
        rows[120:] = rows[:120]

    assert ("duplicate", "dataset", "1 episodes are exact copies of others") in found(repeat_episode)[0]


def test_shards_that_differ_are_named(found):
    def shift(rows):
        rows[120:, 0] += 50

    warned = found(shift, rows_per_shard=100)[0]
    assert ("shift", "column base_lin_vel_x", "its mean differs between shards by 2.0 standard deviations") in warned
    assert "base_lin_vel_y" not in str(warned)


def test_groups_declared_missing_are_said_and_not_faulted(found, schema):
    def blank(rows):
        rows[:, schema.group("projected_gravity")] = 0

    warned, dataset = found(blank, {"missing_groups": ["projected_gravity", "joint_torque"]})
    assert warned[0][:2] == ("missing", "dataset.json")
    assert not [f for f in validate(dataset) if f.check == "gravity"]
    assert not [w for w in warned if "gravity" in w[1]]


def test_a_robot_that_stands_is_not_stuck(found, schema):
    def stand(rows):
        rows[:, schema.group("joint_torque")] = np.random.default_rng(0).normal(size=(240, 12))
        rows[20:90, schema.group("joint_vel")] = 0
        rows[20:90, schema.group("joint_pos")] = rows[20, schema.group("joint_pos")]

    assert not [where for check, where, _ in found(stand)[0] if check == "stuck" and "joint" in where]
