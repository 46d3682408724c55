"""Does the model see its policy's falls coming? Windows before simulated falls, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from pydantic import Field

from reports.evaluate.falls_causes import (
    cause_numbers,
    contact_numbers,
    head_numbers,
    parameter_numbers,
    true_state_table,
    verdict,
    with_causes,
)
from reports.evaluate.falls_figures import draw
from reports.evaluate.falls_forecasts import Forecast, forecast, teacher_forced
from reports.evaluate.falls_scores import score_intervals, score_table, share
from reports.evaluate.falls_windows import Windows, cut, joined, simulate
from reports.evaluate.model_evaluation import no_disagreement
from reports.evaluate.policy_score import SCENARIOS, parents_of
from reports.evaluate.statistics import Interval, scalars_of
from reports.evaluate.summary import finish_evaluation, start_evaluation
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
from rwmrl.behaviour_base import Behaviour, BehaviourContext, Noisy
from rwmrl.behaviours import PolicyBehaviour, make_behaviour

LEADS = (5, 10, 25, 50)
"""Control steps before a fall from which the model goes on."""
MAIN_LEAD, TRUE_LEAD = 25, 10
"""The lead that the verdict is about where it has falls enough, and that of the windows whose last rows are predicted
from true states."""
GIVEN = "recorded_actions"
MODES = ("imagined", GIVEN)
"""The policy acts on what the model predicts; the model is given the simulator's actions."""
FEWEST = 5
"""Falls without which there is nothing to say."""
UNITS = "tilt: degrees; velocity_error: m/s; horizon: control steps from the last known row to the fall"


class FallsConfig(Frozen):
    """Options of :func:`evaluate_falls`."""

    policy: str
    """Name of a shipped policy, or the path of a policy file."""
    action_noise: float | None = Field(None, ge=0)
    """Standard deviation of normal noise on every action; what the policy file says when None."""
    robots: int = Field(256, ge=2)
    """Robots side by side."""
    rounds: int = Field(4, ge=1)
    """Most simulations of every scenario, each as long as an episode can be."""
    enough: int = Field(100, ge=1)
    """Falls in a scenario after which it is not simulated again."""
    others: int = Field(4, ge=1)
    """Windows of walks that go on for each fall."""
    tilt_deg: float = Field(60.0, gt=0, lt=180)
    """A base predicted to tilt further has fallen."""
    resamples: int = Field(300, ge=20)
    """Bootstrap resamples behind the intervals."""
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Simulated:
    """Every simulated episode, and the windows by lead."""

    episodes: pl.DataFrame
    windows: Mapping[int, Windows]

    def foreseeable(self, lead: int) -> int:
        """Return how many falls have history enough and follow no push that it does not show."""
        return len(self.windows[lead].about.filter("fall", ~pl.col("pushed")))

    @property
    def main_lead(self) -> int:
        """The lead that the verdict and the figure's single falls are about."""
        return MAIN_LEAD if self.foreseeable(MAIN_LEAD) >= FEWEST else TRUE_LEAD


def evaluate_falls(home: Home, checkpoint: Checkpoint, config: FallsConfig, progress: Progress = silent) -> Run:
    """Let a policy walk in the simulator until it falls, and ask a model from some steps before what will happen.

    Writes into the new ``eval`` run: ``summary.json`` with a ``verdict`` in words, ``falls.parquet`` (a row for each
    window, lead and mode), ``true_states.parquet`` (what the model says when shown the truth) and ``falls.png``.

    Raises:
        RwmError: The policy is not one trained policy of this robot, hardly falls, or a prediction is not finite.
    """
    model = load_model(checkpoint.file, resolve_device(config.device))
    if model.info is None:
        raise RwmError(f"Model {checkpoint.id} does not say of which robot it is.", "rwm fit")
    robot = load_robot(model.info.robot)
    parents = parents_of(home, config.policy) | {"model": checkpoint.id}
    run = start_evaluation(home, "falls", config, parents, config.seed)
    with run.running():
        simulated = walk(config, robot, model.config.history, progress)
        refuse_few(simulated, config)
        schema, forecasts = Schema.from_robot(robot), go_on(model, robot, simulated, config)
        table = pl.concat(
            [
                score_table(simulated.windows[lead], made, mode, schema, model.normalizer)
                for (lead, mode), made in forecasts.items()
            ]
        )
        late = simulated.windows[TRUE_LEAD]
        heads = true_state_table(late, teacher_forced(model, late, schema), schema)
        commit_file(run.path / "falls.parquet", table.write_parquet)
        commit_file(run.path / "true_states.parquet", heads.write_parquet)
        numbers = scalars(table, heads, simulated, config)
        lead = simulated.main_lead
        shown = {mode: forecasts[lead, mode] for mode in MODES}
        draw(run.path / "falls.png", robot, numbers, table, simulated.windows[lead], shown)
        gaps = missing(model.config.members, table, simulated)
        counts = {"verdict": verdict(numbers, lead), "episodes": len(simulated.episodes), "not_computed": gaps}
        finish_evaluation(run, robot.name, numbers, UNITS, **counts, falls=falls_of(simulated.episodes))
    return run


def go_on(
    model: DynamicsEnsemble, robot: RobotSpec, simulated: Simulated, config: FallsConfig
) -> dict[tuple[int, str], Forecast]:
    """Return what the model predicts from the windows of each lead, in each of ``MODES``."""
    forecasts, schema = {}, Schema.from_robot(robot)
    for lead, windows in simulated.windows.items():
        for mode in MODES if len(windows.rows) else ():
            behaviour = behaviour_of(config, robot, len(windows.rows))
            forecasts[lead, mode] = forecast(model, behaviour, windows, schema, given=mode == GIVEN)
    return forecasts


def walk(config: FallsConfig, robot: RobotSpec, history: int, progress: Progress) -> Simulated:
    """Simulate every scenario until there are falls enough, and cut the windows."""
    parts: dict[int, list[Windows]] = {lead: [] for lead in LEADS}
    episodes: list[pl.DataFrame] = []
    rng, before = np.random.default_rng(config.seed), 0
    for scenario in SCENARIOS:
        fell = 0
        for round_ in range(config.rounds):
            behaviour = behaviour_of(config, robot, config.robots)
            walks = simulate(robot, behaviour, scenario, config.seed + 1000 * round_, progress)
            for lead, of_lead in parts.items():
                of_lead.append(cut(walks, history, lead, config.others, scenario, before, rng))
            episodes.append(walks.episodes.with_columns(scenario=pl.lit(scenario)))
            before, fell = before + len(walks.episodes), fell + int(walks.episodes["fell"].sum())
            if fell >= config.enough:
                break
    return Simulated(pl.concat(episodes, how="diagonal"), {lead: joined(of_lead) for lead, of_lead in parts.items()})


def behaviour_of(config: FallsConfig, robot: RobotSpec, count: int) -> Behaviour:
    """Return the policy for ``count`` robots.

    Raises:
        RwmError: It is none that acts on one observation, or a mixture.
    """
    context = BehaviourContext(robot, count, torch.Generator().manual_seed(config.seed))
    behaviour = make_behaviour(config.policy, context, config.action_noise)
    base = behaviour.base if isinstance(behaviour, Noisy) else behaviour
    if not isinstance(base, PolicyBehaviour):
        fault = f"'{config.policy}' is not one trained policy, which could act on what a model predicts"
        raise RwmError(f"{fault}.", "--policy medium")
    return behaviour


def refuse_few(simulated: Simulated, config: FallsConfig) -> None:
    """Refuse to go on with fewer than ``FEWEST`` falls that have history enough.

    Raises:
        RwmError: There are fewer.
    """
    falls = simulated.foreseeable(TRUE_LEAD)
    if falls < FEWEST:
        raise RwmError(
            f"Only {falls} falls in {len(simulated.episodes)} episodes come late enough for a history; "
            f"at least {FEWEST} are needed.",
            f"a worse policy, --action-noise 0.5, or more than --robots {config.robots}",
        )


def scalars(table: pl.DataFrame, heads: pl.DataFrame, simulated: Simulated, config: FallsConfig) -> list[Scalar]:
    """Return the numbers of every lead and mode that has ``FEWEST`` falls, and those of true states."""
    numbers = []
    for (lead, mode), part in table.group_by("lead", "mode", maintain_order=True):
        falls = part.filter("fall")
        pushed = share(falls["pushed"].to_numpy())
        if mode == GIVEN:
            numbers.append(Interval(pushed).scalar("pushed_after_window", horizon=lead))
        falls = with_causes(falls.filter(~pl.col("pushed")), heads)
        if len(falls) < FEWEST:
            continue
        numbers += scalars_of(mode, score_intervals(part, config.tilt_deg, config.seed, config.resamples), lead)
        numbers += cause_numbers(falls, mode, lead, config.tilt_deg)
        if (lead, mode) == (simulated.main_lead, GIVEN):
            numbers += parameter_numbers(simulated.episodes, falls, config.tilt_deg)
    numbers += head_numbers(heads, config.seed, config.resamples)
    return numbers + scalars_of("true_states", contact_numbers(heads.filter("fall")))


def falls_of(episodes: pl.DataFrame) -> dict[str, int]:
    """Return how many episodes of each scenario ended in a fall."""
    return {scenario: len(episodes.filter("fell", scenario=scenario)) for scenario in SCENARIOS}


def missing(members: int, table: pl.DataFrame, simulated: Simulated) -> list[str]:
    """Return in words what could not be computed."""
    gaps = [] if members > 1 else [f"epistemic uncertainty: {no_disagreement(members)} (rwm fit --members 5)"]
    for lead in LEADS:
        part = table.filter(pl.col("lead") == lead, pl.col("mode") == GIVEN)
        falls, others = len(part.filter("fall", ~pl.col("pushed"))), len(part.filter(~pl.col("fall")))
        if falls < FEWEST:
            gaps.append(f"{lead} steps ahead: {falls} falls have history enough (--robots, --rounds)")
        elif others < falls:
            gaps.append(f"{lead} steps ahead: only {others} windows of walks that go on beside {falls} of falls")
    if not any("friction" in name for name in simulated.episodes.columns):
        gaps.append("falls by friction: the simulator does not vary it")
    return gaps
