"""How well could any model forecast? The simulator against itself, when it knows a little less than everything.

The embedded simulator goes through the same actions again: from a start that is slightly off, without the pushes that
nobody foresees, or with the nominal trunk in place of the randomised one. Its error then says how fast walks part from
each other that begin alike; a model's error on the same trajectories stands beside it. It is no bound: the mean of many
such forecasts is nearer to the record than each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reports.bench.measure import BenchRow, content_of
from reports.evaluate.dynamics_figures import draw_error_by_horizon
from reports.evaluate.rollouts import HeldOutWindows, Rollout, roll_out
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema
from rwmmodel.checkpoint import load_model
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.control_loop import play
from rwmrl.envs.base import Step
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.snapshots import Snapshot

Fraction = Annotated[float, Field(gt=0, allow_inf_nan=False)]
OFFSET_GROUPS = ("joint_pos", "joint_vel", "base_lin_vel", "base_ang_vel")
"""Columns whose states of the simulator are moved when a start is off."""


class BenchPredictabilityConfig(Frozen):
    """Options of :func:`bench_predictability`."""

    policy: str = "mixed"
    """Behaviour, in the form that :func:`rwmrl.behaviours.make_behaviour` takes."""
    action_noise: Annotated[float, Field(ge=0)] | None = 0.2
    """Standard deviation of normal noise on every action; the policy's own when None."""
    num_envs: int = Field(256, ge=2)
    """Trajectories; those in which a robot falls are left out."""
    warm: int = Field(400, ge=0)
    """Control steps before a trajectory begins."""
    steps: int = Field(368, ge=1)
    """Control steps that are forecast."""
    offsets: tuple[Fraction, ...] = (0.001, 0.01, 0.1)
    """How far starts are off, in standard deviations of each column."""
    seed: int = 0


class Record(NamedTuple):
    """What the robots did: rows ``(E, history + steps, width)``, the state the forecast begins at, and its actions."""

    rows: Tensor
    start: Snapshot
    actions: Tensor
    kicks: np.ndarray
    """What pushes added to the bases' velocities after each of these actions, ``(E, T, 2)``, m/s."""
    upright: Tensor
    """Robots that did not fall, ``(E,)`` bool."""


class PushedAgain(MujocoEnv):
    """Pushes the robots as they were pushed before, whoever falls meanwhile.

    Attributes:
        kicks: What is added to the bases' velocities after each step to come, ``(E, 2)`` each, m/s.
    """

    kicks: Iterator[np.ndarray]

    def _push(self) -> None:
        self._kick = next(self.kicks)
        self._add_kicks(np.flatnonzero(self._kick.any(axis=1)))


def bench_predictability(
    model_file: Path,
    config: BenchPredictabilityConfig | None = None,
    path: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Forecast the same trajectories by a model and by the simulator itself, which knows a little less each time.

    Args:
        model_file: The model; robot, normalised space and the length of the history are its own.
        config: What is recorded, and what the simulator is not told.
        path: Where the error by horizon is drawn, PNG; None draws none.
        progress: Called after every forecast.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...], "trajectories": n, "pushed": n}``: the relative L1 error
        up to each horizon, as :mod:`reports.evaluate.dynamics` defines it, and the share of trajectories in which the
        robot falls, though it did not when it was recorded (for the model: a termination above one half). The baseline
        is the model's.

    Raises:
        RwmError: The policy is unknown, the model is not of a robot's own columns, or all robots fell.
    """
    config = config or BenchPredictabilityConfig()
    model = load_model(model_file)
    robot = robot_of(model)
    env = MujocoEnv(robot, settings_of(robot, model, config))
    record = record_of(env, model, config)
    env.close()
    if not record.upright.any():
        raise RwmError(f"All {config.num_envs} robots fell.", "--policy expert")
    rows = record.rows[record.upright].numpy()
    count = np.arange(len(rows))
    rollout = roll_out(model, env.schema, HeldOutWindows(rows, count, count, "simulated"), aux=True)
    assert rollout.termination is not None
    predicted, fell = {"model": rollout.predicted}, {"model": float((rollout.termination > 0.5).any(axis=1).mean())}
    for name, forecast in forecasts(robot, model, record, config):
        upright = forecast[record.upright]
        predicted[name] = model.normalizer.state(upright[..., env.schema.state]).numpy()
        fell[name] = float((upright[:, -1, -1] > 0.5).float().mean())
        progress(len(predicted) - 1, 2 + len(config.offsets), {"fell": fell[name]})
    if path:
        title = f"{robot.title}: {len(rows)} trajectories, 95 % intervals"
        draw_error_by_horizon(path, rollout, predicted, 1 / robot.control_dt_s, title)
    settings: dict[str, str | int] = {"robot": robot.name, "policy": config.policy, "trajectories": len(rows)}
    settings |= {"pushed": int(record.kicks[record.upright.numpy()].any(axis=(1, 2)).sum())}
    return content_of("predictability", rows_of(predicted, fell, rollout), **settings)


def robot_of(model: DynamicsEnsemble) -> RobotSpec:
    """Return the robot a model says it is of.

    Raises:
        RwmError: It says none, or its columns are not those that the robot is simulated with.
    """
    if model.info is None:
        raise RwmError("This model does not say which robot it is of.", "--model shipped")
    robot = load_robot(model.info.robot)
    if model.info.columns != Schema.from_robot(robot).csv_names:
        raise RwmError(f"This model's columns are not those of a simulated {robot.title}.", "--model shipped")
    return robot


def settings_of(robot: RobotSpec, model: DynamicsEnsemble, config: BenchPredictabilityConfig) -> MujocoEnvConfig:
    """Return the settings of the environment: episodes end with the forecast, not before."""
    seconds = (config.warm + model.config.history + config.steps + 1) * robot.control_dt_s
    return MujocoEnvConfig(num_envs=config.num_envs, seed=config.seed, noise=False, episode_length_s=seconds)


def record_of(env: MujocoEnv, model: DynamicsEnsemble, config: BenchPredictabilityConfig) -> Record:
    """Let the policy act, and keep what is needed to go through the same actions again."""
    context = BehaviourContext(env.robot, config.num_envs, torch.Generator().manual_seed(config.seed))
    behaviour = make_behaviour(config.policy, context, config.action_noise)
    steps = play(env, behaviour)
    for _ in range(config.warm):
        done = next(steps).step.done.nonzero().squeeze(-1)
        if len(done):
            behaviour.reset(done)
    upright = torch.ones(config.num_envs, dtype=torch.bool)
    rows, actions, kicks, start = [env.current_rows().clone()], [], [], env.state()
    for k in range(1, model.config.history + config.steps):
        if k == model.config.history:
            start = env.state()
        played = next(steps)
        rows.append(played.step.transition)
        upright &= ~played.step.done
        if k >= model.config.history:
            actions.append(played.action)
            kicks.append(env.kick.copy())
    return Record(torch.stack(rows, dim=1), start, torch.stack(actions, dim=1), np.stack(kicks, axis=1), upright)


def forecasts(
    robot: RobotSpec, model: DynamicsEnsemble, record: Record, config: BenchPredictabilityConfig
) -> Iterator[tuple[str, Tensor]]:
    """Give the simulator's rows ``(E, steps, width)`` under the same actions, by what it was not told."""
    settings = settings_of(robot, model, config)
    env = PushedAgain(robot, settings)
    for offset in config.offsets:
        start = moved(env, record, offset, config.seed)
        yield f"simulator, start off by {offset:g} std", again(env, start, record.actions, record.kicks)
    yield "simulator, without the pushes", again(env, record.start, record.actions, np.zeros_like(record.kicks))
    env.close()
    nominal = PushedAgain(robot, settings.model_copy(update={"randomize": False}))
    yield "simulator, with the nominal trunk", again(nominal, record.start, record.actions, record.kicks)
    nominal.close()


def again(env: PushedAgain, start: Snapshot, actions: Tensor, kicks: np.ndarray) -> Tensor:
    """Go through ``actions (E, T, A)`` and ``kicks (E, T, 2)`` from a state.

    A robot that falls here keeps the row it fell with.
    """
    env.restore(start)
    env.kicks = iter(kicks.swapaxes(0, 1))
    rows: list[Tensor] = []
    ended = torch.zeros(env.num_envs, dtype=torch.bool)
    for k in range(actions.shape[1]):
        step: Step = env.step(actions[:, k])
        rows.append(torch.where(ended[:, None], rows[-1], step.transition) if rows else step.transition)
        ended |= step.done
    return torch.stack(rows, dim=1)


def moved(env: MujocoEnv, record: Record, offset: float, seed: int) -> Snapshot:
    """Return the start with normal noise on joints and velocities, ``offset`` standard deviations of each column."""
    layout, schema = env.physics.layout, env.schema
    places = (layout.joint_pos, layout.joint_vel, layout.lin_vel_w, layout.ang_vel_b)
    generator = torch.Generator().manual_seed(seed)
    state = record.start["physics"]["state"].clone()
    for group, place in zip(OFFSET_GROUPS, places, strict=True):
        std = record.rows[..., schema.group(group)].flatten(0, 1).double().std(dim=0)
        state[:, place] += offset * std * torch.randn(state[:, place].shape, generator=generator, dtype=torch.float64)
    return {**record.start, "physics": {**record.start["physics"], "state": state}}


def rows_of(predicted: dict[str, np.ndarray], fell: dict[str, float], rollout: Rollout) -> list[BenchRow]:
    """Return each forecast's error up to each horizon, and the share of its robots that fall, beside the model's."""
    models, rows = rollout.rel_l1(predicted["model"]), []
    for name, values in predicted.items():
        rows += [BenchRow(f"{name}: h = {h}", e, "relative L1", models[h]) for h, e in rollout.rel_l1(values).items()]
        rows.append(BenchRow(f"{name}: falls within {rollout.steps} steps", fell[name], "1", fell["model"]))
    return rows
