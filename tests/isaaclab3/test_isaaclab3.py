"""Isaac Lab 3.0's registered velocity tasks become valid rows; policies are trained and scored in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwmdata.alignment import check_alignment
from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.robots import load_robot
from rwmdata.validate import validate
from rwmrl import backends
from rwmrl.envs.base import EnvOptions

STEPS = 60
"""Control steps of an episode that ends by its time limit."""


def ends(dataset):
    return dataset.episodes.start + dataset.episodes.length - 1


def last_object(printed):
    """Return what a command printed last: in the test's own process the simulator's words come before it."""
    return json.loads(printed[printed.rindex("\n{\n") :])


def test_rows_are_valid_and_nothing_that_is_deprecated_is_used(exported):
    dataset, given = exported
    assert [f for f in validate(dataset) if f.severity == "error"] == []
    assert dataset.rows == 16 * 100
    package = str(Path(backends.__file__).parent)
    assert [str(w.message) for w in given if w.filename.startswith(package)] == []
    assert dataset.manifest.provenance["versions"]["isaaclab"] == "3.0.0"


def test_actions_and_gravity_are_aligned_with_states(exported):
    dataset, _ = exported
    assert check_alignment(dataset, dataset.matrix()).best == 0
    rows, schema = dataset.matrix(), dataset.schema
    inner = np.setdiff1d(np.arange(1, len(rows)), dataset.episodes.start)
    gravity, turning = rows[:, schema.group("projected_gravity")], rows[:, schema.group("base_ang_vel")]
    np.testing.assert_allclose(np.linalg.norm(gravity, axis=1), 1.0, atol=1e-4)
    # A direction that is fixed in the world turns in the base frame against the base: dg/dt = g x w.
    seen = (gravity[inner] - gravity[inner - 1]) * dataset.control_hz
    expected = np.cross(gravity[inner], (turning[inner] + turning[inner - 1]) / 2)
    assert (seen * expected).sum() / np.linalg.norm(seen) / np.linalg.norm(expected) > 0.85


def test_episodes_end_by_falls_and_by_time(exported):
    dataset, _ = exported
    episodes = dataset.episodes
    assert episodes.terminated.sum() > 1 and (episodes.length[episodes.terminated] <= STEPS + 1).all()
    by_time = ~episodes.terminated & (episodes.length == STEPS + 1)
    assert by_time.sum() > 3
    rows, schema = dataset.matrix(), dataset.schema
    starts = rows[episodes.start]
    assert not starts[:, schema.action].any() and not starts[:, schema.group("joint_torque")].any()
    assert starts[:, schema.group("projected_gravity")][:, 2].max() < -0.99
    assert rows[:, -1].sum() == episodes.terminated.sum()


def test_the_last_row_of_an_episode_is_the_one_before_its_reset(exported):
    dataset, _ = exported
    schema, rows, episodes = dataset.schema, dataset.matrix(), dataset.episodes
    position, velocity = rows[:, schema.group("joint_pos")], rows[:, schema.group("joint_vel")]

    def error(at):
        step = (position[at] - position[at - 1]) * dataset.control_hz
        return np.abs(step - (velocity[at] + velocity[at - 1]) / 2).mean() / np.abs(velocity[at]).mean()

    last = ends(dataset)[episodes.length > 3]
    inner = np.setdiff1d(np.arange(len(rows)), np.concatenate((episodes.start, last)))
    assert error(inner) < 0.4 and error(last) < 0.5
    assert rows[last][:, schema.action].any(axis=1).all()


def test_torques_follow_the_drive_law_with_the_action_of_the_same_row(exported):
    dataset, _ = exported
    robot, schema = load_robot(dataset.robot), dataset.schema
    rows = dataset.matrix()[np.setdiff1d(np.arange(dataset.rows), dataset.episodes.start)]
    action, position, velocity, torque = (
        rows[:, schema.group(g)] for g in ("action", "joint_pos", "joint_vel", "joint_torque")
    )
    drive = robot.drive

    def explained(action):
        wanted = drive.stiffness * (robot.action_scale * action - position) - drive.damping * velocity
        return np.corrcoef(wanted.clip(-drive.effort_limit, drive.effort_limit).ravel(), torque.ravel())[0, 1]

    assert explained(action) > 0.8
    assert explained(action) > 0.05 + max(explained(np.roll(action, k, axis=0)) for k in (-1, 1))


def test_the_same_seed_gives_the_same_rows_and_groups_of_the_tasks_own_the_same_numbers(make_rows):
    few = {"num_envs": 4, "transitions": 4 * 80}
    plain, own = make_rows("anymal_d", "plain", **few), make_rows("anymal_d", "own", task="Groups-AnymalD", **few)
    ours, theirs = plain.matrix(), own.matrix()
    # The task's own group shows the torques of the episode before at a start.
    torque = plain.schema.group("joint_torque")
    ours[plain.episodes.start, torque] = theirs[own.episodes.start, torque] = 0
    assert list(plain.episodes.length) == list(own.episodes.length)
    np.testing.assert_array_equal(ours, theirs)


def test_what_the_recorder_writes_becomes_the_same_rows(make_rows, isaac_home):
    exported = make_rows("anymal_d", "seen", num_envs=4, transitions=4 * 80, task="Recorded-AnymalD")
    file = Path(os.environ["RWM_TEST_RECORDINGS"]) / "dataset.hdf5"
    recorded = convert(isaac_home, [file], "recorded", joint_order="legs")
    schema, count = exported.schema, len(recorded.episodes.start)
    assert count > 4
    finished = [(a, n) for a, n in zip(exported.episodes.start, exported.episodes.length, strict=True)]
    ours, theirs = exported.matrix(), recorded.matrix()
    same = [schema.group(g) for g in ("base_lin_vel", "base_ang_vel", "projected_gravity", "joint_pos", "joint_vel")]
    for (start, length), at, n in zip(finished, recorded.episodes.start, recorded.episodes.length, strict=False):
        assert length == n
        for columns in (*same, schema.action):
            np.testing.assert_allclose(theirs[at : at + n, columns], ours[start : start + n, columns], atol=2e-4)


def test_an_unknown_task_is_named(make_rows):
    with pytest.raises(RwmError, match="None of Nope is registered with isaaclab; velocity tasks: .*Flat-AnymalD"):
        make_rows("anymal_d", "nope", task="Nope")


def test_json_output_is_one_object_though_the_simulator_prints(tmp_path):
    words = "data export --backend isaaclab --transitions 64 --num-envs 8 --device cpu --json --home"
    command = [sys.executable, "-m", "cli", *words.split(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 64


def test_a_policy_is_trained_in_it(rwm):
    words = "train --backend isaaclab --iterations 2 --num-envs 16 --device cpu --json"
    result = last_object(rwm(*words.split()))
    assert result["steps"] == 2 * 16 * 24 and np.isfinite(result["episode_length"])


def test_the_shipped_expert_is_scored_in_it(rwm, monkeypatch):
    from reports.evaluate import policy_score

    def for_two_seconds(backend, robot, options: EnvOptions):
        return backends.make_env(backend, robot, options.model_copy(update={"episode_length_s": 2.0}))

    monkeypatch.setattr(policy_score, "make_env", for_two_seconds)
    words = "eval policy --policy expert --backend isaaclab --episodes 6 --device cpu --json"
    scalars = last_object(rwm(*words.split()))["scalars"]
    value = {(s["metric"], s["mode"]): s["value"] for s in scalars}
    assert value["share_without_fall", "undisturbed"] >= 5 / 6
    assert value["episode_steps", "undisturbed"] > 80 and value["lin_vel_error", "undisturbed"] < 0.5


def test_the_doctor_says_what_it_simulates_with(rwm):
    found = {f["name"]: f for f in json.loads(rwm("doctor", "--json"))["findings"]}
    assert found["isaaclab"]["ok"] and found["isaaclab"]["found"].startswith("3.0.0 with Newton; no PhysX")
