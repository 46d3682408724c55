"""Pictures of the simulated robot, rendered in a child process so that a broken graphics driver stops nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec, load_robot

HEADLESS = ("egl", "osmesa")
"""MuJoCo's ways to draw without a screen, in the order tried; ``MUJOCO_GL`` overrides them."""
TIMEOUT_S = 300
TALL = 0.8
"""Pictures of one robot are scaled by the height of its base, or by this share of that of its highest shape."""
TWIN_RGB, TWIN_OPACITY = (0.05, 0.5, 0.85), 0.6
"""Colour of a second robot."""


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
    return _in_child(robot, "single", size, states=states)


@dataclass(frozen=True)
class View:
    """How robots are looked at: from the right of the world's x axis, the camera moving along without turning."""

    azimuth: float = 115.0
    """Degrees; 90 looks along the world's y axis."""
    elevation: float = -22.0
    distance: float = 4.2
    """In heights of the base above the ground."""


VIEW = View()


def render_pair(
    robot: RobotSpec,
    real: np.ndarray,
    twin: np.ndarray,
    lookat: np.ndarray,
    size: tuple[int, int] = (480, 300),
    view: View = VIEW,
) -> np.ndarray:
    """Draw a robot in its own colours and a second one in translucent blue.

    Args:
        robot: The robot, with an MJCF.
        real: Generalised positions ``(n, nq)`` of the first; a row that is not finite is not drawn.
        twin: Likewise of the second.
        lookat: Points the camera looks at, world frame, m, ``(n, 3)``.
        size: Width and height, pixels.
        view: Where the camera stands.

    Returns:
        ``(n, height, width, 3)`` uint8.

    Raises:
        RwmError: Off-screen rendering does not work here; names the packages it needs.
    """
    camera = np.array([view.azimuth, view.elevation, view.distance * robot.base_height_m])
    return _in_child(robot, "pair", size, real=real, twin=twin, lookat=lookat, camera=camera)


def _in_child(robot: RobotSpec, kind: str, size: tuple[int, int], **given: np.ndarray) -> np.ndarray:
    ways = [os.environ["MUJOCO_GL"]] if "MUJOCO_GL" in os.environ else list(HEADLESS)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        inputs, drawn = Path(folder, "given.npz"), Path(folder, "frames.npy")
        np.savez(inputs, **given)  # type: ignore[arg-type]
        command = [sys.executable, "-m", __name__, kind, str(robot.folder), str(inputs), str(drawn), *map(str, size)]
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


def _draw(kind: str, folder: str, given: str, drawn: str, width: str, height: str) -> None:
    import mujoco

    from rwmrl.envs.mujoco_model import load_model

    robot = load_robot(folder)
    model = load_model(robot, visual=True)
    make = {"single": _single_frames, "pair": _pair_frames}[kind]
    with np.load(given) as arrays, mujoco.Renderer(model, int(height), int(width)) as renderer:
        np.save(drawn, np.stack(list(make(robot, model, renderer, dict(arrays)))))


def _single_frames(robot: RobotSpec, model: Any, renderer: Any, given: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    import mujoco

    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    size = max(robot.base_height_m, TALL * _top(model, data))
    camera.distance, camera.elevation = 2.5 * size, -10.0
    for state in given["states"]:
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        mujoco.mj_forward(model, data)
        camera.lookat[:] = (*data.body(robot.base_body).xpos[:2], 0.5 * size)
        forward = data.body(robot.base_body).xmat.reshape(3, 3)[:2, 0]
        camera.azimuth = 90.0 + np.degrees(np.arctan2(forward[1], forward[0]))
        renderer.update_scene(data, camera)
        yield renderer.render()


def _top(model: Any, data: Any) -> float:
    """Return the height of the middle of the highest shape, in the pose the MJCF is written in, m."""
    import mujoco

    mujoco.mj_kinematics(model, data)
    return float(data.geom_xpos[:, 2].max())


def _pair_frames(robot: RobotSpec, model: Any, renderer: Any, given: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    import mujoco

    camera, option, perturb = mujoco.MjvCamera(), mujoco.MjvOption(), mujoco.MjvPerturb()
    camera.azimuth, camera.elevation, camera.distance = given["camera"]
    datas, ground = (mujoco.MjData(model), mujoco.MjData(model)), mujoco.mjtCatBit.mjCAT_STATIC.value
    moving = mujoco.mjtCatBit.mjCAT_DYNAMIC.value
    for real, twin, lookat in zip(given["real"], given["twin"], given["lookat"], strict=True):
        # Shadows fall near the origin only; the ground's pattern repeats every metre.
        whole = np.floor(lookat[:2])
        camera.lookat[:] = (*(lookat[:2] - whole), lookat[2])
        datas[0].qpos[:] = model.qpos0
        mujoco.mj_forward(model, datas[0])
        mujoco.mjv_updateScene(model, datas[0], option, perturb, camera, ground, renderer.scene)
        for data, qpos in zip(datas, (real, twin), strict=True):
            if not np.isfinite(qpos).all():
                continue
            data.qpos[:] = qpos
            data.qpos[:2] -= whole
            mujoco.mj_forward(model, data)
            first = renderer.scene.ngeom
            mujoco.mjv_addGeoms(model, data, option, perturb, moving, renderer.scene)
            for k in range(first, renderer.scene.ngeom) if data is datas[1] else ():
                geom = renderer.scene.geoms[k]
                shade = 0.6 + 0.4 * float(np.mean(geom.rgba[:3]))
                geom.rgba[:] = (*(shade * np.array(TWIN_RGB)), TWIN_OPACITY)
        yield renderer.render()


if __name__ == "__main__":
    _draw(*sys.argv[1:])
