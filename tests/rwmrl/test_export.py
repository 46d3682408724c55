"""Export: exactly the rows asked for, whole episodes, honest ends, the right action in every row."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.validate import validate
from rwmrl import export
from rwmrl.backends import make_env
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import BEHAVIOURS, make_behaviour
from rwmrl.envs.base import EnvOptions
from rwmrl.export import ExportConfig, export_dataset
from rwmrl.scripted import SmoothedRandom


def make(home, **options):
    defaults = {"transitions": 3000, "num_envs": 16, "name": "set", "seed": 1, "episode_length_s": 2.0}
    return export_dataset(home, ExportConfig(**defaults | options))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return make(Home.resolve(tmp_path_factory.mktemp("export")), policy="wander")


@pytest.mark.parametrize(("transitions", "envs"), [(1, 8), (7, 8), (8, 8), (9, 8), (101, 4), (205, 1), (500, 7)])
def test_the_row_count_is_exact_whatever_the_environments(home, transitions, envs):
    seen = []
    config = ExportConfig(transitions=transitions, num_envs=envs, name="set", episode_length_s=0.5)
    dataset = export_dataset(home, config, lambda done, total, numbers: seen.append((done, total)))
    assert dataset.rows == transitions == dataset.matrix().shape[0]
    assert dataset.episodes.length.sum() == transitions and dataset.episodes.length.min() >= 1
    assert dataset.episodes.length.max() <= 26
    assert seen[-1] == (transitions, transitions)


def test_rows_are_finite_and_physical(exported):
    rows, schema = exported.matrix(), exported.schema
    assert np.isfinite(rows).all()
    assert np.abs(np.linalg.norm(rows[:, schema.group("projected_gravity")], axis=1) - 1).max() <= 1e-5
    assert set(np.unique(rows[:, schema.contact.start :])) == {0.0, 1.0}


def test_a_biped_is_exported_without_a_fault(home):
    dataset = make(home, robot="g1", policy="scripted", transitions=400, num_envs=4)
    assert (dataset.rows, dataset.schema.width) == (400, 62)
    assert [finding for finding in validate(dataset) if finding.severity == "error"] == []
    assert set(dataset.episodes.behaviour) <= {"sway", "wander"}


def test_an_episode_begins_with_a_zero_action_and_only_there(exported):
    actions = exported.matrix()[:, exported.schema.action]
    still = np.flatnonzero(np.abs(actions).max(axis=1) == 0)
    assert set(exported.episodes.start) <= set(still)
    assert len(still) == len(exported.episodes)


def test_falls_end_episodes_and_everything_else_is_truncated(exported):
    frame, episodes = exported.scan().collect(), exported.episodes
    last = frame.group_by("episode", maintain_order=True).last()
    assert frame["terminated"].sum() == episodes.terminated.sum() > 0
    assert last["terminated"].to_list() == episodes.terminated.tolist()
    assert (last["terminated"] ^ last["truncated"]).all()
    assert frame["truncated"].sum() == (~episodes.terminated).sum()
    assert episodes.length.max() == 101


def test_command_reward_and_behaviour_are_recorded(exported):
    frame = exported.scan().collect()
    assert frame.select(pl.col("^command_.*$").abs().max()).to_numpy().max() <= 1.0
    assert frame["reward"].null_count() == 0
    first = frame.filter(pl.col("step") == 0)
    assert first["reward"].abs().max() == 0 and frame["reward"].abs().max() > 0
    assert set(frame["behaviour"].unique()) == {"wander"}


def test_the_scripted_mixture_names_each_episodes_behaviour(home):
    assert set(make(home, transitions=1500).episodes.behaviour) == {"trot", "stumble", "wander"}


def test_what_randomisation_drew_is_kept_for_every_episode(home):
    episodes = make(home, transitions=1500).manifest.episodes
    drawn = episodes.parameters
    assert set(drawn) == {
        "base_mass_offset_kg", "base_com_offset_x_m", "base_com_offset_y_m", "base_com_offset_z_m"
    }  # fmt: skip
    assert all(len(values) == len(episodes.start) for values in drawn.values())
    assert len(set(drawn["base_mass_offset_kg"])) > 8 and np.abs(drawn["base_mass_offset_kg"]).max() <= 5
    plain = make(home, transitions=500, name="plain", randomize=False, pushes=False)
    assert plain.manifest.episodes.parameters == {} and plain.manifest.provenance["randomization"] is None


def test_within_bounds_the_robot_stays_inside(robot):
    env = make_env("auto", robot, EnvOptions(num_envs=16, pushes=False, randomize=False, bounds_m=(4.0, 3.0)))
    expert = make_behaviour("expert", BehaviourContext(robot, 16, torch.Generator().manual_seed(0)))
    observations, places = env.reset(), []
    for _ in range(900):
        observations = env.step(expert.act(observations)).observations
        places.append(env.base_position[:, :2].clone())
    away = torch.stack(places).abs()
    assert away[..., 0].max() < 2.0 and away[..., 1].max() < 1.5
    assert away[..., 0].max() > 1.2


def test_the_action_column_is_the_action_applied(home, monkeypatch, robot):
    """Follow the actions from the behaviour to the rows."""
    given = []

    class Spy(SmoothedRandom):
        def act(self, observations):
            given.append(super().act(observations).clone())
            return given[-1]

    monkeypatch.setitem(BEHAVIOURS, "spy", lambda context: Spy(context, (0.1, 0.2), "spy"))
    dataset = make(home, policy="spy", num_envs=4, transitions=164)
    rows = dataset.matrix()[:, dataset.schema.action].reshape(4, 41, 12)
    assert np.array_equal(rows[:, 1:], torch.stack(given, dim=1).numpy())
    assert np.abs(rows[:, 0]).max() == 0


def test_torque_and_action_of_a_row_obey_the_drive_law(exported, robot):
    """torque = kp (scale * action - q) - kd qd with the action of the same row, not of its neighbours."""
    schema, rows, episodes, drive = exported.schema, exported.matrix(), exported.episodes, robot.drive
    bounds = zip(episodes.start, episodes.length, strict=True)
    at = np.concatenate([np.arange(start + 1, start + length - 1) for start, length in bounds])
    error = []
    for shift in (-1, 0, 1):
        pull = robot.action_scale * rows[at + shift, schema.action] - rows[at][:, schema.group("joint_pos")]
        torque = drive.stiffness * pull - drive.damping * rows[at][:, schema.group("joint_vel")]
        error.append(np.median(np.abs(torque - rows[at][:, schema.group("joint_torque")])))
    assert error[1] < 1.5 and min(error[0], error[2]) > 2 * error[1]


def test_the_same_seed_writes_the_same_rows(home):
    first = make(home, transitions=800)
    again, other = make(home, transitions=800, name="again"), make(home, transitions=800, name="other", seed=2)
    assert np.array_equal(first.matrix(), again.matrix())
    assert not np.array_equal(first.matrix(), other.matrix())


def test_provenance_says_how_to_make_it_again(exported):
    origin = exported.manifest.provenance
    assert (origin["backend"], origin["task"], origin["policy"], origin["seed"]) == (
        "mujoco",
        "Pretrain-v0",
        "wander",
        1,
    )
    assert origin["randomization"]["base_mass_kg"] == [-5.0, 5.0]
    assert {"mujoco", "torch", "python"} <= set(origin["versions"])
    assert ExportConfig(**origin["config"]).num_envs == 16
    assert origin["dropped_unstable_episodes"] == 0
    assert exported.control_hz == 50.0


def test_provenance_does_not_claim_our_ranges_for_the_task_of_another_simulator(robot):
    config = ExportConfig(backend="isaaclab", policy="wander")
    drawn, plain = (
        export.provenance(config, robot, "isaaclab", 4, "wander", varied)["randomization"] for varied in (None, False)
    )
    assert "base_mass_kg" not in drawn and "task" in drawn and plain is None


def test_an_episode_that_blew_up_is_left_out_and_counted(home, monkeypatch):
    original = export.make_env

    def sabotaged(*args, **kwargs):
        env = original(*args, **kwargs)
        step, count = env.step, [0]

        def blow_up(actions):
            count[0] += 1
            if count[0] == 10:
                env.physics.state[1, env.physics.layout.joint_vel] = np.nan
            return step(actions)

        env.step = blow_up
        return env

    monkeypatch.setattr(export, "make_env", sabotaged)
    dataset = make(home, transitions=200, num_envs=4, policy="wander")
    assert dataset.rows == 200
    assert dataset.manifest.provenance["dropped_unstable_episodes"] == 1
    assert dataset.matrix()[:, dataset.schema.action].any(axis=1).sum() == 200 - len(dataset.episodes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "Walk-v0"}, "Unknown task"), ({"robot": "spot"}, "Unknown robot 'spot'; known robots: anymal_d"),
        ({"backend": "gazebo"}, "Unknown backend"), ({"policy": "dance"}, "Unknown policy"),
        ({"backend": "mjlab"}, "package mjlab is not installed"),
    ],
)  # fmt: skip
def test_wrong_choices_are_named_and_leave_nothing_behind(home, options, message):
    with pytest.raises(RwmError, match=message):
        make(home, **options)
    assert home.datasets() == []


def test_a_taken_name_is_refused(home):
    make(home, transitions=20, num_envs=2)
    with pytest.raises(RwmError, match="'set' exists already"):
        make(home, transitions=20, num_envs=2)
    assert home.dataset("set").rows == 20


def test_environments_follow_the_size_when_left_open():
    assert ExportConfig(transitions=200_000).resolve_envs() == 250
    assert ExportConfig(transitions=20_000).resolve_envs() == 64
    assert ExportConfig(transitions=6_000_000).resolve_envs() == 1024
    assert ExportConfig(transitions=2_000).resolve_envs() == 20
    assert ExportConfig(transitions=3).resolve_envs() == 1
