"""Offline training: a policy trained inside the model alone (MOPO-PPO, arXiv:2504.16680)."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import torch

from rwmdata.atomic import commit_file
from rwmdata.catalog import Dataset
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Checkpoint, Run
from rwmdata.text import quoted
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import RESUMED_ELSEWHERE, require_precision, resolve_device, use_precision
from rwmmodel.distributed import Ranks
from rwmmodel.ensemble import Architecture
from rwmmodel.fastest import settled
from rwmrl.behaviours import PolicyBehaviour
from rwmrl.cloning import CloningConfig, clone_behaviour
from rwmrl.control_loop import play
from rwmrl.envs.imagination import ImaginationEnv
from rwmrl.judge import Judge, judge_of
from rwmrl.policy_config import CLONE, PolicyConfig
from rwmrl.policy_file import load_policy, save_policy
from rwmrl.policy_network import MlpPolicy
from rwmrl.ppo import Runner

SHOWN = ("imagined/reward", "imagined/epistemic", "episode/length")


def train_policy(
    home: Home,
    dataset: Dataset,
    checkpoint: Checkpoint,
    config: PolicyConfig | None = None,
    progress: Progress = silent,
    resume: Run | None = None,
) -> Run:
    """Train a policy inside a model.

    The run gets ``checkpoints/policy.safetensors`` (newest) and ``checkpoints/state.pt`` (what a resume starts from).

    Under torchrun all processes call this alike, and each imagines ``num_envs`` robots; see
    :mod:`rwmmodel.distributed`.

    Raises:
        RwmError: Model, dataset and robot do not fit together, or rsl-rl-lib is missing.
        KeyboardInterrupt: Passed on after the state was saved; the run can be resumed.
    """
    config = resume.configuration(PolicyConfig) if resume else config or build(PolicyConfig)
    ranks = Ranks.from_environment()
    device = ranks.device(resolve_device(config.device))
    if config.precision != "auto":
        require_precision(config.precision, device, *([RESUMED_ELSEWHERE] if resume else []))
    with ranks.joined(device):
        config = ranks.share(with_clone(home, dataset, config, progress) if ranks.main else config)
        model = load_model(checkpoint.file, device)
        if model.info is not None and model.info.robot != dataset.robot:
            robots = f"was fitted on '{model.info.robot}', dataset '{dataset.name}' is of '{dataset.robot}'"
            raise RwmError(f"Model {checkpoint.id} {robots}.", f"rwm fit {quoted(dataset.name)}")
        config = ranks.share(with_precision(config, model.config, device) if ranks.main else config)
        assert config.precision != "auto"
        model.precision = config.precision
        robot = load_robot(dataset.robot)
        own = config.imagination.model_copy(update={"seed": ranks.seed(config.imagination.seed)})
        source = home.policy(config.warm_start) if config.warm_start else None
        anchor = load_policy(source.file, robot) if source and own.anchor else None
        judge = None
        if config.judge:
            judge = judge_of(home, checkpoint, dataset, robot, config.judge, config.judging, device)
        use_precision(config.precision, device)  # After the models are loaded, each of which sets its own.
        env = ImaginationEnv(model, dataset, robot, own, anchor)
        parents = parents_of(home, dataset, checkpoint, config)
        if resume is None and ranks.main:
            resume = Run.create(home, "policy", config.model_dump(mode="json"), parents, config.seed)
        run = Run.open(ranks.share(resume.path if resume else Path()))
        with run.running() if ranks.main else nullcontext():
            precision = config.precision
            runner = Runner(env, config.ppo, run, robot, config.seed, progress, SHOWN, ranks, precision=precision)
            if source:
                runner.warm_start(source)
            before = imagined_reward(env, runner.policy())
            env.reset()
            runner.train(config.iterations)
            policy, verdict = runner.policy(), dict[str, Any]()
            if judge and ranks.main:
                policy, verdict = choose_stage(run, judge, progress)
            after = imagined_reward(env, policy)
            if ranks.main:
                run.finish(_summary(run, config, dataset.robot, before, after) | verdict)
        return Run.open(ranks.share(run.path))


def choose_stage(run: Run, judge: Judge, progress: Progress = silent) -> tuple[MlpPolicy, dict[str, Any]]:
    """Make the stage of a run that the judge gives the highest reward its policy; return it and what was judged.

    Every stage's judgement is kept in ``judged.parquet``.
    """
    rows: list[dict[str, Any]] = []
    for k, file in enumerate(files := run.stage_files()):
        rows.append({"iteration": int(file.stem.split("-")[-1]), **judge.of_policy(load_policy(file)).means()})
        progress(k + 1, len(files), {"judged": rows[-1]["judged_reward"]})
    commit_file(run.path / "judged.parquet", pl.DataFrame(rows).write_parquet)
    best = max(range(len(rows)), key=lambda k: rows[k]["judged_reward"])
    policy = load_policy(files[best])
    save_policy(policy, run.policy_file)
    return policy, {"chosen_iteration": rows[best].pop("iteration"), **rows[best]}


def with_clone(home: Home, dataset: Dataset, config: PolicyConfig, progress: Progress = silent) -> PolicyConfig:
    """Return the configuration with ``warm_start="bc"`` replaced by the run of the clone, which is made if need be."""
    if config.warm_start != CLONE:
        return config
    cloning = CloningConfig(hidden_dims=config.ppo.hidden_dims, seed=config.seed, device=config.device)
    run = home.run_of("policy", cloning, {"dataset": home.name_of(dataset)})
    if run is None or run.meta.status != "finished":
        run = clone_behaviour(home, dataset, cloning, progress, resume=run)
    return config.model_copy(update={"warm_start": run.id})


def with_precision(config: PolicyConfig, model: Architecture, device: torch.device) -> PolicyConfig:
    """Return the configuration with the arithmetic that is meant for a model that imagines all robots at a time."""
    robots = config.imagination.num_envs
    return config.model_copy(update={"precision": settled(config.precision, model, robots, device, learning=False)})


def parents_of(home: Home, dataset: Dataset, checkpoint: Checkpoint, config: PolicyConfig) -> dict[str, str | None]:
    """Return what a policy run is made from."""
    warm = {"policy": config.warm_start} if config.warm_start else {}
    judge = {"judge": config.judge} if config.judge else {}
    return {"dataset": home.name_of(dataset), "model": checkpoint.id, **warm, **judge}


def imagined_reward(env: ImaginationEnv, policy: MlpPolicy) -> tuple[float, float]:
    """Return the mean reward per step of a policy without exploration, before and after the penalty.

    Every call imagines one episode length from the same starts, commands, members and pushes, so that two policies are
    compared on the same episodes and with the whole penalty.
    """
    env.reseed()
    env.steps_done = env.config.lam_ramp_steps
    behaviour = PolicyBehaviour(policy.to(env.device).eval(), env.num_envs, "trained")
    reward = penalised = 0.0
    for played in play(env, behaviour, env.max_episode_length):
        reward += float(played.step.log["imagined/reward"]) / env.max_episode_length
        penalised += float(played.step.log["imagined/penalised_reward"]) / env.max_episode_length
    return reward, penalised


def _summary(
    run: Run, config: PolicyConfig, robot: str, before: tuple[float, float], after: tuple[float, float]
) -> dict[str, Any]:
    metrics = run.series()
    last = {name: values[-1] for name, values in metrics.items()}
    return {
        "robot": robot,
        "lam": config.imagination.lam,
        "iterations": config.iterations,
        "imagined_reward_before": before[0],
        "imagined_reward_after": after[0],
        "penalised_reward_before": before[1],
        "penalised_reward_after": after[1],
        "mean_reward": last["imagined/reward"],
        "mean_penalised_reward": last["imagined/penalised_reward"],
        "epistemic": last["imagined/epistemic"],
        "episode_length": last.get("episode/length"),
        "unsound_predictions": sum(v or 0.0 for v in metrics["imagined/unsound_count"]),
        "steps_per_second": last["perf/steps_per_second"],
    }
