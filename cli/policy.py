"""``rwm policy``: MOPO-PPO inside the model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    ModelOption,
    SeedOption,
    given,
    home_of,
    pick_dataset,
    pick_run,
    progress_bar,
    setting_of,
    show_run,
)


def policy(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    lam: Annotated[float, typer.Option("--lam", min=0, help="Penalty weight lambda; 0 is MBPO-PPO.")] = 1.0,
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="member or mean: which prediction is followed.")
    ] = None,
    penalty: Annotated[
        str | None, typer.Option("--penalty", help="epistemic, largest or calibrated: what lambda is a multiple of.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, KEY=VALUE: lam_ramp_steps=2880, fall_penalty=2, init_std=0.5."),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="smoke, demo, laptop or paper.")] = "laptop",
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="PPO iterations.")] = None,
    num_envs: Annotated[int | None, typer.Option("--num-envs", min=1, help="Imagined robots side by side.")] = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Train a policy purely inside the model, rewards penalised by lambda * epistemic uncertainty."""
    from rwmmodel.fit_config import merged
    from rwmrl.offline import PolicyConfig, train_policy

    where = home_of(home)
    overrides: dict[str, Any] = given(rollout=rollout, iterations=iterations, num_envs=num_envs, penalty=penalty)
    overrides |= merged(*map(setting_of, settings or []))
    config = PolicyConfig.preset(preset, lam=lam, seed=seed, device=device, **overrides)
    run = pick_run(where, "model", model, json_output)
    source = pick_dataset(where, dataset or run.meta.parents.get("dataset"), json_output)
    with progress_bar("policy", json_output) as progress:
        result = train_policy(where, source, run, config, progress)
    show_run(result, json_output, "rwm runs show " + result.id)
