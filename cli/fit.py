"""``rwm fit``: dynamics ensemble from a dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    SeedOption,
    WandbOption,
    given,
    home_of,
    pick_dataset,
    progress_bar,
    show_run,
    wandb_of,
)
from rwmdata.config import build, read_settings


def fit(
    dataset: DatasetArgument = None,
    preset: Annotated[str, typer.Option("--preset", help="smoke, demo, laptop, reference or paper.")] = "laptop",
    updates: Annotated[int | None, typer.Option("--updates", min=1, help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Windows per update.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="gru, lstm, mlp, transformer or rssm.")] = None,
    members: Annotated[int | None, typer.Option("--members", min=1, help="Ensemble size; 1 is RWM, 5 RWM-U.")] = None,
    shared_base: Annotated[
        bool | None, typer.Option("--shared-base/--independent", help="Members share their recurrent base, or not.")
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="sampled_mse or nll.")] = None,
    teacher_forcing: Annotated[
        bool | None, typer.Option("--teacher-forcing", help="Feed recorded states back, not predicted ones (ablation).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field of FitConfig, KEY=VALUE: hidden=128, loss.decay=0.9; may repeat."),
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="float32, bfloat16, or tf32 on CUDA.")] = None,
    normalizer: Annotated[
        str | None, typer.Option("--normalizer", help="auto, reference (the robot's) or fitted (the data's).")
    ] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Learning rate: cosine or constant.")] = None,
    ema: Annotated[
        float | None, typer.Option("--ema", min=0, help="Keep averaged weights of this decay: 0.999; 0 for none.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option("--accumulate", min=1, help="Work through a batch in so many parts: less memory.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", min=1, help="Stop after this many validations without improvement.")
    ] = None,
    balance: Annotated[
        bool | None, typer.Option("--balance/--no-balance", help="Draw every behaviour's windows equally often.")
    ] = None,
    fall_share: Annotated[
        float | None, typer.Option("--fall-share", min=0, max=0.99, help="Share of windows that end in a fall: 0.05.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", help="Where rows are held: memory, mapped (a file), or auto.")
    ] = None,
    wandb: WandbOption = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Fit the ensemble dynamics model; held-out episodes choose the weights that are kept.

    On several GPUs: torchrun --nproc-per-node 2 -m cli.main fit ...
    """
    from rwmmodel.fit import fit_model
    from rwmmodel.fit_config import FitConfig

    overrides: dict[str, Any] = given(
        updates=updates,
        batch=batch,
        lr=lr,
        base=base,
        members=members,
        precision=precision,
        patience=patience,
        balance=balance,
        fall_share=fall_share,
        shared_base=shared_base,
        rows=rows,
        schedule=schedule,
        ema=ema,
        accumulate=accumulate,
        normalizer=normalizer,
        wandb=wandb_of(wandb),
    )
    overrides |= given(kind=loss, teacher_forcing=teacher_forcing, seed=seed, device=device)
    config = build(FitConfig, preset, overrides, read_settings(settings or []))
    source = pick_dataset(home_of(home), dataset, json_output)
    with progress_bar("fit", json_output) as progress:
        run = fit_model(home_of(home), source, config, progress)
    show_run(run, json_output, "rwm policy --lam 1.0, or rwm eval uncertainty")
