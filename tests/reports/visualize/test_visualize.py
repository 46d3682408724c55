"""Twins against one-step predictions, poses against the simulator, and the files that show both."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from reports.visualize import pictures, view
from reports.visualize.pose import Pose, integrate
from reports.visualize.recording import Recording, record_robots, recorded_episode
from reports.visualize.scene import make_scene
from reports.visualize.twin import imagine_twins, poses_of
from reports.visualize.view import SimulatedViewConfig, visualize_policy
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmmodel.checkpoint import save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.normalizer import Normalizer
from rwmrl.backends import make_env
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.envs.base import EnvOptions
from rwmrl.envs.mujoco_shapes import RobotShapes

HISTORY = 4


@pytest.fixture
def model(schema):
    torch.manual_seed(0)
    config = EnsembleConfig(
        hidden=8, head_hidden=8, members=2, history=HISTORY, state_dim=45, action_dim=12, contact_dim=8
    )
    rng = np.random.default_rng(0)
    normalizer = Normalizer(45, 12, *(rng.uniform(0.5, 2, 57).astype(np.float32) for _ in range(2)))
    return DynamicsEnsemble(config, normalizer, ModelInfo("anymal_d", schema.csv_names, 50.0, "set")).eval()


@pytest.fixture
def random_recording(schema):
    """Two robots; the second one's episode ends after row 9."""
    rows = np.random.default_rng(1).normal(size=(2, 20, 66)).astype(np.float32)
    begins = np.zeros((2, 20), bool)
    begins[:, 0] = begins[1, 10] = True
    return Recording(rows, None, begins, schema, 0.02)


def test_a_twin_synchronised_every_step_is_one_step_predictions(model, schema, random_recording):
    twin = imagine_twins(model, random_recording, resync=1)
    normalizer, rows = model.normalizer, torch.from_numpy(random_recording.rows)
    for robot, row in ((0, 4), (0, 15), (1, 9), (1, 14)):
        before, acted = rows[robot, row - 4 : row, schema.state], rows[robot, row - 3 : row + 1, schema.action]
        with torch.no_grad():
            predicted = model(normalizer.state(before)[None], normalizer.action(acted)[None])
        wanted = normalizer.denorm_state(predicted.state)[0]
        np.testing.assert_allclose(twin.rows[robot, row, schema.state], wanted, rtol=1e-4, atol=1e-4)
        assert (twin.rows[robot, row, schema.contact] == (predicted.contact > 0)[0].numpy()).all()
    assert set(twin.since[0]) == {-1, 1}


def test_no_twin_crosses_an_end_and_all_take_the_real_actions(model, schema, random_recording):
    twin = imagine_twins(model, random_recording)
    assert twin.since[0].tolist() == [-1] * 4 + list(range(1, 17))
    assert twin.since[1].tolist() == [-1] * 4 + list(range(1, 7)) + [-1] * 4 + list(range(1, 7))
    assert np.isnan(twin.rows[~twin.exists]).all()
    there = twin.exists
    np.testing.assert_array_equal(twin.rows[there][:, schema.action], random_recording.rows[there][:, schema.action])
    # What follows an end changes nothing before it.
    random_recording.rows[1, 10:] += 1
    np.testing.assert_array_equal(imagine_twins(model, random_recording).rows[1, :10], twin.rows[1, :10])
    assert [p.steps for p in imagine_twins(model, random_recording, 5).parts] == [5, 5, 5, 1, 5, 1, 5, 1]


def test_a_twin_starts_at_the_real_robots_pose(model, random_recording):
    twin = imagine_twins(model, random_recording, resync=3)
    poses = poses_of(random_recording, twin, None)
    for part in twin.parts:
        at = part.robot, part.synchronised
        step = np.linalg.norm(poses.twin.position[part.robot, at[1] + 1] - poses.real.position[at])
        assert step < 0.02 * 6 and (part.synchronised > 3 or not step > 1)
    assert np.isnan(poses.twin.position[~twin.exists]).all()


def test_integrated_poses_are_the_simulators(robot):
    env = make_env("auto", robot, EnvOptions(task="Visualize-v0", num_envs=1, seed=1, threads=0))
    behaviour = make_behaviour("expert", BehaviourContext(robot, 1, torch.Generator()), 0.0)
    true, step = [], env.step

    def watched(actions):
        done = step(actions)
        true.append((env.base_position[0].numpy(), env.base_quaternion[0].numpy()))
        return done

    env.step = watched
    recording = record_robots(env, behaviour, steps=200, settle=50)
    env.close()
    position, quaternion = (np.stack(part)[50:] for part in zip(*true, strict=True))
    start = Pose(position[0], quaternion[0])
    pose = integrate(recording.rows[0], recording.schema, recording.dt_s, start, RobotShapes(robot))
    path = np.linalg.norm(np.diff(position[:, :2], axis=0), axis=1).sum()
    assert path > 1.5
    assert np.linalg.norm((pose.position - position)[:, :2], axis=1).max() < 0.02 * path
    assert np.abs(pose.position - position)[:, 2].max() < 0.02
    assert np.abs((pose.quaternion * quaternion).sum(axis=1)).min() > 0.9999


def test_a_robot_that_turns_on_the_spot_and_leans(schema):
    rows = np.zeros((51, 66), np.float32)
    rows[:, schema.group("projected_gravity")] = (np.sin(0.1), 0, -np.cos(0.1))
    # A yaw rate of 1 rad/s about the vertical, as a base pitched by 0.1 rad feels it.
    rows[:, schema.group("base_ang_vel")] = (-np.sin(0.1), 0, np.cos(0.1))
    pose = integrate(rows, schema, 0.02)
    assert pose.yaw[-1] == pytest.approx(1.0, abs=1e-4) and np.abs(pose.position).max() == 0.0


def fake_frames(robot, real, twin, lookat, size, *rest):
    frames = np.full((len(real), size[1], size[0], 3), 128, np.uint8)
    frames[:, ::2] = np.arange(len(real), dtype=np.uint8)[:, None, None, None]
    return frames


@pytest.fixture
def model_run(home, model):
    run = Run.create(home, "model", {}, {"dataset": "set"}, 0)
    save_model(model, run.model_file)
    run.finish({})
    return run


@pytest.mark.parametrize("robots", [1, 3])
def test_files_of_robots_in_the_simulator(home, model_run, monkeypatch, robots):
    monkeypatch.setattr(pictures, "render_pair", fake_frames)
    config = SimulatedViewConfig(policy="scripted", robots=robots, settle=0, steps=12)
    run = visualize_policy(home, model_run.checkpoint, config)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["evaluation"] == "visualize" and summary["policy"] == "scripted"
    assert {(s["metric"], s["horizon"]) for s in summary["scalars"]} >= {("rel_l1", 1), ("position_error", 8)}
    with Image.open(run.path / "twin.gif") as animated:
        assert animated.n_frames == summary["frames"] == 8
        assert animated.size[0] == pictures.PANEL_PX[0] * min(robots, 2)
    table = pl.read_parquet(run.path / "trace.parquet")
    assert table.height == robots * 16 and table["imagined_base_lin_vel_x"].null_count() == robots * HISTORY
    for name in ("visualize_traces", "visualize_filmstrip"):
        with Image.open(run.path / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_recorded_episode_by_command(home, make_dataset, model_run, rwm, schema, monkeypatch):
    monkeypatch.setattr(pictures, "render_pair", fake_frames)
    rng = np.random.default_rng(0)
    make_dataset([rng.normal(0, 0.1, (n, 66)).astype(np.float32) * (np.arange(66) < 65) for n in (10, 4)])
    found = json.loads(rwm("visualize", "set", "--json"))
    assert found["model"] == model_run.id and found["dataset"] == "set" and found["episode"] == 0
    alone = json.loads(rwm("visualize", "set", "--no-twin", "--json"))
    assert alone["model"] is None and alone["not_computed"] == ["twin: shown without a model"]
    with pytest.raises(RwmError, match="no episode 7; episodes: 0 to 1"):
        rwm("visualize", "set", "--episode", 7)
    with pytest.raises(RwmError, match="has 4 rows; the model needs its history of 4 and one more"):
        rwm("visualize", "set", "--episode", 1)
    with pytest.raises(RwmError, match="does not read --policy"):
        rwm("visualize", "set", "--policy", "expert")
    with pytest.raises(RwmError, match="--port and --host are of the browser view"):
        rwm("visualize", "set", "--port", 9000)
    served = []

    def serve(*view, **options):
        served.append((view, options))
        return SimpleNamespace(url="http://here", serve=lambda: None)

    monkeypatch.setattr("reports.visualize.browser.BrowserView", serve)
    rwm("visualize", "set", "--browser", "--port", 9000, "--resync", 2)
    (scene, _, resync), options = served[0]
    assert resync == 2 and scene.twin.since.max() == 2 and options == {"port": 9000}
    with pytest.raises(RwmError, match="is of robot anymal_d, not of go2"):
        rwm("visualize", "--policy", "scripted", "--robot", "go2")


def test_where_nothing_can_be_drawn_curves_and_table_stay(home, make_dataset, schema, monkeypatch, rwm):
    monkeypatch.setenv("MUJOCO_GL", "no-such-way")
    make_dataset([np.zeros((10, 66), np.float32)])
    found = json.loads(rwm("visualize", "set", "--json"))
    assert "No picture can be drawn off screen here" in found["not_computed"][0]
    run = home.run("eval")
    assert (run.path / "visualize_traces.png").exists() and not (run.path / "twin.gif").exists()


def test_a_pair_is_drawn_where_pictures_can_be(robot, make_dataset, model):
    make_dataset([np.zeros((10, 66), np.float32)])
    from rwmdata.home import Home

    recording = recorded_episode(Home.resolve().dataset("set"), 0)
    scene = make_scene("", robot, recording, None)
    real, _ = scene.configurations(0, np.arange(2))
    lookat = np.tile([0, 0, 0.3], (2, 1)).astype(float)
    try:
        both = view_pair(robot, real, real + np.eye(1, real.shape[1], 1), lookat)
        alone = view_pair(robot, real, np.full_like(real, np.nan), lookat)
    except RwmError as exc:
        assert "libosmesa6" in exc.hint
        return
    blue = [int(((f[..., 2] > 120) & (f[..., 0] < 80)).sum()) for f in (both[0], alone[0])]
    assert blue[0] > 100 and blue[1] == 0


def view_pair(robot, real, twin, lookat):
    from rwmrl.envs.mujoco_render import render_pair

    return render_pair(robot, real, twin, lookat, (160, 120))


def test_the_model_of_a_dataset_is_the_newest_fitted_on_it(home, make_dataset, model_run):
    dataset = make_dataset([np.zeros((10, 66), np.float32)])
    assert view.model_of(home, dataset).id == model_run.id
    assert view.model_of(home, make_dataset([np.zeros((10, 66), np.float32)], "other")) is None
