"""``rwm policy``: MOPO-PPO inside the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    ModelOption,
    SeedOption,
    WandbOption,
    given,
    home_of,
    pick_dataset,
    pick_fitted,
    pick_model,
    progress_bar,
    show_run,
    wandb_of,
)
from rwmdata.config import build, read_settings
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import Run

ALGORITHMS = ("mopo", "mbpo", "bc", "cql", "iql")


def policy(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    lam: Annotated[
        float | None, typer.Option("--lam", min=0, help="Penalty weight lambda, else the preset's; 0 is MBPO-PPO.")
    ] = None,
    algo: Annotated[
        str,
        typer.Option(
            "--algo",
            help="mopo (PPO in the model, penalised), mbpo (lambda 0); without a model: bc (cloning), cql, iql.",
        ),
    ] = "mopo",
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="member or mean: which prediction is followed.")
    ] = None,
    penalty: Annotated[
        str | None, typer.Option("--penalty", help="epistemic, largest or calibrated: what lambda is a multiple of.")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            "--warm-start",
            help="Begin with the networks of this policy or train run or file, of a clone (bc), or none.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, KEY=VALUE: lam_ramp_steps=2880, fall_penalty=2, init_std=0.5."),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="smoke, demo, laptop or paper.")] = "laptop",
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="PPO iterations.")] = None,
    num_envs: Annotated[int | None, typer.Option("--num-envs", min=1, help="Imagined robots side by side.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the model: float32, bfloat16, or tf32 on CUDA.")
    ] = None,
    wandb: WandbOption = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Train a policy purely inside the model, rewards penalised by lambda * epistemic uncertainty.

    Or, to compare with: without the penalty (mbpo), or from the data alone, without a model: a clone of its behaviour
    (bc), or model-free offline reinforcement learning (cql, iql).
    """
    if algo not in ALGORITHMS:
        raise RwmError(f"Unknown algorithm '{algo}'; algorithms: {', '.join(ALGORITHMS)}.", "--algo mopo")
    where = home_of(home)
    more = {**read_settings(settings or []), **given(wandb=wandb_of(wandb))}
    if algo in ("bc", "cql", "iql"):
        options = more | given(updates=iterations) | {"seed": seed, "device": device}
        without_model(where, dataset, algo, options, json_output)
        return
    # Here, because the others do without its packages.
    from rwmrl.imagination_training import train_policy
    from rwmrl.policy_config import CLONE, NOTHING, PolicyConfig

    chosen = given(lam=0.0 if algo == "mbpo" else lam, rollout=rollout, iterations=iterations, num_envs=num_envs)
    overrides: dict[str, Any] = chosen | given(penalty=penalty, precision=precision) | more
    if warm_start:
        known = warm_start in (CLONE, NOTHING)
        overrides["warm_start"] = warm_start if known else where.policy(warm_start).id
    config = build(PolicyConfig, preset, {"seed": seed, "device": device}, overrides)
    checkpoint = pick_model(where, model, json_output)
    source = pick_fitted(where, dataset, checkpoint, json_output)
    with progress_bar("policy", json_output) as progress:
        result = train_policy(where, source, checkpoint, config, progress)
    show_run(result, json_output, f"rwm eval policy --policy {result.id}")


def without_model(home: Home, dataset: str | None, algo: str, options: dict[str, Any], json_output: bool) -> None:
    """Train a policy on a dataset alone.

    Raises:
        RwmError: An option is unknown or not valid, or a package is missing.
    """
    train: Callable[..., Run]
    if algo == "bc":
        from rwmrl.cloning import CloningConfig, clone_behaviour

        train = partial(clone_behaviour, home, config=build(CloningConfig, None, options))
    else:
        from rwmrl.offline_rl import OfflineRLConfig, train_offline_rl

        train = partial(train_offline_rl, home, config=build(OfflineRLConfig, algo, options))
    source = pick_dataset(home, dataset, json_output)
    with progress_bar(algo, json_output) as progress:
        result = train(source, progress=progress)
    show_run(result, json_output, f"rwm eval policy --policy {result.id}")
