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
from rwmmodel.checkpoint import save_model
from rwmrl.backends import make_env
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.envs.base import EnvOptions
from rwmrl.envs.mujoco_shapes import RobotShapes


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
    recording = record_robots(env, behaviour, steps=200, settle=50)
    env.close()
    true = recording.simulated
    path = np.linalg.norm(np.diff(true.position[0, :, :2], axis=0), axis=1).sum()
    assert path > 1.5
    found = make_scene("", robot, recording, None).integration_error()
    assert 0 < found["position"] < 0.02 * path and found["height"] < 0.02 and found["yaw"] < 0.02
    start = Pose(true.position[0, 0], true.quaternion[0, 0])
    pose = integrate(recording.rows[0], recording.schema, recording.dt_s, start, RobotShapes(robot))
    assert np.abs((pose.quaternion * true.quaternion[0]).sum(axis=1)).min() > 0.9999


def test_the_error_of_integrated_poses_by_hand(robot, schema):
    """A robot that stands still for its rows is moved, lifted and turned by its simulator, in the second of two
    episodes."""
    rows = np.zeros((1, 6, 66), np.float32)
    rows[..., schema.group("projected_gravity").stop - 1] = -1
    begins = np.array([[True, False, False, True, False, False]])
    height = integrate(rows[0], schema, 0.02, shapes=RobotShapes(robot)).position[0, 2]
    position, half = np.tile([5.0, -3.0, height], (1, 6, 1)), np.zeros((1, 6))
    position[0, 4] += 0.03, 0.04, -0.02
    half[0, 3:] = 1.5, 1.5 + 0.1, 1.5
    position[0, 2], position[0, 5] = np.nan, np.nan
    quaternion = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=-1)
    recording = Recording(rows, None, begins, schema, 0.02, Pose(position, quaternion))
    found = make_scene("", robot, recording, None).integration_error()
    assert found == {"position": pytest.approx(0.05), "height": pytest.approx(0.02), "yaw": pytest.approx(0.2)}


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


def test_a_long_title_leaves_room_for_the_clock():
    bold = pictures.font(14, bold=True)
    short = pictures.shortened("ANYmal D: walks-of-a-very-long-name-v0 episode 123, stumble", bold, 250.0)
    assert short.startswith("ANYmal D: walks-of") and short.endswith("…")
    assert 230 < bold.getlength(short) <= 250 and pictures.shortened("walks", bold, 250.0) == "walks"


def test_a_filmstrip_says_when_each_moment_is_and_how_long_after_a_synchronisation(
    model, robot, random_recording, monkeypatch, tmp_path
):
    drawn = []
    monkeypatch.setattr(pictures, "render_pair", fake_frames)
    monkeypatch.setattr("reports.figures.plt.close", drawn.append)
    pictures.draw_filmstrip(tmp_path / "strip.png", make_scene("", robot, random_recording, model, resync=5), 0)
    # The twin exists in rows 4 to 19, synchronised with rows 3, 8, 13 and 18.
    assert [ax.get_title() for ax in drawn[0].axes[:6]] == [
        "0.08 s (+0.02 s)", "0.14 s (+0.08 s)", "0.20 s (+0.04 s)", "0.26 s (+0.10 s)", "0.32 s (+0.06 s)",
        "0.38 s (+0.02 s)",
    ]  # fmt: skip


@pytest.mark.parametrize("robots", [1, 3])
def test_files_of_robots_in_the_simulator(home, model_run, monkeypatch, robots):
    monkeypatch.setattr(pictures, "render_pair", fake_frames)
    config = SimulatedViewConfig(policy="scripted", robots=robots, settle=0, steps=12)
    run = visualize_policy(home, model_run.checkpoint, config)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["evaluation"] == "visualize" and summary["policy"] == "scripted"
    assert {(s["metric"], s["horizon"]) for s in summary["scalars"]} >= {
        ("rel_l1", 1), ("position_error", 8), ("integrated_position_error", None)
    }  # fmt: skip
    with Image.open(run.path / "twin.gif") as animated:
        assert animated.n_frames == summary["frames"] == 8
        assert animated.size[0] == pictures.PANEL_PX[0] * min(robots, 2)
    table = pl.read_parquet(run.path / "trace.parquet")
    assert table.height == robots * 16 and table["imagined_base_lin_vel_x"].null_count() == robots * 4
    for name in ("visualize_traces", "visualize_filmstrip"):
        with Image.open(run.path / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_what_is_left_out_is_said(home, model_run, make_model, monkeypatch):
    """The epistemic uncertainty of one member, and the frames of a long walk."""
    save_model(make_model(members=1), model_run.model_file)
    monkeypatch.setattr(pictures, "render_pair", fake_frames)
    monkeypatch.setattr(pictures, "FRAMES", 3)
    config = SimulatedViewConfig(policy="scripted", robots=1, settle=0, steps=12)
    run = visualize_policy(home, model_run.checkpoint, config)
    assert run.meta.summary["not_computed"] == [
        "the animated picture after 3 frames; trace.parquet has all steps",
        "epistemic uncertainty: the model has one member, so there is none",
    ]
    assert run.meta.summary["frames"] == 3
    assert "epistemic" not in {s["metric"] for s in run.meta.summary["scalars"]}


def test_a_recorded_episode_by_command(home, make_dataset, model_run, rwm, schema, monkeypatch):
    monkeypatch.setattr(pictures, "render_pair", fake_frames)
    rng = np.random.default_rng(0)
    make_dataset([rng.normal(0, 0.1, (n, 66)).astype(np.float32) * (np.arange(66) < 65) for n in (10, 4)])
    found = json.loads(rwm("visualize", "set", "--json"))
    assert found["model"] == model_run.id and found["dataset"] == "set" and found["episode"] == 0
    alone = json.loads(rwm("visualize", "set", "--no-twin", "--json"))
    runs = len(home.runs("eval"))
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
    with pytest.raises(RwmError, match="steps: Input should be less than or equal to 20000"):
        rwm("visualize", "--policy", "scripted", "--steps", 10**9)
    assert len(home.runs("eval")) == runs  # What is refused leaves no run.


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
