"""Velocity commands: drawn, held for a while, drawn again; the same in simulator and imagination."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rwmdata.robots import Frozen


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

    @model_validator(mode="after")
    def _check_ranges(self) -> CommandConfig:
        ranges = {k: getattr(self, k) for k in ("lin_vel_x", "lin_vel_y", "ang_vel_z", "resample_s")}
        faults = [f"{name} begins at {low}, above its end {high}" for name, (low, high) in ranges.items() if low > high]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class CommandSampler:
    """Commands of E environments.

    Attributes:
        command: ``(E, 3)``: x and y velocity (m/s), yaw rate (rad/s), base frame.
    """

    def __init__(
        self,
        num_envs: int,
        config: CommandConfig,
        control_dt_s: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.config = config
        self.generator = generator
        self.command = torch.zeros(num_envs, 3, device=device)
        self.heading = torch.zeros(num_envs, device=device)
        self.standing = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.steps_left = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._steps = [max(1, round(s / control_dt_s)) for s in config.resample_s]

    def reset(self, env_ids: Tensor, yaw: Tensor | None = None) -> None:
        """Draw new commands for ``env_ids (n,)``; ``yaw (E,)`` is the heading of all, where headings are commanded."""
        c, count = self.config, len(env_ids)
        if count == 0:
            return
        ranges = torch.tensor([c.lin_vel_x, c.lin_vel_y, c.ang_vel_z], device=self.command.device)
        unit = self._uniform(count, 3)
        self.command[env_ids] = ranges[:, 0] + unit * (ranges[:, 1] - ranges[:, 0])
        self.heading[env_ids] = (2 * self._uniform(count) - 1) * math.pi
        self.standing[env_ids] = self._uniform(count) < c.standing_share
        low, high = self._steps
        self.steps_left[env_ids] = low + (self._uniform(count) * (high - low + 1)).long().clamp(max=high - low)
        self._apply(yaw)

    def advance(self, yaw: Tensor | None = None) -> None:
        """Count one control step; draw where the time is up; steer where headings are commanded."""
        self.steps_left -= 1
        self.reset((self.steps_left <= 0).nonzero().squeeze(-1), yaw)
        self._apply(yaw)

    def _apply(self, yaw: Tensor | None) -> None:
        if self.config.heading and yaw is not None:
            error = torch.remainder(self.heading - yaw + math.pi, 2 * math.pi) - math.pi
            rate = (self.config.heading_stiffness * error).clamp(*self.config.ang_vel_z)
            self.command[:, 2] = rate
        self.command[self.standing] = 0.0

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.command.device)
