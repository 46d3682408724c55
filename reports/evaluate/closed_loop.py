"""Does a policy move in the model as it moves in the simulator? Both from the same start, under the same commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from reports.evaluate.policy_score import parents_of
from reports.evaluate.rollouts import HeldOutWindows, Rollout, roll_out
from reports.evaluate.statistics import mean_interval, ratio_up_to
from reports.evaluate.summary import finish_evaluation, start_evaluation
from reports.figures import BLUE, GREEN, GREY, ORANGE, figure, leave_room
from rwmdata.atomic import commit_file
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Checkpoint, Run
from rwmdata.schema import Schema
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.backends import make_env
from rwmrl.behaviour_base import Behaviour, BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.control_loop import act, play
from rwmrl.envs.base import EnvOptions, Observations
from rwmrl.observations import policy_observation
from rwmrl.rewards import RewardModel

SECONDS = (0.02, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Times into the rollout that numbers are given for."""
MODES = {
    "imagined": "the policy acts on what the model predicts",
    "recorded_actions": "the model is given the simulator's actions",
    "misled": "the simulator, the policy seeing the model's one-step errors",
    "hold_last": "last state held",
}
TRACES = (
    ("base_lin_vel", 0, "forward velocity (m/s)"),
    ("base_ang_vel", 2, "yaw rate (rad/s)"),
    ("joint_pos", None, "{joint} (rad)"),
)
"""State group, its column (None for the one that moves most) and the axis's label."""
Predictions = dict[str, np.ndarray]
"""Arrays ``(W, steps, ...)`` by mode."""

UNITS = "rel_l1: share of the simulated magnitude, normalised space; reward: a step, unpenalised"


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
    """What a policy did in the simulator: rows ``(W, T, width)``, and the command ``(W, T, 3)`` each was made under.

    ``robot (W,)`` says which of the simulated robots walked so.
    """

    rows: np.ndarray
    command: np.ndarray
    robot: np.ndarray


@dataclass(frozen=True)
class Misled:
    """What a policy sees in the last n steps.

    The state is off by ``errors (robots, n, S)``, physical units; ``command (robots, n, 3)`` takes the place of the
    simulator's.
    """

    errors: Tensor
    command: Tensor


def evaluate_closed_loop(
    home: Home, checkpoint: Checkpoint, config: ClosedLoopConfig, progress: Progress = silent
) -> Run:
    """Let a policy walk in the simulator, and from a history of that walk on in the model alone.

    The simulator is neither randomised nor disturbed, and neither side has noise. Writes into the new ``eval`` run:
    ``summary.json``, ``closed_loop.parquet`` (error of every mode by step) and ``closed_loop.png``.

    Raises:
        RwmError: Unknown backend or policy, fewer than two robots walked to the end, or a prediction is not finite.
    """
    model = load_model(checkpoint.file, resolve_device(config.device))
    if model.info is None:
        raise RwmError(f"Model {checkpoint.id} does not say of which robot it is.", "rwm fit")
    robot = load_robot(model.info.robot)
    parents = parents_of(home, config.policy) | {"model": checkpoint.id}
    run = start_evaluation(home, "closed-loop", config, parents, config.seed)
    with run.running():
        behaviour = make_behaviour(config.policy, BehaviourContext(robot, config.robots, torch.Generator()), 0.0)
        history, schema = model.config.history, Schema.from_robot(robot)
        walks = simulate(config, robot, behaviour, history + config.steps, progress)
        if len(walks.rows) < 2:
            raise RwmError(
                f"Only {len(walks.rows)} of {config.robots} robots did not fall within "
                f"{config.settle + history + config.steps} steps; nothing to compare.",
                "a policy that stands, fewer --steps, or more --robots",
            )
        behaviour = make_behaviour(config.policy, BehaviourContext(robot, len(walks.rows), torch.Generator()), 0.0)
        imagined, contact, actions = imagine(model, behaviour, walks, schema)
        misled = mislead(config, robot, model, walks, progress)
        windows = HeldOutWindows(walks.rows, np.arange(len(walks.rows)), np.arange(len(walks.rows)), "simulated")
        given = roll_out(model, schema, windows, "mean", config.seed)
        predicted = dict(zip(MODES, (imagined, given.predicted, misled, given.hold_last), strict=True))
        imagined_walks = _as_walks(model, walks, imagined, contact, actions, schema)
        both = {"simulated": walks, "imagined": imagined_walks}
        rewards = {side: mean_reward(robot, schema, side_walks, history) for side, side_walks in both.items()}
        table = error_table(given, predicted, robot.control_dt_s)
        commit_file(run.path / "closed_loop.parquet", table.write_parquet)
        draw(run.path / "closed_loop.png", model, robot, walks, given, predicted)
        numbers = scalars(given, predicted, rewards, robot.control_dt_s)
        counts = {"robots": len(walks.rows), "fell": config.robots - len(walks.rows), "history": history}
        counts |= {"steps": config.steps, "misled_fell": int(np.isnan(misled[:, 0, 0]).sum())}
        finish_evaluation(run, robot.name, numbers, UNITS, **counts)
    return run


def simulate(
    config: ClosedLoopConfig,
    robot: RobotSpec,
    behaviour: Behaviour,
    rows: int,
    progress: Progress = silent,
    misled: Misled | None = None,
) -> Walks:
    """Return the last ``rows`` rows of every robot that did not fall in ``settle + rows`` steps.

    ``misled`` is what the policy sees in the last steps, when not the truth.
    """
    count, total = config.robots, config.settle + rows
    limit_s = (total + 1) * robot.control_dt_s
    calm = EnvOptions(
        num_envs=count, seed=config.seed, episode_length_s=limit_s, pushes=False, noise=False, randomize=False
    )
    env = make_env(config.backend, robot, calm)

    def perceived(k: int, observations: Observations) -> Observations:
        if misled is None or (late := k - total + misled.errors.shape[1]) < 0:
            return observations
        row, schema = env.current_rows().cpu(), env.schema
        state = row[:, schema.state] + misled.errors[:, late]
        return {"policy": policy_observation(state, misled.command[:, late], row[:, schema.action], schema)}

    standing = torch.ones(count, dtype=torch.bool)
    recorded, commands = [], []
    for k, played in enumerate(play(env, behaviour, total, perceived)):
        standing &= ~played.step.done.cpu()
        if k >= config.settle:
            recorded.append(played.step.transition.cpu().clone())
            commands.append(played.command.cpu())
        progress(k + 1, total, {"fell": float((~standing).sum())})
    env.close()
    robots = standing.nonzero().squeeze(-1).numpy()
    walked, command = (torch.stack(part, dim=1)[standing].numpy() for part in (recorded, commands))
    return Walks(walked, command, robots)


@torch.no_grad()
def one_step_errors(model: DynamicsEnsemble, walks: Walks, schema: Schema) -> Tensor:
    """Return predicted minus simulated state, physical units, ``(W, steps, S)``, each from the true rows before it."""
    device, history = next(model.parameters()).device, model.config.history
    rows, normalizer = torch.from_numpy(walks.rows).to(device), model.normalizer
    states, actions = normalizer.state(rows[..., schema.state]), normalizer.action(rows[..., schema.action])
    carry = model.warm_up(states[:, : history - 1], actions[:, 1:history])
    errors = []
    for k in range(history, rows.shape[1]):
        prediction, carry = model.step(states[:, k - 1], actions[:, k], carry, std=False)
        errors.append(normalizer.denorm_state(prediction.state) - rows[:, k, schema.state])
    return torch.stack(errors, dim=1).cpu()


def mislead(
    config: ClosedLoopConfig, robot: RobotSpec, model: DynamicsEnsemble, walks: Walks, progress: Progress = silent
) -> np.ndarray:
    """Simulate the walks again, the policy seeing every state as wrong as the model predicts it one step ahead.

    The physics are right and the policy is misled: how far two walks part because of such errors in any model.

    Returns:
        States ``(W, steps, S)`` in normalised space; not a number for robots that fell this time.
    """
    history, length, schema = model.config.history, walks.rows.shape[1], Schema.from_robot(robot)
    shape = config.robots, length - history
    misled = Misled(torch.zeros(*shape, schema.dims["state"]), torch.zeros(*shape, walks.command.shape[2]))
    # In the model too, the policy acts on the true last row of the history first.
    misled.errors[walks.robot, 1:] = one_step_errors(model, walks, schema)[:, :-1]
    misled.command[walks.robot] = torch.from_numpy(walks.command[:, history:])
    behaviour = make_behaviour(config.policy, BehaviourContext(robot, config.robots, torch.Generator()), 0.0)
    again = simulate(config, robot, behaviour, length, progress, misled)
    states = torch.from_numpy(again.rows[:, history:, schema.state]).to(next(model.parameters()).device)
    of_robots = np.full((config.robots, *states.shape[1:]), np.nan, np.float32)
    of_robots[again.robot] = model.normalizer.state(states).cpu().numpy()
    return of_robots[walks.robot]


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
    steps: list[tuple[Tensor, ...]] = []
    for k in range(rows.shape[1] - history):
        seen = policy_observation(normalizer.denorm_state(state), command[:, history + k], last, schema)
        last = act(behaviour, {"policy": seen}, device)
        prediction, carry = model.step(state, normalizer.action(last), carry, std=False)
        state = prediction.state
        assert prediction.contact is not None
        steps.append((state, (prediction.contact > 0).float(), last))
        if not state.isfinite().all():
            raise RwmError(f"The model's prediction is not finite at step {k + 1}; nothing was plotted.", "rwm fit")
    predicted, contact, acted = (torch.stack(part, dim=1).cpu().numpy() for part in zip(*steps, strict=True))
    return predicted, contact, acted


def _as_walks(
    model: DynamicsEnsemble, walks: Walks, states: np.ndarray, contact: np.ndarray, actions: np.ndarray, schema: Schema
) -> Walks:
    """Return the walks with what was imagined in place of what was simulated."""
    rows, history = walks.rows.copy(), model.config.history
    rows[:, history:, schema.state] = model.normalizer.cpu().denorm_state(torch.from_numpy(states)).numpy()
    rows[:, history:, schema.contact], rows[:, history:, schema.action] = contact, actions
    return Walks(rows, walks.command, walks.robot)


@torch.no_grad()
def mean_reward(robot: RobotSpec, schema: Schema, walks: Walks, history: int) -> np.ndarray:
    """Return each step's reward after the history, ``(W, steps)``: the terms shared by simulator and imagination."""
    rows, command = torch.from_numpy(walks.rows), torch.from_numpy(walks.command)
    rewards = RewardModel(robot, schema, len(rows), rows.device)
    last, contacts = rows[:, history - 1], rows[:, :history, schema.contact]
    rewards.reset(torch.arange(len(rows)), last[:, schema.state], last[:, schema.action], contacts)
    of_steps = []
    for k in range(history, rows.shape[1]):
        state, contact, action = (rows[:, k, part] for part in (schema.state, schema.contact, schema.action))
        of_steps.append(rewards.compute(state, contact, action, command[:, k])[0])
    return torch.stack(of_steps, dim=1).numpy()


def error_table(given: Rollout, predicted: Predictions, control_dt_s: float) -> pl.DataFrame:
    """Return mode, step, time (s) and the relative L1 error of that step: sum |error| / sum |simulated|."""
    steps, tables = np.arange(1, given.steps + 1), []
    for mode, values in predicted.items():
        error, recorded = l1_of(given, values)
        if len(error):
            relative = error.sum(axis=0) / recorded.sum(axis=0)
            columns = {"step": steps, "time_s": steps * control_dt_s, "rel_l1": relative}
            tables.append(pl.DataFrame({"mode": mode, **columns}))
    return pl.concat(tables)


def l1_of(given: Rollout, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return |error| and |simulated| summed over state dimensions, ``(w, T)``, of the walks that have ``values``."""
    walked = np.isfinite(values).all(axis=(1, 2))
    return given.l1_of(values)[walked], given.recorded_l1[walked]


def horizons(steps: int, control_dt_s: float) -> list[int]:
    """Return the steps at ``SECONDS``, those beyond ``steps`` left out."""
    return [h for h in dict.fromkeys(max(1, round(s / control_dt_s)) for s in SECONDS) if h <= steps]


def scalars(given: Rollout, predicted: Predictions, rewards: Predictions, control_dt_s: float) -> list[Scalar]:
    """Return the relative L1 error up to every horizon and the mean reward a step up to it, with 95 % intervals.

    Mode ``imagined`` is the policy in the model, ``recorded_actions`` the model's error on these walks when it is given
    what the policy did. Mode ``misled`` is the simulator with a policy whose observations are as wrong as the model's
    predictions one step ahead.
    """
    numbers: list[Scalar] = []
    errors = {mode: l1_of(given, values) for mode, values in predicted.items()}
    for h in horizons(given.steps, control_dt_s):
        for mode, (error, recorded) in errors.items():
            if len(error) >= 2:
                numbers.append(ratio_up_to(h, error, recorded).scalar("rel_l1", mode, h))
        for mode, reward in rewards.items():
            numbers.append(mean_interval(reward[:, :h].mean(axis=1)).scalar("reward", mode, h))
    return numbers


def draw(
    path: Path, model: DynamicsEnsemble, robot: RobotSpec, walks: Walks, given: Rollout, predicted: Predictions
) -> None:
    """Draw the error over time, and the walk of median error in both worlds."""
    history, schema = model.config.history, Schema.from_robot(robot)
    time = np.arange(1, given.steps + 1) * robot.control_dt_s
    total = given.l1_of(predicted["imagined"]).sum(axis=1)
    chosen = int(np.argsort(total)[len(total) // 2])
    simulated = walks.rows[chosen, history:]
    imagined = model.normalizer.cpu().denorm_state(torch.from_numpy(predicted["imagined"][chosen])).numpy()
    with figure(path, 2, 2, (15, 10)) as axes:
        table = error_table(given, predicted, robot.control_dt_s)
        for mode, colour in zip(MODES, (BLUE, ORANGE, GREEN, GREY), strict=True):
            part = table.filter(pl.col("mode") == mode)
            if len(part):
                axes[0, 0].plot(time, part["rel_l1"], color=colour, label=MODES[mode])
        axes[0, 0].set(ylabel="error / simulated magnitude", title=f"{len(walks.rows)} walks, error of each step")
        axes[0, 0].set_ylim(0)
        leave_room(axes[0, 0], 0.4)
        axes[0, 0].legend(loc="upper left", fontsize=11)
        for ax, (group, index, label) in zip(axes.ravel()[1:], TRACES, strict=True):
            columns = schema.group(group)
            k = int(simulated[:, columns].std(axis=0).argmax()) if index is None else index
            ax.plot(time, simulated[:, columns.start + k], color=GREEN, label="simulated")
            ax.plot(time, imagined[:, columns.start + k], color=BLUE, linestyle="--", label="imagined")
            if group != "joint_pos":
                command = walks.command[chosen, history:, 0 if group == "base_lin_vel" else 2]
                ax.step(time, command, color=GREY, linewidth=1.2, where="mid", label="command")
            ax.set(ylabel=label.format(joint=schema.joints[k]), title="the walk of median error")
            leave_room(ax, 0.15)
            ax.legend(loc="upper right", ncols=3, fontsize=11)
        for ax in axes.ravel():
            ax.axvspan(0, 1, color=GREY, alpha=0.1, linewidth=0)
            ax.set(xlabel="time after the history (s); the first second is shaded")
            ax.margins(x=0.01)
        axes[0, 0].figure.suptitle(f"{robot.title}: one policy in the simulator and in the model, from the same start")
