"""A scene in the browser: robots in three dimensions, a slider over time, curves; served by viser."""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from reports.visualize.scene import Scene, make_scene
from rwmdata.errors import RwmError
from rwmdata.optional import optional_import
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.envs.mujoco_shapes import Shape

HOST, PORT = "127.0.0.1", 8080
FRAME_S = 1 / 30
TWIN_RGB, TWIN_OPACITY = (13, 128, 217), 0.65
SPEEDS = ("0.1", "0.25", "0.5", "1", "2")
RED, BLUE, ORANGE, GREEN, GREY, BLACK = "#B3190F", "#0072B2", "#D55E00", "#009E73", "#888888", "#111111"
CHART_PX = 160
MARK_EVERY_S = 0.1
"""Time between two moves of the curves' mark while it plays: each sends the curves again."""
MARK_SCALE = (0.02, 1.0)
"""Of the mark's series, which is 0 but at the shown step, where it is 1: its base line lies below the picture."""


class BrowserView:
    """A server of one scene's page, from its construction until :meth:`close`.

    Args:
        scene: What is shown.
        model: Imagines the twins anew when the interval of synchronisation is changed; None without twins.
        resync: That interval now; None for only at the start.
        host: Address that is listened on.
        port: Port that is listened on.

    Raises:
        RwmError: viser is missing, the robot has no MJCF, or the port is taken.
    """

    def __init__(
        self,
        scene: Scene,
        model: DynamicsEnsemble | None = None,
        resync: int | None = None,
        host: str = HOST,
        port: int = PORT,
    ) -> None:
        with optional_import("The browser view needs the package viser", "viser"):
            import viser
        if scene.shapes is None:
            fault = f"Robot '{scene.robot.name}' has no MJCF, so the browser has nothing to draw"
            raise RwmError(f"{fault}.", "rwm visualize without --browser: curves and table")
        _refuse_taken(host, port)
        self.scene, self.model, self.robot, self.step, self._lock = scene, model, 0, 0, threading.RLock()
        self._marked_s = 0.0
        self.length = scene.recording.rows.shape[1]
        with redirect_stdout(io.StringIO()):  # Its banner: the command prints the address.
            self.server: Any = viser.ViserServer(host, port, label=scene.title, verbose=False)
        self.url = f"http://{host}:{port}"
        self._place()
        self.bodies = {"real": self._add_robot("real")}
        if scene.twin is not None:
            self.bodies["twin"] = self._add_robot("twin")
        self._add_ground()
        self._add_controls(resync)
        self._draw_curves()
        self.show(0)

    def close(self) -> None:
        """Stop serving."""
        with redirect_stdout(io.StringIO()):
            self.server.stop()

    def serve(self) -> None:
        """Play, where play is on, until Ctrl-C."""
        done, last = 0.0, time.monotonic()
        try:
            while True:
                time.sleep(FRAME_S)
                now = time.monotonic()
                passed, last = now - last, now
                if not self.playing.value:
                    done = 0.0
                    continue
                done += passed * float(self.speed.value) / self.scene.recording.dt_s
                if done >= 1:
                    self.slider.value = (self.step + int(done)) % self.length
                    self.show(self.slider.value)
                    done %= 1
        except KeyboardInterrupt:
            self.close()

    def show(self, step: int) -> None:
        """Show one step of the chosen robot."""
        with self._lock, self.server.atomic():
            before, self.step = self.step, min(step, self.length - 1)
            if self.follow.value:
                self._move_cameras(before)
            for side, handles in self.bodies.items():
                positions, quaternions = (part[self.step] for part in self._poses[side])
                there = bool(np.isfinite(positions).all())
                for k, handle in enumerate(handles):
                    handle.visible = there
                    if there:
                        handle.position, handle.wxyz = positions[k], quaternions[k]
            self._show_command()
            scene, dt = self.scene, self.scene.recording.dt_s
            lines = [f"step {self.step} of {self.length - 1}, {self.step * dt:.2f} s"]
            lines += [scene.command_text(self.robot, self.step), scene.twin_text(self.robot, self.step)]
            if scene.twin is not None and scene.twin.disagrees and scene.twin.exists[self.robot, self.step]:
                lines.append(f"epistemic uncertainty {scene.twin.epistemic[self.robot, self.step]:.2f}")
            self.text.content = "<br>".join(lines)
            now = time.monotonic()
            if not self.playing.value or now - self._marked_s >= MARK_EVERY_S:
                self._mark()
                self._marked_s = now

    def resynchronise(self, every: int | None) -> None:
        """Imagine the twins anew, synchronised every so many steps."""
        with self._lock:
            old = self.scene
            self.scene = make_scene(old.title, old.robot, old.recording, self.model, every)
            self._place()
            self._draw_curves()
            self.show(self.step)

    def _place(self) -> None:
        """Find the poses of all bodies of the chosen robot at every step."""
        shapes, steps = self.scene.shapes, np.arange(self.length)
        assert shapes is not None
        overlay = bool(getattr(self, "overlay", None) and self.overlay.value)
        real, twin = self.scene.configurations(self.robot, steps, overlay)
        self._poses = {"real": shapes.body_poses(real), "twin": shapes.body_poses(twin)}

    def _add_robot(self, side: str) -> list[Any]:
        """Add a robot's bodies and their shapes; returns a handle for each body."""
        assert self.scene.shapes is not None
        scene, shapes = self.server.scene, self.scene.shapes
        handles = [scene.add_frame(f"/{side}/{name}", show_axes=False) for name in shapes.bodies]
        for k, shape in enumerate(shapes.shapes):
            if not shape.drawn:
                continue
            vertices, faces = mesh_of(shape)
            colour = TWIN_RGB if side == "twin" else tuple(int(255 * c) for c in shape.rgba[:3])
            scene.add_mesh_simple(
                f"/{side}/{shapes.bodies[shape.body]}/shape{k}",
                vertices,
                faces,
                color=colour,
                opacity=TWIN_OPACITY if side == "twin" else None,
                flat_shading=shape.kind == "box",
                wxyz=shape.quaternion,
                position=shape.position,
            )
        return handles

    def _add_ground(self) -> None:
        scene, height = self.server.scene, self.scene.robot.base_height_m
        scene.set_up_direction("+z")
        scene.add_grid("/ground", infinite_grid=True, cell_size=0.5, section_size=1.0, fade_distance=25.0)
        camera = self.server.initial_camera
        middle = self.scene.beside_m / 2 if self.scene.twin is not None else 0.0
        camera.position, camera.look_at = (2.5 * height, middle - 5 * height, 2.4 * height), (0.3, middle, 0.4 * height)

    def _move_cameras(self, before: int) -> None:
        """Move every page's camera as the real robot has moved on the ground since step ``before``."""
        path = self.scene.poses.real.position[self.robot]
        moved = (path[self.step] - path[before]) * (1, 1, 0)
        for client in self.server.get_clients().values():
            client.camera.position = client.camera.position + moved

    def _show_command(self) -> None:
        """Draw the commanded velocity as an arrow above the real robot, one metre for 1 m/s."""
        command, pose = self.scene.recording.command, self.scene.poses.real
        if command is None:
            return
        forward, left, _ = command[self.robot, self.step]
        yaw, base = pose.yaw[self.robot, self.step], pose.position[self.robot, self.step]
        along = np.array([forward * np.cos(yaw) - left * np.sin(yaw), forward * np.sin(yaw) + left * np.cos(yaw), 0.0])
        tail = base + [0, 0, 0.6 * self.scene.robot.base_height_m]
        points = np.array([[tail, tail + along]])
        size = float(np.linalg.norm(along))
        self.server.scene.add_arrows(
            "/command",
            points,
            (40, 40, 40),
            shaft_radius=0.012,
            head_radius=0.035,
            head_length=0.08,
            visible=size > 0.02,
        )

    def _add_controls(self, resync: int | None) -> None:
        gui, count = self.server.gui, len(self.scene.recording.rows)
        gui.configure_theme(control_width="large", show_logo=False)
        twin = " beside its imagined twin (blue)" if self.scene.twin is not None else ""
        gui.add_markdown(f"**{self.scene.title}**{twin}")
        self.text = gui.add_markdown("")
        self.playing = gui.add_checkbox("Play", False)
        self.slider = gui.add_slider("Step", 0, self.length - 1, 1, 0)
        self.speed = gui.add_dropdown("Speed", SPEEDS, initial_value="1")
        self.choice = gui.add_dropdown("Robot", [str(k) for k in range(count)], initial_value="0", disabled=count == 1)
        self.follow = gui.add_checkbox("Follow the robot", True)
        self.slider.on_update(lambda _: self.show(int(self.slider.value)))
        self.playing.on_update(lambda _: self.show(self.step))
        self.choice.on_update(lambda _: self._again(int(self.choice.value)))
        if self.scene.twin is not None:
            self.overlay = gui.add_checkbox("Overlay the twin", False)
            self.overlay.on_update(lambda _: self._again(self.robot))
            hint = "control steps; 0: only at the start"
            self.every = gui.add_number("Synchronise every", resync or 0, min=0, step=1, hint=hint)
            self.every.on_update(lambda _: self.resynchronise(int(self.every.value) or None))

    def _again(self, robot: int) -> None:
        with self._lock:
            self.robot = robot
            self._place()
            self._draw_curves()
            self.show(self.step)

    def _draw_curves(self) -> None:
        """Draw forward velocity, error and uncertainty over time; those there were are replaced."""
        for chart in getattr(self, "charts", ()):
            chart.remove()
        scene, dt = self.scene, self.scene.recording.dt_s
        rows, time_s = scene.recording.rows[self.robot].astype(float), np.arange(self.length) * dt
        there = slice(None) if scene.twin is None else np.flatnonzero(scene.twin.exists[self.robot])
        lines = [("real", rows[there, 0], RED)]
        if scene.twin is not None:
            lines.append(("imagined", scene.twin.rows[self.robot, there, 0].astype(float), BLUE))
        if scene.recording.command is not None:
            lines.append(("command", scene.recording.command[self.robot, there, 0].astype(float), GREY))
        curves = {"forward velocity (m/s)": lines}
        if scene.twin is not None:
            error = scene.twin.rel_l1[self.robot, there].astype(float)
            curves["relative error (error / real magnitude)"] = [("error", error, ORANGE)]
        if scene.twin is not None and scene.twin.disagrees:
            epistemic = scene.twin.epistemic[self.robot, there].astype(float)
            curves["epistemic uncertainty (sum of std)"] = [("uncertainty", epistemic, GREEN)]
        self._shown, self.charts, self._data = np.arange(self.length)[there], [], []
        for title, of_chart in curves.items():
            series = [{"label": "time (s)"}, *({"label": n, "stroke": c, "width": 2} for n, _, c in of_chart)]
            mark = {"label": "shown step", "stroke": BLACK, "width": 1, "scale": "mark", "points": {"show": False}}
            self._data.append(np.stack((time_s[there], *(values for _, values, _ in of_chart))))
            scales = {"x": {"time": False, "auto": True}, "y": {"auto": True}, "mark": {"range": MARK_SCALE}}
            data = with_mark(self._data[-1], None)
            chart = self.server.gui.add_uplot(data, (*series, mark), title=title, scales=scales, height=CHART_PX)
            self.charts.append(chart)

    def _mark(self) -> None:
        """Move the line at the shown step; the charts stay, only their data is sent."""
        place = np.flatnonzero(self._shown == self.step)
        for chart, data in zip(self.charts, self._data, strict=True):
            chart.data = with_mark(data, int(place[0]) if len(place) else None)


def with_mark(data: np.ndarray, place: int | None) -> tuple[np.ndarray, ...]:
    """Return a chart's rows ``(1 + curves, n)`` and one for the mark: 0, but up to 1 and back at column ``place``.

    That column is there three times, so that the mark is a vertical line.
    """
    if place is None:
        return (*data, np.zeros(data.shape[1]))
    data = np.insert(data, [place, place], data[:, [place]], axis=1)
    return (*data, (np.arange(data.shape[1]) == place + 1).astype(float))


def mesh_of(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Return a shape as triangles, vertices ``(V, 3)`` in its own frame (m) and faces ``(F, 3)``."""
    if shape.kind == "mesh":
        return shape.vertices, shape.faces
    with optional_import("The browser view needs the package trimesh", "viser"):
        from trimesh import creation
    a, b, _ = shape.size
    if shape.kind == "box":
        mesh = creation.box(2 * shape.size)
    elif shape.kind == "cylinder":
        mesh = creation.cylinder(a, 2 * b, sections=24)
    elif shape.kind == "capsule":
        mesh = creation.capsule(2 * b, a, count=[16, 16])
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
    else:
        mesh = creation.icosphere(3, 1.0)
        mesh.apply_scale(shape.size if shape.kind == "ellipsoid" else a)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _refuse_taken(host: str, port: int) -> None:
    """Refuse a port that something listens on, or that cannot be opened."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as exc:
            reason = f"Port {port} of {host} cannot be opened: {str(exc).rstrip('.')}"
            raise RwmError(f"{reason}.", f"--port {port + 1 if port < 65535 else PORT}") from exc
