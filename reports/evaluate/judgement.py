"""What does a model that a policy was not trained in think of it? The simulator's questions, asked without one."""

from __future__ import annotations

import torch

from reports.evaluate.policy_score import parents_of
from reports.evaluate.statistics import mean_interval, scalars_of
from reports.evaluate.summary import finish_evaluation, start_evaluation
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Checkpoint, Run
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmrl.behaviour_base import BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.judge import Judge, JudgeConfig

UNITS = (
    "reward: unpenalised, a step, 0 after a fall; share_without_fall: of imagined episodes; tilted: share of states "
    "tilted beyond 30 degrees; epistemic: a step"
)


class JudgementConfig(JudgeConfig):
    """Options of :func:`evaluate_judgement`."""

    policy: str
    """Behaviour name, or the path of a policy file."""
    device: str = "auto"


def evaluate_judgement(
    home: Home, dataset: Dataset, checkpoint: Checkpoint, config: JudgementConfig, progress: Progress = silent
) -> Run:
    """Let a policy walk in a model from a dataset's starts, with pushes and noise, and score it.

    Writes ``summary.json`` into a new ``eval`` run: the means over imagined episodes of what
    :class:`~rwmrl.judge.Judgement` holds, each with a bootstrap interval over episodes (it does not hold the error of
    the model). ``own_model`` says whether the policy was trained in this very model; then they flatter it.

    Raises:
        RwmError: Model, dataset and policy are not of one robot, or there is no such policy.
    """
    robot, model = load_robot(dataset.robot), load_model(checkpoint.file, resolve_device(config.device))
    if model.info is not None and model.info.robot != dataset.robot:
        fault = f"Model {checkpoint.id} is of '{model.info.robot}', dataset '{dataset.name}' of '{dataset.robot}'"
        raise RwmError(f"{fault}.", "--model MODEL")
    parents = {**parents_of(home, config.policy), "dataset": home.name_of(dataset)}
    own = parents.get("model") == checkpoint.id
    run = start_evaluation(home, "judgement", config, {**parents, "model": checkpoint.id}, config.seed)
    with run.running():
        judge = Judge(model, dataset, robot, config)
        # A generator of its own, on the processor: behaviours draw there, and must not change what the judge draws.
        context = BehaviourContext(robot, config.episodes, torch.Generator().manual_seed(config.seed))
        judged = judge(make_behaviour(config.policy, context, 0.0), progress)
        numbers = {"reward": judged.reward, "share_without_fall": 1 - judged.fell}
        numbers |= {"tilted": judged.tilted, "epistemic": judged.epistemic}
        scalars = scalars_of("imagined", {name: mean_interval(values) for name, values in numbers.items()})
        finish_evaluation(run, robot.name, scalars, UNITS, episodes=config.episodes, steps=config.steps, own_model=own)
    return run
