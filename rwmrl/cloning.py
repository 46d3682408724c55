"""Behaviour cloning: imitates the data by least squares, the least an offline method has to beat."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmdata.schema import COMMAND_COLUMNS
from rwmdata.windows import WindowSampler, split_starts
from rwmmodel.devices import resolve_device
from rwmrl.observations import add_noise, noise_scale, policy_observation
from rwmrl.policy_file import save_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo

HINDSIGHT_STEPS = 50
"""Rows over which the velocity is averaged that stands in for a missing command."""
LEAST_SCALE = 1e-2


class CloningConfig(Frozen):
    """Options of :func:`clone_behaviour`."""

    algo: Literal["bc"] = "bc"
    updates: int = Field(5000, ge=1)
    batch: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    hidden_dims: tuple[int, ...] = Field((128, 128, 128), min_length=1)
    command: Literal["auto", "recorded", "hindsight"] = "auto"
    """The recorded command, or the mean velocity of the second that follows (labelled in hindsight); ``auto`` takes
    the former where every row has one."""
    noise: bool = True
    """The policy's observation noise, as in the simulator and in imagination."""
    log_interval: int = Field(50, ge=1)
    seed: int = 0
    device: str = "auto"
    wandb: str | None = None
    """Project of Weights & Biases the metrics go to as well."""


def clone_behaviour(
    home: Home,
    dataset: Dataset,
    config: CloningConfig | None = None,
    progress: Progress = silent,
    resume: Run | None = None,
) -> Run:
    """Fit a policy to the actions of the train split by least squares; a resumed run starts again, as it is short.

    A demonstration is the observation in row t (state and action of row t, command of row t + 1) and the action of
    row t + 1.

    Raises:
        RwmError: A split has no two consecutive rows, or recorded commands are asked for and missing.
    """
    config = resume.configuration(CloningConfig) if resume else config or CloningConfig()
    device, robot = resolve_device(config.device), load_robot(dataset.robot)
    torch.manual_seed(config.seed)
    demonstrations = Demonstrations(dataset, config.command, device)
    starts = {split: split_starts(dataset, split, 2) for split in ("train", "val")}
    parents: dict[str, str | None] = {"dataset": home.name_of(dataset)}
    run = resume or Run.create(home, "policy", config.model_dump(mode="json"), parents, config.seed)
    policy = MlpPolicy(PolicyInfo.of(robot, config.hidden_dims, source=f"policy {run.id}")).to(device)
    sampler = WindowSampler(starts["train"], config.seed)
    seen = demonstrations.observations(sampler.draw(0, min(len(starts["train"]), 100_000)))
    policy.mean.copy_(seen.mean(dim=0))
    policy.scale.copy_(seen.std(dim=0).clamp_min(LEAST_SCALE))
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    generator, noise = torch.Generator(device).manual_seed(config.seed), noise_scale(dataset.schema, device)
    checked = WindowSampler(starts["val"], config.seed).draw(0, min(len(starts["val"]), 20_000))
    val_observations, val_actions = demonstrations.observations(checked), demonstrations.actions(checked)
    with run.running():
        run.truncate_metrics(0)
        for update in range(1, config.updates + 1):
            drawn = sampler.draw(update - 1, min(config.batch, len(starts["train"])))
            observation = demonstrations.observations(drawn)
            if config.noise:
                observation = add_noise(observation, noise, generator)
            loss = (policy(observation) - demonstrations.actions(drawn)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if update % config.log_interval == 0 or update == config.updates:
                with torch.no_grad():
                    val_loss = float((policy(val_observations) - val_actions).square().mean())
                if not math.isfinite(val_loss):
                    raise RwmError(f"The clone's held-out error is not finite after {update} updates.", "--set lr=1e-3")
                run.log(update, {"train/action_mse": float(loss.detach()), "val/action_mse": val_loss})
                progress(update, config.updates, {"action mse": val_loss})
        save_policy(policy, run.policy_file)
        chosen = config.model_dump(include={"algo", "updates"})
        about = {"robot": dataset.robot, **chosen, "command": demonstrations.source}
        run.finish(about | {"val_action_mse": val_loss})
    return run


class Demonstrations:
    """Observations and the actions taken on them, each by the index of its first row.

    Attributes:
        source: Origin of the commands, ``recorded`` or ``hindsight``.
        rows: All rows, ``(R, width)``.
        command: The command each row was made under, ``(R, 3)``.
        following: The row after each in its episode, ``(R,)``; an episode's last row itself.

    Raises:
        RwmError: Recorded commands are asked for, and a row has none.
    """

    def __init__(self, dataset: Dataset, command: str, device: torch.device) -> None:
        self.schema = dataset.schema
        rows = dataset.matrix()
        recorded = None if command == "hindsight" else recorded_commands(dataset)
        if recorded is None and command == "recorded":
            raise RwmError(f"'{dataset.name}' has rows without a recorded command.", "--set command=hindsight")
        self.source = "hindsight" if recorded is None else "recorded"
        commands = hindsight_commands(dataset, rows) if recorded is None else recorded
        self.rows, self.command = torch.from_numpy(rows).to(device), torch.from_numpy(commands).to(device)
        following, last = np.arange(1, len(rows) + 1), dataset.episodes.start + dataset.episodes.length - 1
        following[last] = last
        self.following = torch.from_numpy(following).to(device)

    def observations(self, at: np.ndarray) -> Tensor:
        """Return the observations ``(n, O)`` in rows ``(n,)``; an episode's last row has its own command."""
        index = torch.from_numpy(at).to(self.rows.device)
        rows, command = self.rows[index], self.command[self.following[index]]
        return policy_observation(rows[:, self.schema.state], command, rows[:, self.schema.action], self.schema)

    def actions(self, first: np.ndarray) -> Tensor:
        """Return the actions taken next, ``(n, A)``."""
        return self.rows[torch.from_numpy(first).to(self.rows.device) + 1][:, self.schema.action]


def recorded_commands(dataset: Dataset) -> np.ndarray | None:
    """Return the command of every row, ``(R, 3)`` float32; None where one is missing."""
    if not set(COMMAND_COLUMNS) <= set(dataset.scan().collect_schema().names()):
        return None
    commands = dataset.scan().select(pl.col(COMMAND_COLUMNS).cast(pl.Float32)).collect().to_numpy()
    return None if np.isnan(commands).any() else np.ascontiguousarray(commands)


def hindsight_commands(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return for every row the mean horizontal velocity and yaw rate of it and the rows after it, ``(R, 3)`` float32.

    At most ``HINDSIGHT_STEPS`` rows, and none beyond the episode's end.
    """
    schema = dataset.schema
    columns = [schema.group("base_lin_vel").start + k for k in range(2)] + [schema.group("base_ang_vel").start + 2]
    total = np.concatenate((np.zeros((1, 3)), rows[:, columns].cumsum(axis=0, dtype=np.float64)))
    ends = np.repeat(dataset.episodes.start + dataset.episodes.length, dataset.episodes.length)
    first = np.arange(len(rows))
    last = np.minimum(first + HINDSIGHT_STEPS, ends)
    return ((total[last] - total[first]) / (last - first)[:, None]).astype(np.float32)
