"""``rwm visualize``: robots in the simulator, or a recorded one, beside their imagined twins (task Visualize-v0)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from reports.evaluate.model_evaluation import no_disagreement
from reports.evaluate.policy_score import parents_of
from reports.evaluate.rollouts import HORIZONS
from reports.evaluate.statistics import Interval, ratio_up_to
from reports.evaluate.summary import finish_evaluation, start_evaluation
from reports.visualize.pictures import animation_steps, draw_filmstrip, draw_traces, write_animation, write_table
from reports.visualize.recording import record_robots, recorded_episode
from reports.visualize.scene import Scene, make_scene
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Checkpoint, Run
from rwmdata.text import quoted
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.matching import refuse_mismatch
from rwmrl.backends import make_env
from rwmrl.behaviour_base import Behaviour, BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.envs.base import EnvOptions, VecEnv

TASK = "Visualize-v0"
DEFAULT_ROBOT = "anymal_d"
UNITS = (
    "rel_l1: share of the real state's magnitude, normalised space, all steps up to the horizon; epistemic: sum of "
    "normalised standard deviations; position_error: m, yaw_error: rad, at the horizon, positions integrated; "
    "integrated_..._error: largest error of the real robots' integrated poses against the simulator's, m and rad"
)


class SimulatedViewConfig(Frozen):
    """Options of :func:`visualize_policy`."""

    policy: str
    """Behaviour name, or the path of a policy file."""
    robot: str | None = None
    """The model's when None."""
    backend: str = "auto"
    robots: int = Field(4, ge=1, le=256)
    """Robots side by side, each under its own command."""
    settle: int = Field(50, ge=0, le=20_000)
    """Control steps before the history begins."""
    steps: int = Field(200, ge=1, le=20_000)
    """Control steps imagined."""
    resync: int | None = Field(None, ge=1)
    """Control steps after which the twin is given the real robot's history again; None only at the start."""
    overlay: bool = False
    """Draw the twin in the real robot's place and not beside it."""
    seed: int = 0
    device: str = "auto"


class RecordedViewConfig(Frozen):
    """Options of :func:`visualize_episode`."""

    episode: int = Field(0, ge=0)
    """Number of the episode in the dataset."""
    steps: int | None = Field(None, ge=1)
    """Control steps imagined; to the episode's end when None."""
    resync: int | None = Field(None, ge=1)
    """Control steps after which the twin is given the recorded history again; None only at the start."""
    overlay: bool = False
    """Draw the twin in the real robot's place and not beside it."""
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Prepared:
    """What acts in a simulated scene, and the model that imagines it."""

    robot: RobotSpec
    behaviour: Behaviour
    env: VecEnv
    model: DynamicsEnsemble | None


def prepare(checkpoint: Checkpoint | None, config: SimulatedViewConfig) -> Prepared:
    """Open all that a simulated scene needs; its environment is to be closed.

    Raises:
        RwmError: Unknown robot, backend or policy, or one of another robot or control rate than the model's.
    """
    model = None if checkpoint is None else load_model(checkpoint.file, resolve_device(config.device))
    info = model.info if model else None
    if checkpoint is not None and info is None:
        raise RwmError(f"Model {checkpoint.id} does not say of which robot it is.", "rwm fit")
    robot = load_robot(config.robot or (info.robot if info else DEFAULT_ROBOT))
    if info and checkpoint and info.robot != robot.name:
        fault = f"Model {checkpoint.id} is of robot {info.robot}, not of {robot.name}"
        raise RwmError(f"{fault}.", f"--robot {quoted(info.robot)}, another --model, or --no-twin")
    generator = torch.Generator().manual_seed(config.seed)
    behaviour = make_behaviour(config.policy, BehaviourContext(robot, config.robots, generator))
    env = make_env(config.backend, robot, EnvOptions(task=TASK, num_envs=config.robots, seed=config.seed))
    if info and not np.isclose(info.control_hz * env.control_dt_s, 1):
        rates = f"{info.control_hz:g} rows a second and the simulator {1 / env.control_dt_s:g}"
        env.close()
        raise RwmError(f"The model has {rates}.", "a model of data from this simulator")
    return Prepared(robot, behaviour, env, model)


def simulated_scene(
    checkpoint: Checkpoint | None, config: SimulatedViewConfig, progress: Progress = silent
) -> tuple[Scene, DynamicsEnsemble | None]:
    """Let a policy act in a simulator, imagine the robots' twins, and return both with the model.

    Raises:
        RwmError: As :func:`prepare`, all episodes are too short for a twin, or a prediction is not finite.
    """
    return _simulate(prepare(checkpoint, config), config, progress)


def _simulate(
    prepared: Prepared, config: SimulatedViewConfig, progress: Progress
) -> tuple[Scene, DynamicsEnsemble | None]:
    """Return the scene that was prepared, with the model; closes the simulator."""
    robot, behaviour, model = prepared.robot, prepared.behaviour, prepared.model
    history = model.config.history if model else 0
    try:
        recording = record_robots(prepared.env, behaviour, history + config.steps, config.settle, progress)
    finally:
        prepared.env.close()
    title = f"{robot.title}, {behaviour.names()[0]}"
    return make_scene(title, robot, recording, model, config.resync), model


def recorded_scene(
    dataset: Dataset, checkpoint: Checkpoint | None, config: RecordedViewConfig, progress: Progress = silent
) -> tuple[Scene, DynamicsEnsemble | None]:
    """Read an episode, imagine its twin, and return both with the model.

    Raises:
        RwmError: No such episode, one no longer than the model's history, a model of another robot, or a prediction
            that is not finite.
    """
    model = None
    if checkpoint is not None:
        model = load_model(checkpoint.file, resolve_device(config.device))
        refuse_mismatch(dataset, checkpoint.id, model)
    history = model.config.history if model else 0
    rows = None if config.steps is None else history + config.steps
    recording = recorded_episode(dataset, config.episode, rows)
    if model and recording.rows.shape[1] <= history:
        lengths = dataset.episodes.length
        raise RwmError(
            f"Episode {config.episode} of '{dataset.name}' has {recording.rows.shape[1]} rows; the model needs its "
            f"history of {history} and one more.",
            f"--episode {int(lengths.argmax())} ({int(lengths.max())} rows), or --no-twin",
        )
    robot = load_robot(dataset.robot)
    behaviour = dataset.episodes.behaviour[config.episode]
    title = ", ".join([f"{robot.title}: {dataset.name} episode {config.episode}", *([behaviour] if behaviour else [])])
    return make_scene(title, robot, recording, model, config.resync, progress), model


def visualize_policy(
    home: Home, checkpoint: Checkpoint | None, config: SimulatedViewConfig, progress: Progress = silent
) -> Run:
    """Show a policy's robots in an undisturbed simulator beside their twins, which a model moves by the same actions.

    Writes into the new ``eval`` run: ``summary.json``, ``trace.parquet`` (every robot and step), ``twin.gif``,
    ``visualize_filmstrip.png`` and ``visualize_traces.png`` (of the robot of median error). Without a model the real
    robots alone are shown.

    Raises:
        RwmError: As :func:`prepare`, before there is a run, and :func:`simulated_scene`.
    """
    prepared = prepare(checkpoint, config)
    parents = parents_of(home, config.policy) | {"model": checkpoint.id if checkpoint else None}
    run = start_evaluation(home, "visualize", config, parents, config.seed)
    with run.running():
        scene, model = _simulate(prepared, config, progress)
        _finish(run, scene, model, config.overlay, robots=config.robots)
    return run


def visualize_episode(
    home: Home, dataset: Dataset, checkpoint: Checkpoint | None, config: RecordedViewConfig, progress: Progress = silent
) -> Run:
    """Show a recorded episode beside its imagined twin; files as of :func:`visualize_policy`.

    Raises:
        RwmError: As :func:`recorded_scene`, before there is a run.
    """
    scene, model = recorded_scene(dataset, checkpoint, config, progress)
    parents = {"dataset": home.name_of(dataset), "model": checkpoint.id if checkpoint else None}
    run = start_evaluation(home, "visualize", config, parents, config.seed)
    with run.running():
        _finish(run, scene, model, config.overlay, episode=config.episode)
    return run


def model_of(home: Home, dataset: Dataset) -> Checkpoint | None:
    """Return the newest finished model that was fitted on a dataset; None where there is none."""
    fits = (r for r in home.runs("model") if r.meta.status == "finished" and r.meta.parents.get("dataset"))
    name = home.name_of(dataset)
    return next((run.checkpoint for run in fits if run.meta.parents["dataset"] == name), None)


def scalars(scene: Scene) -> list[Scalar]:
    """Return the twins' numbers by horizon, those of the state held beside them, and errors of integrated poses."""
    largest = (scene.integration_error() or {}).items()
    numbers = [Interval(value).scalar(f"integrated_{what}_error", "real") for what, value in largest]
    if scene.twin is None:
        return numbers
    distance, yaw = scene.drift()
    parts, longest = scene.twin.parts, max(part.steps for part in scene.twin.parts)
    for h in (h for h in HORIZONS if h <= longest):
        long = [part for part in parts if part.steps >= h]
        magnitude = np.stack([part.magnitude[:h] for part in long])
        errors = {"twin": [p.error[:h] for p in long], "hold_last": [p.held_error[:h] for p in long]}
        for mode, error in errors.items():
            interval = ratio_up_to(h, np.stack(error), magnitude)
            alone = Interval(interval.value) if len(long) == 1 else interval
            numbers.append(alone.scalar("rel_l1", mode, h))
        at = scene.twin.since == h
        named = {"position_error": distance, "yaw_error": yaw}
        named |= {"epistemic": scene.twin.epistemic} if scene.twin.disagrees else {}
        numbers += [Interval(float(values[at].mean())).scalar(name, "twin", h) for name, values in named.items()]
    return numbers


def _finish(run: Run, scene: Scene, model: DynamicsEnsemble | None, overlay: bool, **more: object) -> None:
    """Write the files and finish the run; a picture that cannot be drawn here is said in ``not_computed``."""
    robot, missing = scene.middling, []
    write_table(run.path / "trace.parquet", scene)
    draw_traces(run.path / "visualize_traces.png", scene, robot)
    facts: dict[str, object] = {"history": model.config.history if model else None, "drawn_robot": robot}
    facts |= {"steps": scene.recording.rows.shape[1], "episodes": int(scene.recording.begins.sum())}
    if scene.shapes is None:
        missing.append(f"pictures: robot {scene.robot.name} has no MJCF to draw")
    else:
        try:
            facts["frames"] = frames = write_animation(run.path / "twin.gif", scene, overlay)
            if len(animation_steps(scene)) > frames:
                missing.append(f"the animated picture after {frames} frames; trace.parquet has all steps")
            draw_filmstrip(run.path / "visualize_filmstrip.png", scene, robot)
        except RwmError as exc:
            missing.append(f"pictures: {exc}")
    if model is None:
        missing.append("twin: shown without a model")
    elif scene.twin is not None and not scene.twin.disagrees:
        missing.append(f"epistemic uncertainty: {no_disagreement(model.config.members)}")
    if missing:
        facts["not_computed"] = missing
    finish_evaluation(run, scene.robot.name, scalars(scene), UNITS, **more, **facts)
