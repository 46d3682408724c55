"""Pictures of the simulated robot, rendered in a child process so that a broken graphics driver stops nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec, load_robot

HEADLESS = ("egl", "osmesa")
"""MuJoCo's ways to draw without a screen, in the order tried; ``MUJOCO_GL`` overrides them."""
TIMEOUT_S = 300


def render_frames(robot: RobotSpec, states: np.ndarray, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Draw physics states from the robot's right side, facing right, the camera moving along.

    Args:
        robot: The robot, with an MJCF.
        states: ``(n, layout.width)`` as in :class:`~rwmrl.envs.mujoco_physics.BatchPhysics`.
        size: Width and height, pixels.

    Returns:
        ``(n, height, width, 3)`` uint8.

    Raises:
        RwmError: Off-screen rendering does not work here; names the packages it needs.
    """
    ways = [os.environ["MUJOCO_GL"]] if "MUJOCO_GL" in os.environ else list(HEADLESS)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        given, drawn = Path(folder, "states.npy"), Path(folder, "frames.npy")
        np.save(given, states)
        command = [sys.executable, "-m", __name__, str(robot.folder), str(given), str(drawn), *map(str, size)]
        for way in ways:
            try:
                child = subprocess.run(
                    command, env=os.environ | {"MUJOCO_GL": way}, capture_output=True, text=True, timeout=TIMEOUT_S
                )
            except subprocess.TimeoutExpired:
                failures.append(f"{way}: no picture within {TIMEOUT_S} s")
                continue
            if child.returncode == 0 and drawn.exists():
                return np.asarray(np.load(drawn))
            failures.append(f"{way}: {(child.stderr.strip() or f'exit code {child.returncode}').splitlines()[-1]}")
    reason = f"No picture can be drawn off screen here ({'; '.join(failures)})"
    raise RwmError(f"{reason}.", "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6")


def _draw(folder: str, given: str, drawn: str, width: str, height: str) -> None:
    import mujoco

    from rwmrl.envs.mujoco_model import load_model

    robot = load_robot(folder)
    model = load_model(robot, visual=True)
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.distance, camera.elevation = 2.5 * robot.base_height_m, -10.0
    frames = []
    with mujoco.Renderer(model, int(height), int(width)) as renderer:
        for state in np.load(given):
            mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
            mujoco.mj_forward(model, data)
            camera.lookat[:] = (*data.body(robot.base_body).xpos[:2], 0.5 * robot.base_height_m)
            forward = data.body(robot.base_body).xmat.reshape(3, 3)[:2, 0]
            camera.azimuth = 90.0 + np.degrees(np.arctan2(forward[1], forward[0]))
            renderer.update_scene(data, camera)
            frames.append(renderer.render())
    np.save(drawn, np.stack(frames))


if __name__ == "__main__":
    _draw(*sys.argv[1:])
