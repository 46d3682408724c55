"""A policy's walk in pictures: frames, footfalls, and measured beside commanded velocity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reports.figures import BLUE, GREY, ORANGE, figure
from rwmdata.robots import RobotSpec
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.control_loop import play
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.envs.mujoco_render import render_frames
from rwmrl.velocity_commands import CommandConfig

COMMAND = (0.8, 0.0, 0.0)
"""Forward (m/s), sideways (m/s) and turning (rad/s) speed the film is made under."""
SECONDS = 6.0
FRAMES = (2, 6)
"""Rows and columns of frames."""
FRAME_INTERVAL_S = 0.08
SETTLE_S = 3.0
"""When the first frame is taken."""


@dataclass(frozen=True)
class Recording:
    """One undisturbed walk of ``n`` control steps."""

    states: np.ndarray
    """Physics states ``(n, width)``."""
    rows: np.ndarray
    """Dataset rows ``(n, width)``, each after the step from the state of the same index."""
    fell: bool


def record(policy: str, robot: RobotSpec, command: tuple[float, float, float] = COMMAND, seed: int = 0) -> Recording:
    """Let a policy walk undisturbed under one command, until it falls or ``SECONDS`` are over.

    Raises:
        RwmError: Unknown policy, or the robot has no MJCF.
    """
    x, y, yaw = command
    held = CommandConfig(
        lin_vel_x=(x, x), lin_vel_y=(y, y), ang_vel_z=(yaw, yaw), standing_share=0.0, resample_s=(SECONDS, SECONDS)
    )
    config = MujocoEnvConfig(num_envs=1, seed=seed, threads=0, command=held, episode_length_s=2 * SECONDS)
    env = MujocoEnv(robot, config.model_copy(update=dict.fromkeys(("noise", "pushes", "randomize"), False)))
    behaviour = make_behaviour(policy, BehaviourContext(robot, 1, torch.Generator().manual_seed(seed)))
    steps, rows = play(env, behaviour, round(SECONDS / env.control_dt_s)), []
    states = [env.physics.state[0].copy()]
    for played in steps:
        rows.append(played.step.transition[0].numpy())
        if played.step.done[0]:
            break
        states.append(env.physics.state[0].copy())
    env.close()
    return Recording(np.stack(states[: len(rows)]), np.stack(rows), bool(rows[-1][-1] > 0.5))


def draw_film(path: Path, title: str, robot: RobotSpec, recording: Recording) -> None:
    """Write the frame sheet with the footfall diagram and the velocities below it.

    Raises:
        RwmError: Nothing can be drawn off screen on this machine.
    """
    dt, count = robot.control_dt_s, FRAMES[0] * FRAMES[1]
    last = len(recording.rows) - 1
    first = min(round(SETTLE_S / dt), max(0, last - round(count * FRAME_INTERVAL_S / dt)))
    taken = np.minimum(first + np.arange(count) * round(FRAME_INTERVAL_S / dt), last)
    frames = render_frames(robot, recording.states[taken])
    sheet = np.vstack([np.hstack(row) for row in frames.reshape(*FRAMES, *frames.shape[1:])])
    time_s = np.arange(1, len(recording.rows) + 1) * dt
    with figure(path, 3, size=(14, 12)) as axes:
        pictures, feet, speed = axes[:, 0]
        pictures.imshow(sheet)
        pictures.set(title=f"{title}: a frame every {FRAME_INTERVAL_S:g} s from {taken[0] * dt:.1f} s")
        pictures.axis("off")
        contact = recording.rows[:, -1 - len(robot.legs) : -1] > 0.5
        for i in range(len(robot.legs)):
            feet.fill_between(time_s, i - 0.4, i + 0.4, where=contact[:, i], step="post", color=BLUE, linewidth=0)
            feet.axhline(i, color=GREY, linewidth=0.5)
        feet.set(title="feet on the ground", yticks=range(len(robot.legs)), yticklabels=robot.legs, xlabel="time (s)")
        feet.set_xlim(taken[0] * dt - 0.5, taken[-1] * dt + 0.5)
        for t in taken * dt:
            feet.axvline(t, color=ORANGE, linewidth=0.8)
        names = ("forward (m/s)", "sideways (m/s)", "turning (rad/s)")
        for column, name, colour, asked in zip((0, 1, 5), names, (BLUE, ORANGE, GREY), COMMAND, strict=True):
            speed.plot(time_s, recording.rows[:, column], color=colour, label=name)
            speed.axhline(asked, color=colour, linestyle="--", linewidth=1.2)
        speed.set(title="velocity of the base; dashed: commanded", xlabel="time (s)")
        speed.legend(loc="center right")
