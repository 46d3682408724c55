"""A walk recorded and drawn; where nothing can be drawn, the error says what to install."""

from __future__ import annotations

import numpy as np
import pytest

from reports.evaluate import film
from reports.evaluate.film import draw_film, record
from rwmdata.errors import RwmError
from rwmrl.envs import mujoco_render


@pytest.fixture(scope="module")
def walk(robot):
    return record("scripted", robot)


def test_a_recording_is_one_walk_under_the_command(robot, walk):
    assert walk.states.shape[0] == walk.rows.shape[0] <= 300 and walk.rows.shape[1] == 66
    still = record("scripted", robot, command=(0.0, 0.0, 0.0))
    assert abs(still.rows[:, 0].mean()) < 0.2
    assert record("random", robot).fell or len(walk.rows) == 300


def test_the_film_shows_frames_feet_and_velocities(robot, walk, tmp_path, monkeypatch):
    taken = []

    def draw(spec, states, size=(32, 24)):
        taken.append(len(states))
        return np.zeros((len(states), 24, 32, 3), np.uint8)

    monkeypatch.setattr(film, "render_frames", draw)
    draw_film(tmp_path / "film.png", "scripted", robot, walk)
    assert taken == [12] and (tmp_path / "film.png").stat().st_size > 20_000


def test_frames_are_drawn_or_the_packages_that_would_are_named(robot, walk, monkeypatch):
    try:
        frames = mujoco_render.render_frames(robot, walk.states[:2], (64, 48))
    except RwmError as exc:
        assert "egl: " in exc.message and "osmesa: " in exc.message and "libosmesa6" in exc.hint
    else:
        assert frames.shape == (2, 48, 64, 3) and frames.std() > 5
    monkeypatch.setenv("MUJOCO_GL", "no-such-way")
    with pytest.raises(RwmError, match="No picture can be drawn off screen here"):
        mujoco_render.render_frames(robot, walk.states[:1])
