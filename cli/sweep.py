"""``rwm sweep``: many runs that differ in one thing."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    ModelOption,
    given,
    home_of,
    out,
    pick_fitted,
    pick_model,
    print_json,
    print_table,
    progress_bar,
)
from rwmdata.config import build, read_settings
from rwmdata.errors import RwmError

app = typer.Typer(help="Train many policies that differ in lambda and seed.", no_args_is_help=True)
SHOWN = ("imagined_reward_after", "penalised_reward_after", "epistemic", "episode_length")


@app.command("policy")
def policy(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    lam: Annotated[str, typer.Option("--lam", help="Penalty weights, with commas.")] = "0,0.2,0.5,1,2,5",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Policies of each weight, seeds 0, 1, ...")] = 3,
    preset: Annotated[str, typer.Option("--preset", help="smoke, demo, laptop or paper.")] = "laptop",
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="PPO iterations.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of rwm policy, KEY=VALUE; may repeat.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Policies trained at the same time.")] = 1,
    engine: Annotated[str, typer.Option("--engine", help="local (processes) or ray (a cluster).")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Of the Ray cluster; none starts one here.")] = None,
    home: HomeOption = ".",
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Train a policy for every lambda and seed; finished ones are skipped, broken ones resumed."""
    from rwmrl.policy_config import PolicyConfig
    from rwmrl.sweep import ENGINES, sweep_policies

    if engine not in ENGINES:
        raise RwmError(f"Unknown engine '{engine}'; engines: {', '.join(ENGINES)}.", "--engine local")
    more = given(iterations=iterations, device=device)
    configs = [
        build(PolicyConfig, preset, more, {"lam": value, "seed": seed}, read_settings(settings or []))
        for value in weights(lam)
        for seed in range(seeds)
    ]
    where = home_of(home)
    checkpoint = pick_model(where, model, json_output)
    source = pick_fitted(where, dataset, checkpoint, json_output)
    with progress_bar("sweep", json_output) as progress:
        runs = sweep_policies(where, source, checkpoint, configs, engine, workers, address, progress)
    rows = [
        {"lam": c.imagination.lam, "seed": c.seed, "run": r.id} | {k: r.meta.summary.get(k) for k in SHOWN}
        for c, r in zip(configs, runs, strict=True)
    ]
    if json_output:
        print_json({"rows": rows})
        return
    print_table(
        f"{len(rows)} policies of model {checkpoint.id}", ("lam", "seed", "run", *SHOWN), [(*r.values(),) for r in rows]
    )
    out.print("next: rwm eval policy --policy RUN", highlight=False)


def weights(text: str) -> list[float]:
    """Return penalty weights from text with commas.

    Raises:
        RwmError: One is not a number of at least 0.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [-1.0]
    if min(found) < 0:
        raise RwmError(f"'{text}' is not a list of numbers of at least 0.", "--lam 0,0.5,1")
    return list(dict.fromkeys(found))
