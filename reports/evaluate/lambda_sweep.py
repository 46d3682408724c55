"""How much penalty is right? Policies of one model by lambda, in imagination and in the simulator (RWM-U, Figure 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from pydantic import Field

from reports.evaluate.policy_score import PolicyScoreConfig, Scenario, evaluate_policy
from reports.evaluate.ranking import spearman
from reports.evaluate.statistics import Interval, seeds_interval
from reports.evaluate.summary import finish_evaluation, start_evaluation
from reports.figures import BLUE, GREEN, GREY, ORANGE, figure
from rwmdata.atomic import commit_file
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary, Scalar
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Checkpoint, Run
from rwmdata.text import quoted
from rwmrl.judge import JudgeConfig, judge_of
from rwmrl.policy_config import PolicyConfig
from rwmrl.policy_file import load_policy

SCENARIO: Scenario = "disturbed"
"""The simulator's scenario that imagination is compared with: it has pushes and observation noise too."""
SURE = 0.95
"""A lambda is called best when it is in so many of the resamples."""
RESAMPLES = 10_000
SIMULATED = {
    "simulated_reward": "return",
    "simulated_reward_undisturbed": "return",
    "share_without_fall": "share_without_fall",
    "lin_vel_error": "lin_vel_error",
}
"""Columns of the table taken from a policy's score, and what they are called there."""

RANKED = {"imagined_reward": 1, "judged_reward": 1, "judged_share_without_fall": 1, "judged_tilted": -1,
          "judged_epistemic": -1}  # fmt: skip
"""Numbers that may rank policies, and whether more is better."""


class LambdaSweepConfig(Frozen):
    """Options of :func:`evaluate_lambda_sweep`."""

    episodes: int = Field(128, ge=2)
    """Episodes per policy and scenario."""
    seed: int = 0
    judge: str | None = None
    """Model run that the policies were not trained in: what it thinks of them is held against the simulator."""
    judging: JudgeConfig = JudgeConfig()


def evaluate_lambda_sweep(
    home: Home, checkpoint: Checkpoint, config: LambdaSweepConfig | None = None, progress: Progress = silent
) -> Run:
    """Score every policy of the newest sweep in a model, and compare what it imagined with what it earns.

    Policies that were scored with the same options are not scored again. Writes into the new ``eval`` run:
    ``summary.json``, ``lambda_sweep.parquet`` (one row per policy) and ``lambda_sweep.png``. Rewards are means a step:
    imagined ones of the policy without exploration, with and without the penalty; the simulated one is the episode's
    return over its longest length, so that nothing counts after a fall. The exploitation gap is the imagined reward
    without penalty minus the simulated one.

    With a judge, the table holds what that model thinks of every policy (:class:`~rwmrl.judge.Judgement`), and the
    summary how well it ranks them, see :func:`ranking`.

    Raises:
        RwmError: The model has no finished policies of two lambdas that are alike otherwise.
    """
    config = config or LambdaSweepConfig()
    runs = sweep_of(home, checkpoint.id)
    lams = {r.meta.config["imagination"]["lam"] for r in runs}
    if len(lams) < 2:
        raise RwmError(
            f"Model {checkpoint.id} has no finished policies of several lambdas that are alike otherwise.",
            f"rwm sweep policy --model {quoted(checkpoint.id)} --lam 0,0.2,0.5,1,2,5 --seeds 3",
        )
    robot = str(runs[0].meta.summary["robot"])
    judge = None
    if config.judge:
        dataset, cpu = home.dataset(checkpoint.parent("dataset")), torch.device("cpu")
        judge = judge_of(home, checkpoint, dataset, load_robot(robot), config.judge, config.judging, cpu)
    parents = {"dataset": checkpoint.parent("dataset"), "model": checkpoint.id}
    run = start_evaluation(home, "lambda-sweep", config, parents, config.seed)
    with run.running():
        rows = []
        for k, policy in enumerate(runs):
            rows.append(row_of(policy, score_of(home, policy, config)))
            if judge:
                rows[-1] |= judge.of_policy(load_policy(policy.policy_file)).means()
            progress(k + 1, len(runs), {"lambda": rows[-1]["lam"], "reward": rows[-1]["simulated_reward"]})
        table = pl.DataFrame(rows).sort("lam", "seed")
        verdict = best_lambda(table, config.seed)
        commit_file(run.path / "lambda_sweep.parquet", table.write_parquet)
        draw(run.path / "lambda_sweep.png", table, verdict, robot, config.episodes)
        units = "rewards: a step; share_without_fall: of episodes; lin_vel_error: m/s; the mode is the lambda"
        about = {"policies": [r.id for r in runs], "episodes": config.episodes, "scenario": SCENARIO}
        numbers = scalars(table) + (ranking(table) if judge else [])
        finish_evaluation(run, robot, numbers, units, **about, **verdict._asdict())
    return run


def sweep_of(home: Home, model: str) -> list[Run]:
    """Return the finished policies of a model that are like its newest but for lambda and seed, each pair's newest.

    Where they began does not count: every seed has a clone of its own.
    """
    newest: dict[tuple[float, int], Run] = {}
    wanted: dict[str, object] | None = None
    for run in home.runs("policy"):
        if run.meta.parents.get("model") != model or run.meta.status != "finished":
            continue
        config = run.configuration(PolicyConfig)
        alike = config.model_dump(
            exclude={"warm_start": True, "seed": True, "device": True, "wandb": True, "imagination": {"lam", "seed"}}
        )
        alike["warm"] = config.warm_start is not None
        wanted = wanted or alike
        if alike == wanted:
            newest.setdefault((config.imagination.lam, config.seed), run)
    return list(newest.values())


def ranking(table: pl.DataFrame) -> list[Scalar]:
    """Return how well numbers that need no simulator rank policies by their simulated reward.

    Spearman's correlation over all policies, and the regret: how much less than the best policy the one with the
    highest number earns, as a share of what the best earns. The mode names the number.
    """
    truth, numbers = table["simulated_reward"].to_numpy(), []
    for name, sign in RANKED.items():
        values = sign * table[name].to_numpy()
        regret = (truth.max() - truth[values.argmax()]) / abs(truth.max())
        numbers += [Interval(spearman(values, truth)).scalar("spearman", name)]
        numbers += [Interval(float(regret)).scalar("regret", name)]
    return numbers


def score_of(home: Home, policy: Run, config: LambdaSweepConfig) -> EvaluationSummary:
    """Return the score of a policy: that of an earlier evaluation with the same options, else a new one."""
    file, robot = str(policy.policy_file), str(policy.meta.summary["robot"])
    wanted = PolicyScoreConfig(policy=file, robot=robot, episodes=config.episodes, seed=config.seed)
    same = {"evaluation": "policy", "episodes": wanted.episodes, "seed": wanted.seed, "backend": wanted.backend}
    for run in home.runs("eval"):
        is_same = all(run.meta.config.get(k) == v for k, v in same.items())
        if is_same and run.meta.parents.get("policy") == policy.id and run.meta.status == "finished":
            return EvaluationSummary.of_run(run)
    return EvaluationSummary.of_run(evaluate_policy(home, wanted))


def row_of(policy: Run, score: EvaluationSummary) -> dict[str, Any]:
    """Return a policy's row: lambda, seed, run, rewards, gap, falls and tracking."""
    robot = load_robot(score.robot)
    longest = robot.episode_length_s / robot.control_dt_s
    simulated: dict[str, Any] = {}
    for name, metric in SIMULATED.items():
        value = score.value(metric, "undisturbed" if name.endswith("_undisturbed") else SCENARIO)
        simulated[name] = None if value is None else value / (longest if metric == "return" else 1.0)
    reward, penalised = (policy.meta.summary[f"{name}_after"] for name in ("imagined_reward", "penalised_reward"))
    about = {"lam": policy.meta.config["imagination"]["lam"], "seed": policy.meta.seed, "policy": policy.id}
    imagined = {"imagined_reward": reward, "imagined_penalised_reward": penalised}
    return {**about, **imagined, "exploitation_gap": reward - simulated["simulated_reward"], **simulated}


class BestLambda(NamedTuple):
    """Which lambda earns most in the simulator, and how sure that is."""

    best_lam: float
    """The lambda of the highest mean."""
    best_share: float | None
    """In how large a share of the resamples it is best; None with a single seed."""
    lam_low: float
    """Lower end of the middle 95 % of the resamples' best lambdas, likewise ``lam_high``."""
    lam_high: float
    verdict: str
    """The same in words."""


def best_lambda(table: pl.DataFrame, seed: int = 0) -> BestLambda:
    """Return which lambda earns most in the simulator; seeds are resampled within every lambda.

    ``table`` has ``lam`` and ``simulated_reward``, a row per policy.
    """
    groups = {key[0]: part["simulated_reward"].to_numpy() for key, part in table.group_by("lam")}
    lams = np.array(sorted(groups))
    rng, fewest = np.random.default_rng(seed), min(len(v) for v in groups.values())
    means = np.stack([rng.choice(groups[x], (RESAMPLES, len(groups[x]))).mean(axis=1) for x in lams])
    winners = lams[means.argmax(axis=0)]
    best = float(lams[np.argmax([groups[x].mean() for x in lams])])
    share = float((winners == best).mean())
    low, high = np.quantile(winners, [0.025, 0.975], method="nearest")
    if fewest < 2:
        share, low, high = float("nan"), lams[0], lams[-1]
        words = f"lambda {best:g} earned most, but with one seed nothing can be told"
    elif share >= SURE:
        words = f"lambda {best:g} earns most ({100 * share:.0f} % of resamples)"
    else:
        words = f"the sweep cannot tell: lambda {best:g} earns most in {100 * share:.0f} % of resamples only"
    return BestLambda(best, share if np.isfinite(share) else None, float(low), float(high), words)


def gains(table: pl.DataFrame) -> list[Scalar]:
    """Return how much more every lambda earns in the simulator than lambda 0, and how much more often it stays up.

    Differences are of policies of one seed, which begin alike; means over seeds with 95 % intervals (Student's t).
    """
    free = table.filter(pl.col("lam") == 0)
    found: list[Scalar] = []
    for (lam,), part in table.filter(pl.col("lam") > 0).group_by("lam", maintain_order=True):
        pairs = part.join(free, on="seed", suffix="_free")
        for name in ("simulated_reward", "share_without_fall") if len(pairs) else ():
            difference = (pairs[name] - pairs[f"{name}_free"]).to_list()
            found.append(seeds_interval(difference).scalar(f"{name}_over_lam_0", f"lam_{lam:g}"))
    return found


def scalars(table: pl.DataFrame) -> list[Scalar]:
    """Return the mean over seeds of every column and lambda with its 95 % interval (Student's t)."""
    return gains(table) + [
        seeds_interval(part[name].to_list()).scalar(name, f"lam_{lam:g}")
        for (lam,), part in table.group_by("lam", maintain_order=True)
        for name in table.columns[3:]
    ]


def draw(path: Path, table: pl.DataFrame, best: BestLambda, robot: str, episodes: int) -> None:
    """Draw rewards, what the penalty takes, and falls and tracking over lambda: every seed a point, lines the means."""
    lams = table["lam"].unique().sort().to_list()
    place = {lam: k for k, lam in enumerate(lams)}
    x = np.array([place[lam] for lam in table["lam"]])

    def series(ax: Axes, name: str, colour: str, label: str, style: str = "-", scale: float = 1.0) -> None:
        values = scale * table[name].to_numpy()
        ax.plot(x, values, "o", color=colour, alpha=0.4, markersize=6)
        ax.plot(range(len(lams)), [values[x == k].mean() for k in range(len(lams))], style, color=colour, label=label)

    with figure(path, 1, 3, (21, 6.5)) as axes:
        rewards, penalised, falls = axes[0]
        series(rewards, "imagined_reward", BLUE, "imagined, before the penalty")
        series(rewards, "simulated_reward", ORANGE, "simulated, disturbed")
        series(rewards, "simulated_reward_undisturbed", GREEN, "simulated, undisturbed")
        rewards.set(ylabel="reward a step", title=best.verdict[:1].upper() + best.verdict[1:])
        rewards.title.set_fontsize(12)
        series(penalised, "imagined_reward", BLUE, "imagined, before the penalty")
        series(penalised, "imagined_penalised_reward", BLUE, "imagined, after the penalty", "--")
        penalised.set(ylabel="reward a step", title=f"{robot}: {len(table)} policies, {episodes} episodes each")
        penalised.title.set_fontsize(12)
        series(falls, "share_without_fall", ORANGE, "episodes without a fall, disturbed", scale=100.0)
        falls.set(ylabel="episodes without a fall (%)", ylim=(0, 103))
        tracking = falls.twinx()
        tracking.spines["right"].set_visible(True)
        tracking.grid(visible=False)
        series(tracking, "lin_vel_error", GREY, "velocity error, disturbed", "--")
        tracking.set(ylabel="velocity error (m/s)", ylim=(0, 1.25 * float(np.max(table["lin_vel_error"].to_numpy()))))
        for ax in (rewards, penalised, falls):
            ax.set_xticks(range(len(lams)), [f"{lam:g}" for lam in lams])
            ax.set_xlabel("penalty weight lambda")
        for ax in (rewards, penalised):
            ax.legend(fontsize=11, loc="lower left")
        lines = [*falls.get_legend_handles_labels()[0], *tracking.get_legend_handles_labels()[0]]
        falls.legend(lines, [str(line.get_label()) for line in lines], fontsize=11, loc="lower left")
