"""Does a policy move in the model as it moves in the simulator? Both from the same start, under the same commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from reports.figures import BLUE, GREEN, GREY, ORANGE, figure
from reports.policy_score import parents_of
from reports.rollouts import HeldOutWindows, Rollout, roll_out
from reports.statistics import ratio_interval
from reports.summary import finish_evaluation
from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import Frozen, RobotSpec, load_robot
from rwmdata.runs import Run
from rwmdata.schema import Schema
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.backends import make_env
from rwmrl.behaviour_base import Behaviour, Setting
from rwmrl.behaviours import make_behaviour
from rwmrl.observations import policy_observation
from rwmrl.rewards import RewardModel

SECONDS = (0.02, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Times into the rollout that numbers are given for."""
MODES = {"imagined": "the policy acts on what the model predicts",
         "recorded_actions": "the model is given the simulator's actions",
         "hold_last": "last state held"}  # fmt: skip
TRACES = (("base_lin_vel", 0, "forward velocity (m/s)"), ("base_ang_vel", 2, "yaw rate (rad/s)"),
          ("joint_pos", None, "{joint} (rad)"))  # fmt: skip
"""State group, its column (None for the one that moves most) and the axis's label."""


class ClosedLoopConfig(Frozen):
    """Options of :func:`evaluate_closed_loop`."""

    policy: str
    """Behaviour name, or the path of a policy file."""
    backend: str = "auto"
    robots: int = Field(64, ge=2)
    """Robots side by side; those that fall on the way are left out."""
    settle: int = Field(50, ge=0)
    """Control steps before the history begins."""
    steps: int = Field(200, ge=1)
    """Control steps imagined."""
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Walks:
    """What a policy did in the simulator: rows ``(W, T, width)``, and the command ``(W, T, 3)`` each was made under."""

    rows: np.ndarray
    command: np.ndarray


def evaluate_closed_loop(home: Home, model_run: Run, config: ClosedLoopConfig, progress: Progress | None = None) -> Run:
    """Let a policy walk in the simulator, and from a history of that walk on in the model alone.

    The simulator is neither randomised nor disturbed, and neither side has noise. Writes into the new ``eval`` run:
    ``summary.json``, ``closed_loop.parquet`` (error of every mode by step) and ``closed_loop.png``.

    Raises:
        RwmError: Unknown backend or policy, fewer than two robots walked to the end, or a prediction is not finite.
    """
    model = load_model(model_run.checkpoints / "model.safetensors", resolve_device(config.device))
    if model.info is None:
        raise RwmError(f"Model {model_run.id} does not say of which robot it is.", "rwm fit")
    robot = load_robot(model.info.robot)
    parents = parents_of(config.policy) | {"model": model_run.id}
    run = Run.create(home, "eval", {"evaluation": "closed-loop", **config.model_dump()}, parents, config.seed)
    with run.running():
        behaviour = make_behaviour(config.policy, Setting(robot, config.robots, torch.Generator()), 0.0)
        history, schema = model.config.history, Schema.from_robot(robot)
        walks = simulate(config, robot, behaviour, history + config.steps, progress)
        behaviour = make_behaviour(config.policy, Setting(robot, len(walks.rows), torch.Generator()), 0.0)
        imagined, contact, actions = imagine(model, behaviour, walks, schema)
        windows = HeldOutWindows(walks.rows, np.arange(len(walks.rows)), np.arange(len(walks.rows)), "simulated")
        given = roll_out(model, schema, windows, history, "mean", config.seed)
        predicted = {
            "imagined": imagined, "recorded_actions": given.predicted,
            "hold_last": np.broadcast_to(given.last[:, None], given.recorded.shape),
        }  # fmt: skip
        rewards = {
            "simulated": mean_reward(robot, schema, walks, history),
            "imagined": mean_reward(
                robot, schema, _as_walks(model, walks, imagined, contact, actions, schema), history
            ),
        }
        table = error_table(given, predicted, robot.control_dt_s)
        commit_file(run.path / "closed_loop.parquet", table.write_parquet)
        draw(run.path / "closed_loop.png", model, robot, schema, walks, given, predicted)
        finish_evaluation(
            run, robot.name, scalars(given, predicted, rewards, robot.control_dt_s),
            "rel_l1: share of the simulated magnitude, normalised space; reward: a step, unpenalised",
            robots=len(walks.rows), fell=config.robots - len(walks.rows), history=history, steps=config.steps,
        )  # fmt: skip
    return run


@torch.no_grad()
def simulate(
    config: ClosedLoopConfig, robot: RobotSpec, behaviour: Behaviour, rows: int, progress: Progress | None = None
) -> Walks:
    """Return the newest ``rows`` rows of every robot that did not fall in ``settle + rows`` steps.

    Raises:
        RwmError: Fewer than two did not.
    """
    count, total = config.robots, config.settle + rows
    env = make_env(config.backend, "Pretrain-v0", robot, count, config.seed, (total + 1) * robot.control_dt_s,
                   pushes=False, noise=False, randomize=False)  # fmt: skip
    observations, standing = env.reset(), torch.ones(count, dtype=torch.bool)
    behaviour.reset(torch.arange(count))
    found, commands = [], []
    for k in range(total):
        command = env.command.clone()
        step = env.step(behaviour.act({name: group.cpu() for name, group in observations.items()}))
        observations = step.observations
        standing &= ~step.done.cpu()
        if k >= config.settle:
            found.append(step.transition.cpu().clone())
            commands.append(command.cpu())
        if progress:
            progress(k + 1, total, {"fell": float((~standing).sum())})
    env.close()
    if int(standing.sum()) < 2:
        raise RwmError(
            f"Only {int(standing.sum())} of {count} robots did not fall within {total} steps; nothing to compare.",
            "a policy that stands, fewer --steps, or more --robots",
        )
    return Walks(torch.stack(found, dim=1)[standing].numpy(), torch.stack(commands, dim=1)[standing].numpy())


@torch.no_grad()
def imagine(
    model: DynamicsEnsemble, behaviour: Behaviour, walks: Walks, schema: Schema
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let a policy act on the ensemble mean's own predictions, after the history of each walk and under its commands.

    Returns:
        States ``(W, steps, S)`` in normalised space, contacts ``(W, steps, C)`` 0 or 1, and actions ``(W, steps, A)``.

    Raises:
        RwmError: A prediction is not finite.
    """
    device, history = next(model.parameters()).device, model.config.history
    rows, command = torch.from_numpy(walks.rows).to(device), torch.from_numpy(walks.command).to(device)
    normalizer = model.normalizer
    states, actions = normalizer.state(rows[..., schema.state]), normalizer.action(rows[..., schema.action])
    carry = model.warm_up(states[:, : history - 1], actions[:, 1:history])
    state, last = states[:, history - 1], rows[:, history - 1, schema.action]
    found: list[tuple[Tensor, ...]] = []
    for k in range(rows.shape[1] - history):
        seen = policy_observation(normalizer.denorm_state(state), command[:, history + k], last, schema)
        last = behaviour.act({"policy": seen.cpu()}).to(device)
        prediction, carry = model.step(state, normalizer.action(last), carry, std=False)
        state = prediction.state
        assert prediction.contact is not None
        found.append((state, (prediction.contact > 0).float(), last))
        if not state.isfinite().all():
            raise RwmError(f"The model's prediction is not finite at step {k + 1}; nothing was plotted.", "rwm fit")
    predicted, contact, acted = (torch.stack(part, dim=1).cpu().numpy() for part in zip(*found, strict=True))
    return predicted, contact, acted


def _as_walks(
    model: DynamicsEnsemble, walks: Walks, states: np.ndarray, contact: np.ndarray, actions: np.ndarray, schema: Schema
) -> Walks:
    """Return the walks with what was imagined in place of what was simulated."""
    rows, history = walks.rows.copy(), model.config.history
    rows[:, history:, schema.state] = model.normalizer.cpu().denorm_state(torch.from_numpy(states)).numpy()
    rows[:, history:, schema.contact], rows[:, history:, schema.action] = contact, actions
    return Walks(rows, walks.command)


@torch.no_grad()
def mean_reward(robot: RobotSpec, schema: Schema, walks: Walks, history: int) -> np.ndarray:
    """Return each step's reward after the history, ``(W, steps)``: the terms shared by simulator and imagination."""
    rows, command = torch.from_numpy(walks.rows), torch.from_numpy(walks.command)
    rewards = RewardModel(robot, schema, len(rows), rows.device)
    last = rows[:, history - 1]
    rewards.reset(torch.arange(len(rows)), last[:, schema.state], last[:, schema.action])
    found = [
        rewards.compute(rows[:, k, schema.state], rows[:, k, schema.contact], rows[:, k, schema.action], command[:, k])[
            0
        ]
        for k in range(history, rows.shape[1])
    ]
    return torch.stack(found, dim=1).numpy()


def error_table(given: Rollout, predicted: dict[str, np.ndarray], control_dt_s: float) -> pl.DataFrame:
    """Return mode, step, time (s) and the relative L1 error of that step: sum |error| / sum |simulated|."""
    steps, recorded = np.arange(1, given.recorded.shape[1] + 1), given.recorded_l1.sum(axis=0)
    return pl.concat([
        pl.DataFrame({"mode": mode, "step": steps, "time_s": steps * control_dt_s,
                      "rel_l1": np.abs(values - given.recorded).sum(axis=(0, 2)) / recorded})
        for mode, values in predicted.items()
    ])  # fmt: skip


def horizons(steps: int, control_dt_s: float) -> list[int]:
    """Return the steps at ``SECONDS``, those beyond ``steps`` left out."""
    return [h for h in dict.fromkeys(max(1, round(s / control_dt_s)) for s in SECONDS) if h <= steps]


def scalars(
    given: Rollout, predicted: dict[str, np.ndarray], rewards: dict[str, np.ndarray], control_dt_s: float
) -> list[dict[str, Any]]:
    """Return the relative L1 error up to every horizon and the mean reward a step up to it, with 95 % intervals.

    Mode ``imagined`` is the policy in the model, ``recorded_actions`` the model's error on these walks when it is told
    what the policy did: the least the former can be expected to be.
    """
    found: list[dict[str, Any]] = []
    recorded = given.recorded_l1
    for h in horizons(recorded.shape[1], control_dt_s):
        for mode, values in predicted.items():
            error = np.abs(values - given.recorded).sum(axis=-1)
            value, low, high = ratio_interval(error[:, :h].sum(axis=1), recorded[:, :h].sum(axis=1))
            found.append({"metric": "rel_l1", "mode": mode, "horizon": h, "value": value, "low": low, "high": high})
        for mode, reward in rewards.items():
            value, low, high = ratio_interval(reward[:, :h].mean(axis=1), np.ones(len(reward)))
            found.append({"metric": "reward", "mode": mode, "horizon": h, "value": value, "low": low, "high": high})
    return found


def draw(
    path: Path,
    model: DynamicsEnsemble,
    robot: RobotSpec,
    schema: Schema,
    walks: Walks,
    given: Rollout,
    predicted: dict[str, np.ndarray],
) -> None:
    """Draw the error over time, and the walk of median error in both worlds."""
    history, steps = model.config.history, given.recorded.shape[1]
    time = np.arange(1, steps + 1) * robot.control_dt_s
    total = np.abs(predicted["imagined"] - given.recorded).sum(axis=(1, 2))
    chosen = int(np.argsort(total)[len(total) // 2])
    simulated = walks.rows[chosen, history:]
    imagined = model.normalizer.cpu().denorm_state(torch.from_numpy(predicted["imagined"][chosen])).numpy()
    with figure(path, 2, 2, (15, 10)) as axes:
        table = error_table(given, predicted, robot.control_dt_s)
        for mode, colour in zip(MODES, (BLUE, ORANGE, GREY), strict=True):
            part = table.filter(pl.col("mode") == mode)
            axes[0, 0].plot(time, part["rel_l1"], color=colour, label=MODES[mode])
        axes[0, 0].set(ylabel="error / simulated magnitude", title=f"{len(walks.rows)} walks, error of each step")
        axes[0, 0].legend(loc="lower right", fontsize=11)
        for ax, (group, index, label) in zip(axes.ravel()[1:], TRACES, strict=True):
            columns = schema.group(group)
            k = int(simulated[:, columns].std(axis=0).argmax()) if index is None else index
            ax.plot(time, simulated[:, columns.start + k], color=GREEN, label="simulated")
            ax.plot(time, imagined[:, columns.start + k], color=BLUE, linestyle="--", label="imagined")
            if group != "joint_pos":
                command = walks.command[chosen, history:, 0 if group == "base_lin_vel" else 2]
                ax.step(time, command, color=GREY, linewidth=1.2, where="mid", label="command")
            ax.set(ylabel=label.format(joint=schema.joints[k]), title="the walk of median error")
            ax.legend(loc="upper right", ncols=3, fontsize=11)
        for ax in axes.ravel():
            ax.axvspan(0, 1, color=GREY, alpha=0.1, linewidth=0)
            ax.set(xlabel="time after the history (s); the first second is shaded")
            ax.margins(x=0.01)
        axes[0, 0].figure.suptitle(f"{robot.title}: one policy in the simulator and in the model, from the same start")
