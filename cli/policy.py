"""``rwm policy`` and ``rwm sweep``: policies trained inside a model, or on a dataset alone; ``rwm export-policy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import (
    Call,
    DeviceOption,
    FittedArgument,
    ModelOption,
    SeedOption,
    SettingsOption,
    WandbOption,
    command,
    imported,
    out,
    print_json,
    print_table,
)
from rwmdata.errors import RwmError
from rwmdata.text import quoted

ALGORITHMS = {
    "mopo": "rwmrl.policy_config:PolicyConfig",
    "mbpo": "rwmrl.policy_config:PolicyConfig",
    "bc": "rwmrl.cloning:CloningConfig",
    "cql": "rwmrl.offline_rl:OfflineRLConfig",
    "iql": "rwmrl.offline_rl:OfflineRLConfig",
}
"""Configuration class of every algorithm."""
IN_MODEL = ("mopo", "mbpo")
SHOWN = ("imagined_reward_after", "penalised_reward_after", "epistemic", "episode_length")
JUDGED = ("judged_reward", "judged_share_without_fall")
PolicyPresetOption = Annotated[str | None, typer.Option("--preset", help="smoke, demo, laptop or paper.")]
JudgeOption = Annotated[
    str | None,
    typer.Option("--judge", help="Another model, not trained in: the checkpoint that it scores highest is kept."),
]
IterationsOption = Annotated[int | None, typer.Option("--iterations", help="PPO iterations, or updates without PPO.")]

sweep_app = typer.Typer(help="Train many policies that differ in lambda and seed.", no_args_is_help=True)


def policy(
    call: Call,
    dataset: Annotated[
        str | None,
        typer.Argument(help="Dataset name or path; when left out the one the model was fitted on, else the newest."),
    ] = None,
    model: ModelOption = None,
    lam: Annotated[float | None, typer.Option(help="Penalty weight lambda; 0 is MBPO-PPO.")] = None,
    algo: Annotated[
        str,
        typer.Option(
            help="mopo (PPO in the model, penalised), mbpo (lambda 0); without a model: bc (cloning), cql, iql."
        ),
    ] = "mopo",
    rollout: Annotated[
        str | None, typer.Option(help="Which prediction is followed: that of one member, or the mean.")
    ] = None,
    penalty: Annotated[
        str | None, typer.Option(help="What lambda multiplies: epistemic, largest or calibrated.")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="Begin with the networks of this policy (run or file), of a clone of the data (bc), or none."
        ),
    ] = None,
    judge: JudgeOption = None,
    settings: SettingsOption = None,
    preset: PolicyPresetOption = None,
    iterations: IterationsOption = None,
    num_envs: Annotated[int | None, typer.Option(help="Imagined robots side by side.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto (the fastest here), float32, bfloat16, or tf32.")] = None,
    wandb: WandbOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Train a policy purely inside the model, rewards penalised by lambda * epistemic uncertainty.

    Or, to compare with: without the penalty (mbpo), or from the data alone, without a model: a clone of its behaviour
    (bc), or model-free offline reinforcement learning (cql, iql).
    """
    if algo not in ALGORITHMS:
        raise RwmError(f"Unknown algorithm '{algo}'; algorithms: {', '.join(ALGORITHMS)}.", "--algo mopo")
    refuse_unread(call, algo)
    if algo not in IN_MODEL:
        without_model(call, dataset, algo)
        return
    # Here, because the others do without its packages.
    from rwmrl.imagination_training import train_policy
    from rwmrl.policy_config import CLONE, NOTHING, PolicyConfig

    changes = judged_by(call, judge)
    if warm_start not in (None, CLONE, NOTHING):
        source_of_policy = call.home.policy(warm_start)
        call.say_assumptions(source_of_policy)
        changes["warm_start"] = source_of_policy.id
    under = {"lam": 0.0} if algo == "mbpo" else {}
    config = call.config(PolicyConfig, "dataset", "model", "algo", under=under, over=changes)
    if algo == "mbpo" and (weight := config.imagination.lam):
        raise RwmError(f"mbpo is mopo with lambda 0; lambda {weight:g} contradicts it.", "--algo mopo")
    checkpoint = call.model(model)
    source = call.fitted(dataset, checkpoint)
    result = call.work("policy", train_policy, call.home, source, checkpoint, config)
    call.show_run(result, f"rwm eval policy --policy {quoted(result.id)}")


def judged_by(call: Call, judge: str | None) -> dict[str, object]:
    """Return the option that names the judging model by its run."""
    return {"judge": call.model(judge).id} if judge else {}


def refuse_unread(call: Call, algo: str) -> None:
    """Refuse options that an algorithm does not read.

    Raises:
        RwmError: There is one; the algorithms that read it are named.
    """
    unread = {name: unread_by(call, name) for name in ALGORITHMS}
    for option in unread[algo]:
        readers = [name for name in ALGORITHMS if option not in unread[name]]
        raise RwmError(f"{algo} does not read {option}; {', '.join(readers)} do.", f"--algo {readers[0]}")


def unread_by(call: Call, algo: str) -> list[str]:
    """Return the given options that an algorithm does not read: its configuration has no such field."""
    beside = ("dataset", "algo", *(("model",) if algo in IN_MODEL else ("iterations",)))
    return call.unread(imported(ALGORITHMS[algo]), beside)


def without_model(call: Call, dataset: str | None, algo: str) -> None:
    """Train a policy on a dataset alone.

    Raises:
        RwmError: An option is unknown or not valid, or a package is missing.
    """
    from rwmdata.config import build, read_settings

    options = call.chosen("seed", "device", "wandb", updates="iterations")
    settings = read_settings(call.given.get("settings", ()))
    source = call.dataset(dataset)
    if algo == "bc":
        from rwmrl.cloning import CloningConfig, clone_behaviour

        cloning = build(CloningConfig, None, options, settings)
        result = call.work(algo, clone_behaviour, call.home, source, cloning)
    else:
        from rwmrl.offline_rl import OfflineRLConfig, train_offline_rl

        offline = build(OfflineRLConfig, algo, options, settings)
        result = call.work(algo, train_offline_rl, call.home, source, offline)
    call.show_run(result, f"rwm eval policy --policy {quoted(result.id)}")


@command(sweep_app, "policy", "rwmrl.sweep:SweepConfig", "rwmrl.policy_config:PolicyConfig")
def sweep(
    call: Call,
    dataset: FittedArgument = None,
    model: ModelOption = None,
    lam: Annotated[str | None, typer.Option(help="Penalty weights, with commas.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Policies of each weight, seeds 0, 1, ...")] = None,
    preset: PolicyPresetOption = None,
    iterations: IterationsOption = None,
    judge: JudgeOption = None,
    settings: SettingsOption = None,
    workers: Annotated[int | None, typer.Option(help="Policies trained at the same time.")] = None,
    engine: Annotated[str | None, typer.Option(help="local (processes) or ray (a cluster).")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster; one is started here when left out.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train a policy for every lambda and seed; finished ones are skipped, broken ones resumed."""
    from rwmrl.policy_config import PolicyConfig
    from rwmrl.sweep import SweepConfig, sweep_policies

    of_policy = ("preset", "iterations", "judge", "settings", "device")
    judging = judged_by(call, judge)
    config = call.config(SweepConfig, "dataset", "model", *of_policy)
    policies = [
        call.config(
            PolicyConfig, "dataset", "model", *SweepConfig.model_fields, over={"lam": weight, "seed": seed, **judging}
        )
        for weight in dict.fromkeys(config.lam)
        for seed in range(config.seeds)
    ]
    checkpoint = call.model(model)
    source = call.fitted(dataset, checkpoint)
    where = {"engine": config.engine, "workers": config.workers, "address": config.address}
    runs = call.work("sweep", sweep_policies, call.home, source, checkpoint, policies, **where)
    shown = (*SHOWN, *(JUDGED if judge else ()))
    rows = [
        {"lam": p.imagination.lam, "seed": p.seed, "run": r.id} | {k: r.meta.summary.get(k) for k in shown}
        for p, r in zip(policies, runs, strict=True)
    ]
    if call.json:
        print_json({"rows": rows})
        return
    title = f"{len(rows)} policies of model {checkpoint.id}"
    print_table(title, ("lam", "seed", "run", *shown), [(*r.values(),) for r in rows])
    best = quoted(max(rows, key=lambda r: r["judged_reward"])["run"]) if judge else "RUN"
    call.say(f"next: rwm eval policy --policy {best}{' (what the judge thinks most of)' if judge else ''}")


def import_policy(
    call: Call,
    file: Annotated[
        Path, typer.Argument(help="Checkpoint of rsl_rl or legged_gym, exported TorchScript or ONNX, or a policy file.")
    ],
    robot: Annotated[str | None, typer.Option(help="Robot name or folder it was trained on.")] = None,
    activation: Annotated[
        str | None,
        typer.Option(help="elu, relu or tanh; when left out that of params/agent.yaml beside the file, else elu."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="isaaclab, or legged_gym: joints leg by leg, and observations scaled."),
    ] = None,
) -> None:
    """Take in a policy that was trained elsewhere as a train run, which every --policy takes by its id."""
    from rwmdata.config import build
    from rwmrl.foreign_policy import Reading
    from rwmrl.policy_import import keep_policy

    reading = build(Reading, None, call.chosen("activation", "layout"))
    run = keep_policy(call.home, file, robot, reading)
    call.show_run(run, f"rwm eval policy --policy {quoted(run.id)}")


def export_policy(
    call: Call,
    policy: Annotated[
        str | None, typer.Argument(help="Policy file or run; the newest policy run when left out.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write into.")] = Path("deploy"),
    robot: Annotated[str | None, typer.Option(help="Robot name or folder; the policy's own when left out.")] = None,
) -> None:
    """Write a policy as ONNX, TorchScript and rsl_rl checkpoints, and a JSON of orders, scales, gains and rate."""
    from rwmrl.deploy import export_policy as export

    checkpoint = call.home.policy(policy)
    if policy is None:
        call.say(f"policy {checkpoint.id} (the newest)")
    call.say_assumptions(checkpoint)
    written = export(checkpoint.file, out_dir, robot)
    if call.json:
        print_json(written)
        return
    rows = [(name, f"actions differ by {value:.1e} at most") for name, value in written["check"].items()]
    print_table(f"policy of {written['robot']}, {written['control_hz']:g} Hz", ("file", "check"), rows)
    out.print(f"wrote {out_dir}")
