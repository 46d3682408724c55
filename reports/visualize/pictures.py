"""A scene as files: an animated picture, a filmstrip, curves, and a table of every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from reports.figures import BLUE, GREEN, GREY, ORANGE, figure, leave_room
from reports.visualize.scene import Scene
from rwmdata.atomic import commit_file
from rwmdata.schema import COMMAND_COLUMNS
from rwmrl.envs.mujoco_render import render_pair

FRAME_S = 0.04
"""Time between two frames of the animated picture, s."""
PANELS = 4
"""Robots in the animated picture, at most."""
PANEL_PX = (440, 270)
FRAMES = 1000
"""Frames of the animated picture, at most."""
COLOURS = 96
"""Of the animated picture."""
CAPTION_PX = 64
STRIP = 6
"""Columns of the filmstrip."""
REAL_COLOUR, TWIN_COLOUR = "#B3190F", BLUE
"""The real robot's colour in words and curves, and its twin's."""


def animation_steps(scene: Scene) -> np.ndarray:
    """Return the rows that become frames: one every ``FRAME_S``, from the last rows of the first history on."""
    length, every = scene.recording.rows.shape[1], max(1, round(FRAME_S / scene.recording.dt_s))
    first = 0
    if scene.twin is not None:
        first = max(0, int(scene.twin.exists.any(axis=0).argmax()) - 1 - 5 * every)
    return np.arange(first, length, every)


def write_animation(path: Path, scene: Scene, overlay: bool = False) -> int:
    """Write the animated picture, a panel for each of up to ``PANELS`` robots; returns its number of frames.

    Those after the first ``FRAMES`` are left out.

    Raises:
        RwmError: Nothing can be drawn off screen here.
    """
    steps = animation_steps(scene)[:FRAMES]
    count = min(PANELS, len(scene.recording.rows))
    panels = [_panel_frames(scene, robot, steps, overlay) for robot in range(count)]
    columns = 1 if count == 1 else 2
    rows = [np.concatenate(panels[k : k + columns], axis=2) for k in range(0, count - count % columns, columns)]
    if count % columns:
        rows.append(np.concatenate((panels[-1], np.full_like(panels[-1], 255)), axis=2))
    frames = [
        Image.fromarray(frame).quantize(COLOURS, dither=Image.Dither.NONE) for frame in np.concatenate(rows, axis=1)
    ]
    every = steps[1] - steps[0] if len(steps) > 1 else 1
    milliseconds = round(1000 * every * scene.recording.dt_s)

    def save(file: Path) -> None:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)

    commit_file(path, save)
    return len(frames)


def _panel_frames(scene: Scene, robot: int, steps: np.ndarray, overlay: bool) -> np.ndarray:
    """Return a robot's frames with their captions, ``(n, height, width, 3)`` uint8."""
    real, twin = scene.configurations(robot, steps, overlay)
    drawn = render_pair(scene.robot, real, twin, _lookat(scene, robot, steps, overlay), PANEL_PX)
    return np.stack([_captioned(scene, robot, int(step), frame) for step, frame in zip(steps, drawn, strict=True)])


def _lookat(scene: Scene, robot: int, steps: np.ndarray, overlay: bool) -> np.ndarray:
    """Return what the camera looks at: half way to where the twin stands beside the real robot."""
    position, height = scene.poses.real.position[robot, steps], scene.robot.base_height_m
    aside = 0.0 if overlay or scene.twin is None else scene.beside_m / 2
    return np.column_stack((position[:, 0], position[:, 1] + aside, np.full(len(steps), 0.55 * height)))


def _captioned(scene: Scene, robot: int, step: int, frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    picture = Image.new("RGB", (width, height + CAPTION_PX), "white")
    picture.paste(Image.fromarray(frame), (0, CAPTION_PX))
    draw = ImageDraw.Draw(picture)
    clock = f"step {step}, {step * scene.recording.dt_s:.2f} s"
    which = f", robot {robot}" if len(scene.recording.rows) > 1 else ""
    room = width - 32 - font(13).getlength(clock) - font(14, bold=True).getlength(which)
    draw.text((8, 4), shortened(scene.title, font(14, bold=True), room) + which, "black", font(14, bold=True))
    draw.text((width - 8, 5), clock, "black", font(13), anchor="ra")
    draw.text((8, 24), scene.command_text(robot, step), "#333333", font(13))
    draw.text((8, 43), "real", REAL_COLOUR, font(13, bold=True))
    if scene.twin is not None:
        draw.text((46, 43), "imagined", TWIN_COLOUR, font(13, bold=True))
        draw.text((122, 43), scene.twin_text(robot, step), "#333333", font(13))
    return np.asarray(picture)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which is there wherever matplotlib is."""
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")), size)


def shortened(text: str, of_font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text, its end replaced by an ellipsis where it is longer than ``width`` pixels."""
    if of_font.getlength(text) <= width:
        return text
    while text and of_font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip(' ,')}…"


def draw_filmstrip(path: Path, scene: Scene, robot: int) -> None:
    """Write a sheet of frames: the real robot above, its twin below it, at the same moments and from the same place.

    Raises:
        RwmError: Nothing can be drawn off screen here.
    """
    twin, dt = scene.twin, scene.recording.dt_s
    shown = np.arange(scene.recording.rows.shape[1]) if twin is None else np.flatnonzero(twin.exists[robot])
    if not len(shown):
        shown = np.arange(scene.recording.rows.shape[1])
    steps = shown[np.linspace(0, len(shown) - 1, min(STRIP, len(shown))).round().astype(int)]
    real, imagined = scene.configurations(robot, steps, overlay=True)
    lookat, absent = _lookat(scene, robot, steps, overlay=True), np.full_like(real, np.nan)
    sides = [("real", render_pair(scene.robot, real, absent, lookat, (320, 260)))]
    if twin is not None:
        sides.append(("imagined", render_pair(scene.robot, absent, imagined, lookat, (320, 260))))
    with figure(path, len(sides), len(steps), (3 * len(steps), 2.5 * len(sides) + 0.7)) as axes:
        for row, (side, frames) in zip(axes, sides, strict=True):
            for ax, step, frame in zip(row, steps, frames, strict=True):
                ax.imshow(frame)
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                if side == "real":
                    since = "" if twin is None else f" (+{max(0, twin.since[robot, step]) * dt:.2f} s)"
                    ax.set_title(f"{step * dt:.2f} s{since}")
            row[0].set_ylabel(side, color=REAL_COLOUR if side == "real" else TWIN_COLOUR, fontweight="bold")
        what = "time (since synchronisation)" if twin else "time"
        axes[0, 0].figure.suptitle(f"{scene.title}: {what} above; the camera follows the real robot", wrap=True)


def draw_traces(path: Path, scene: Scene, robot: int) -> None:
    """Write curves over time: base velocities, gravity, three joints, error and epistemic uncertainty."""
    recording, twin, schema = scene.recording, scene.twin, scene.recording.schema
    rows, time = recording.rows[robot], np.arange(recording.rows.shape[1]) * recording.dt_s
    command = None if recording.command is None else recording.command[robot]
    joints = schema.group("joint_pos")
    third = len(schema.joints) // 3
    panels: list[tuple[int, str, int | None]] = [
        (0, "forward velocity (m/s)", 0),
        (1, "sideways velocity (m/s)", 1),
        (5, "yaw rate (rad/s)", 2),
    ]
    panels += [(6 + k, f"projected gravity {axis}", None) for k, axis in enumerate("xy")]
    panels += [(joints.start + k * third, f"{schema.joints[k * third]} from default (rad)", None) for k in range(3)]
    disagrees = twin is not None and twin.disagrees
    count = len(panels) + (twin is not None) + disagrees
    with figure(path, -(-count // 2), 2, (15, 3.1 * -(-count // 2))) as axes:
        flat = axes.ravel()
        for ax, (column, label, asked) in zip(flat, panels, strict=False):
            ax.plot(time, rows[:, column], color=REAL_COLOUR, label="real", linewidth=1.8)
            if twin is not None:
                ax.plot(time, twin.rows[robot, :, column], color=TWIN_COLOUR, label="imagined", linewidth=1.6)
            if asked is not None and command is not None:
                ax.plot(time, command[:, asked], color=GREY, linestyle="--", linewidth=1.2, label="command")
            ax.set_ylabel(label)
        if twin is not None:
            flat[len(panels)].plot(time, twin.rel_l1[robot], color=ORANGE)
            flat[len(panels)].set(ylabel="error / real magnitude")
            flat[len(panels)].set_ylim(0)
        if twin is not None and disagrees:
            flat[count - 1].plot(time, twin.epistemic[robot], color=GREEN)
            flat[count - 1].set(ylabel="epistemic (sum of std)")
            flat[count - 1].set_ylim(0)
        for ax in flat[:count]:
            ax.set_xlim(0, max(time[-1], recording.dt_s))
            for start in _shown_synchronisations(scene, robot):
                ax.axvline(start * recording.dt_s, color=GREY, linestyle=":", linewidth=1)
        for ax in flat[count:]:
            ax.axis("off")
        leave_room(flat[0], 0.3)
        flat[0].legend(loc="upper right", ncols=3)
        for ax in flat[max(0, count - 2) : count]:
            ax.set_xlabel("time (s)")
        note = "; dotted: synchronised with the real robot's history" if twin is not None else ""
        name = f", robot {robot}" if len(recording.rows) > 1 else ""
        axes[0, 0].figure.suptitle(f"{scene.title}{name}{note}", wrap=True)


def _shown_synchronisations(scene: Scene, robot: int) -> list[int]:
    """Return the rows of a robot's synchronisations; none where there are too many to tell apart."""
    rows = [p.synchronised for p in scene.twin.parts if p.robot == robot] if scene.twin else []
    return rows if len(rows) <= 40 else []


def write_table(path: Path, scene: Scene) -> None:
    """Write every robot and step: command, real and imagined rows, poses, error and uncertainties."""
    recording, twin = scene.recording, scene.twin
    count, length, _ = recording.rows.shape
    robots, steps = np.repeat(np.arange(count), length), np.tile(np.arange(length), count)
    columns: dict[str, np.ndarray] = {"robot": robots, "step": steps, "time_s": steps * recording.dt_s}
    columns["begins"] = recording.begins.ravel()
    if recording.command is not None:
        columns |= dict(zip(COMMAND_COLUMNS, recording.command.reshape(-1, 3).T, strict=True))
    names = recording.schema.csv_names
    columns |= dict(zip(names, recording.rows.reshape(len(robots), -1).T, strict=True))
    columns |= _pose_columns("real", scene.poses.real.position, scene.poses.real.yaw)
    if twin is not None:
        imagined = twin.rows.reshape(len(robots), -1).T
        columns |= {f"imagined_{name}": values for name, values in zip(names, imagined, strict=True)}
        columns |= _pose_columns("imagined", scene.poses.twin.position, scene.poses.twin.yaw)
        columns |= {"since_synchronisation": twin.since.ravel(), "rel_l1": twin.rel_l1.ravel()}
        columns |= {"epistemic": twin.epistemic.ravel(), "aleatoric": twin.aleatoric.ravel()}
    commit_file(path, pl.DataFrame(columns).fill_nan(None).write_parquet)


def _pose_columns(side: str, position: np.ndarray, yaw: np.ndarray) -> dict[str, np.ndarray]:
    named = {f"{side}_position_{axis}_m": position[..., k].ravel() for k, axis in enumerate("xyz")}
    return named | {f"{side}_yaw_rad": yaw.ravel()}
