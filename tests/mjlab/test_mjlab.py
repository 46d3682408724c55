"""mjlab for real, on the processor: its Go1 flat velocity task becomes a valid dataset. Run by ``make test-mjlab``."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from rwmdata.alignment import check_alignment
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.validate import validate
from rwmrl.export import ExportConfig, export_dataset

pytest.importorskip("mjlab")
OPTIONS = {"backend": "mjlab", "robot": "go1", "num_envs": 16, "policy": "scripted"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    config = ExportConfig(transitions=4000, name="go1", **OPTIONS)
    return export_dataset(Home.resolve(tmp_path_factory.mktemp("home")), config)


def test_the_dataset_is_valid_and_its_actions_are_aligned(dataset):
    assert [f for f in validate(dataset) if f.severity == "error"] == []
    assert check_alignment(dataset, dataset.matrix()).best == 0


def test_falls_end_episodes_lying_on_the_side(dataset):
    rows, episodes = dataset.matrix(), dataset.episodes
    last = episodes.start + episodes.length - 1
    fallen = rows[last[episodes.terminated]]
    assert len(fallen) > 3
    gravity = fallen[:, dataset.schema.group("projected_gravity")]
    assert gravity[:, 2].min() > -np.cos(np.radians(65))  # the task ends an episode beyond 70 degrees
    starts = rows[episodes.start]
    assert not starts[:, dataset.schema.action].any()
    assert starts[:, dataset.schema.group("projected_gravity")][:, 2].max() < -0.9


def test_positions_are_the_integral_of_velocities_also_in_an_episodes_last_row(dataset):
    schema, rows, episodes = dataset.schema, dataset.matrix(), dataset.episodes
    position, velocity = rows[:, schema.group("joint_pos")], rows[:, schema.group("joint_vel")]

    def error(at):
        step = (position[at] - position[at - 1]) * dataset.control_hz
        return np.abs(step - (velocity[at] + velocity[at - 1]) / 2).mean() / np.abs(velocity[at]).mean()

    inner = np.concatenate(
        [np.arange(a + 1, a + n - 1) for a, n in zip(episodes.start, episodes.length, strict=True) if n > 3]
    )
    last = (episodes.start + episodes.length - 1)[episodes.length > 3]
    assert error(inner) < 0.35 and error(last) < 0.45


def test_torques_follow_the_drive_law_with_the_action_of_the_same_row(dataset):
    robot, schema, rows = load_robot("go1"), dataset.schema, dataset.matrix()
    thigh = slice(4, 8)
    names = ("action", "joint_pos", "joint_vel", "joint_torque")
    action, position, velocity, torque = (rows[1:, schema.group(g)][:, thigh] for g in names)
    drive = robot.drive

    def explained(action):
        wanted = drive.stiffness * (robot.action_scale * action - position) - drive.damping * velocity
        return np.corrcoef(wanted.clip(-23.7, 23.7).ravel(), torque.ravel())[0, 1]

    # Not exactly: joints have a bias of their own that is randomised, and pushes change velocities after the step.
    assert explained(action) > 0.85
    assert explained(action) > 0.03 + max(explained(np.roll(action, k, axis=0)) for k in (-1, 1))


def test_json_output_is_one_object_and_an_unknown_task_is_named(tmp_path):
    command = [sys.executable, "-m", "cli.main", "data", "export", "--backend", "mjlab", "--robot", "go1", "--json",
               "--transitions", "64", "--num-envs", "8", "--home", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 64
    config = ExportConfig(transitions=64, task="Nope", **OPTIONS)
    with pytest.raises(RwmError, match="None of Nope is registered with mjlab; velocity tasks: Mjlab-Velocity-Flat"):
        export_dataset(Home.resolve(tmp_path), config)
