"""Velocity commands: drawn, held for a while, drawn again; the same in simulator and imagination."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rwmdata.config import Frozen
from rwmrl.snapshots import Snapshot, copies, put_back

MIN_BOUNDS_M = 2.0
REJECTIONS = 10
"""Draws whose path would leave the bounds before the robot is driven back instead."""
LOOK_AHEAD_S = 0.1
"""Interval at which a command's path is checked."""
HOME_RADIUS = 0.25
"""Driving back ends this close to the centre, as a share of the smaller half side."""
EDGE_M = 0.5
"""Closer than this to a side the robot is driven back whatever its command: it needs room to turn."""
REMEMBERED = ("command", "heading", "standing", "homing", "steps_left")
"""Attributes of a sampler that steps change."""


class CommandConfig(Frozen):
    """Ranges and timing of the commands."""

    lin_vel_x: tuple[float, float] = (-1.0, 1.0)
    """m/s"""
    lin_vel_y: tuple[float, float] = (-1.0, 1.0)
    """m/s"""
    ang_vel_z: tuple[float, float] = (-1.0, 1.0)
    """rad/s"""
    standing_share: float = Field(0.02, ge=0, le=1)
    """Share of the draws that command standing still."""
    resample_s: tuple[float, float] = (10.0, 10.0)
    """A command is held for a time drawn from this range."""
    heading: bool = False
    """Draw a heading and steer to it: yaw rate = clip(stiffness * heading error, ang_vel_z)."""
    heading_stiffness: float = 0.5
    bounds_m: tuple[float, float] | None = None
    """Length (x) and width (y) of a rectangle around the odometry origin that the base shall not leave."""

    @model_validator(mode="after")
    def _check_ranges(self) -> CommandConfig:
        ranges = {k: getattr(self, k) for k in ("lin_vel_x", "lin_vel_y", "ang_vel_z", "resample_s")}
        faults = [f"{name} begins at {low}, above its end {high}" for name, (low, high) in ranges.items() if low > high]
        if self.bounds_m and min(self.bounds_m) < MIN_BOUNDS_M:
            faults.append(f"bounds_m is {self.bounds_m}, below the {MIN_BOUNDS_M:g} m a robot needs to turn")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class CommandSampler:
    """Commands of E environments.

    With bounds (arXiv:2504.16680, A.4), a drawn command whose path would leave the rectangle is rejected and drawn
    anew; after ``REJECTIONS`` of them, or once the robot is near the edge all the same, the command drives it back to
    the centre.

    Attributes:
        command: ``(E, 3)``: x and y velocity (m/s), yaw rate (rad/s), base frame.
        homing: ``(E,)`` bool: the robot is being driven back.
    """

    def __init__(
        self,
        num_envs: int,
        config: CommandConfig,
        control_dt_s: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.config, self.generator = config, generator
        self.command = torch.zeros(num_envs, 3, device=device)
        self.heading = torch.zeros(num_envs, device=device)
        self.standing = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.homing = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.steps_left = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._dt = control_dt_s
        self._steps = [max(1, round(seconds / control_dt_s)) for seconds in config.resample_s]
        self._ranges = torch.tensor([config.lin_vel_x, config.lin_vel_y, config.ang_vel_z], device=device)

    def reset(self, env_ids: Tensor, pose: Tensor | None = None) -> None:
        """Draw new commands for ``env_ids (n,)``.

        ``pose (E, 3)`` is x, y (m) from the odometry origin and heading (rad) of every base; needed where headings are
        commanded or bounds are set.
        """
        if len(env_ids) == 0:
            return
        self.homing[env_ids] = False
        self._draw(env_ids)
        if self.config.bounds_m and pose is not None:
            for _ in range(REJECTIONS):
                env_ids = env_ids[self._path_leaves(env_ids, pose)]
                if len(env_ids) == 0:
                    break
                self._draw(env_ids)
            self.homing[env_ids[self._path_leaves(env_ids, pose)]] = True
        self._apply(pose)

    def advance(self, pose: Tensor | None = None) -> None:
        """Count one control step; redraw commands whose time is up; steer where headings are commanded."""
        self.steps_left -= 1
        due = self.steps_left <= 0
        if self.config.bounds_m and pose is not None:
            away = pose[:, :2].abs() / self._half_sides(pose)
            due |= self.homing & (pose[:, :2].norm(dim=1) < HOME_RADIUS * min(self.config.bounds_m) / 2)
            self.homing |= (pose[:, :2].abs() > self._half_sides(pose) - EDGE_M).any(dim=1)
            due &= ~(self.homing & (away.amax(dim=1) > HOME_RADIUS))
        self.reset(due.nonzero().squeeze(-1), pose)
        self._apply(pose)

    def state(self) -> Snapshot:
        """Return what all commands are and how long they are held; the generator is its owner's to save."""
        return copies(self, REMEMBERED)

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`."""
        put_back(self, REMEMBERED, state)

    def _draw(self, env_ids: Tensor) -> None:
        count, low, high = len(env_ids), *self._steps
        unit = self._uniform(count, 3)
        self.command[env_ids] = self._ranges[:, 0] + unit * (self._ranges[:, 1] - self._ranges[:, 0])
        self.heading[env_ids] = (2 * self._uniform(count) - 1) * math.pi
        self.standing[env_ids] = self._uniform(count) < self.config.standing_share
        self.steps_left[env_ids] = low + (self._uniform(count) * (high - low + 1)).long().clamp(max=high - low)

    def _path_leaves(self, env_ids: Tensor, pose: Tensor) -> Tensor:
        """Return whether robots that follow their commands exactly leave the bounds, ``(n,)`` bool."""
        x, y, yaw = pose[env_ids].unbind(dim=1)
        forward, left, rate = self.command[env_ids].unbind(dim=1)
        moving, heading = ~self.standing[env_ids], self.heading[env_ids]
        seconds_left = self.steps_left[env_ids] * self._dt
        limit_x, limit_y = (self._half_sides(pose) - EDGE_M).unbind(dim=-1)
        leaves = torch.zeros_like(moving)
        for k in range(math.ceil(self.config.resample_s[1] / LOOK_AHEAD_S)):
            dt = LOOK_AHEAD_S * (seconds_left > k * LOOK_AHEAD_S)
            x = x + dt * (forward * yaw.cos() - left * yaw.sin())
            y = y + dt * (forward * yaw.sin() + left * yaw.cos())
            yaw = yaw + dt * (self._steer(heading, yaw) if self.config.heading else rate)
            leaves |= (x.abs() > limit_x) | (y.abs() > limit_y)
        return leaves & moving

    def _half_sides(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.config.bounds_m) / 2

    def _steer(self, heading: Tensor, yaw: Tensor) -> Tensor:
        error = torch.remainder(heading - yaw + math.pi, 2 * math.pi) - math.pi
        return (self.config.heading_stiffness * error).clamp(*self.config.ang_vel_z)

    def _apply(self, pose: Tensor | None) -> None:
        if self.config.heading and pose is not None:
            self.command[:, 2] = self._steer(self.heading, pose[:, 2])
        self.command[self.standing] = 0.0
        if self.config.bounds_m and pose is not None:
            self._drive_home(pose)

    def _drive_home(self, pose: Tensor) -> None:
        """Command those being driven back straight to the centre, at full range and without turning."""
        x, y, yaw = pose[self.homing].unbind(dim=1)
        forward, left = -x * yaw.cos() - y * yaw.sin(), x * yaw.sin() - y * yaw.cos()
        direction = torch.stack((forward, left), dim=1)
        wanted = direction / direction.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
        limits = self._ranges[:2].to(wanted.dtype)
        wanted = torch.minimum(torch.maximum(wanted, limits[:, 0]), limits[:, 1])
        self.command[self.homing] = torch.cat((wanted, torch.zeros_like(yaw[:, None])), dim=1).to(self.command.dtype)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.command.device)
