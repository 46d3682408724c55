"""``rwm fit``: dynamics ensemble from a dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from cli.common import Call, DatasetArgument, DeviceOption, SeedOption, SettingsOption, WandbOption
from rwmdata.errors import RwmError
from rwmdata.text import quoted

SHOWN_EPISODES = 10


def fit(
    call: Call,
    dataset: DatasetArgument = None,
    preset: Annotated[str | None, typer.Option(help="smoke, demo, laptop, finetune, reference or paper.")] = None,
    warm_start: Annotated[
        str | None, typer.Option(help="Begin with this model's weights, by run or file; the preset is then finetune.")
    ] = None,
    updates: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Windows per update.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    base: Annotated[str | None, typer.Option(help="gru, lstm, mlp, transformer or rssm.")] = None,
    members: Annotated[int | None, typer.Option(help="Ensemble size; 1 is RWM, 5 RWM-U.")] = None,
    shared_base: Annotated[
        bool | None, typer.Option("--shared-base/--independent", help="Members share their recurrent base, or not.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--loss", help="sampled_mse or nll.")] = None,
    teacher_forcing: Annotated[
        bool | None, typer.Option("--teacher-forcing", help="Feed recorded states back, not predicted ones (ablation).")
    ] = None,
    settings: SettingsOption = None,
    precision: Annotated[str | None, typer.Option(help="auto (the fastest here), float32, bfloat16, or tf32.")] = None,
    normalizer: Annotated[str | None, typer.Option(help="auto, reference (the robot's) or fitted (to data).")] = None,
    schedule: Annotated[str | None, typer.Option(help="Learning rate: cosine or constant.")] = None,
    ema: Annotated[float | None, typer.Option(help="Keep averaged weights of this decay: 0.999; 0 for none.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Work through a batch in so many parts: less memory.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after this many validations without improvement.")] = None,
    balance: Annotated[bool | None, typer.Option(help="Draw every behaviour's windows equally often.")] = None,
    fall_share: Annotated[float | None, typer.Option(help="Share of windows that end in a fall: 0.05.")] = None,
    rows: Annotated[str | None, typer.Option(help="Where rows are held: memory, mapped (a file), or auto.")] = None,
    wandb: WandbOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Fit the ensemble dynamics model; held-out episodes choose the weights that are kept.

    On several GPUs: torchrun --nproc-per-node 2 -m cli fit ...
    """
    from rwmdata.validate import glance
    from rwmdata.windows import too_short
    from rwmmodel.fit import fit_model
    from rwmmodel.fit_config import FitConfig

    if warm_start:
        refuse_fixed(call)
        call = replace(call, given={"preset": "finetune", **call.given})
    config = call.config(FitConfig, "dataset")
    source = call.dataset(dataset)
    window = config.history + min(config.forecast, config.last_forecast)
    if short := too_short(source, window):
        shown = ", ".join(map(str, short[:SHOWN_EPISODES])) + (", ..." if len(short) > SHOWN_EPISODES else "")
        what = f"{len(short)} of {len(source.episodes)} episodes are shorter than the {window} rows of a window"
        call.say(f"left out: {what}: {shown}")
    for fault in [f for f in glance(source) if f.check != "spike"]:
        call.say(f"warning: {source.name}: {fault.where}: {fault.message}; rwm data validate {quoted(source.name)}")
    run = call.work("fit", fit_model, call.home, source, config)
    call.show_run(run, "rwm eval dynamics, then rwm policy")


def refuse_fixed(call: Call) -> None:
    """Refuse options that a model decides which a fit begins with.

    Raises:
        RwmError: One was given.
    """
    from rwmdata.config import read_settings
    from rwmmodel.ensemble import Architecture

    kept, settings = {*Architecture.model_fields, "normalizer"}, read_settings(call.given.get("settings", ()))
    given = [call.names[name] for name in call.given if name in kept]
    given += [f"--set {key}" for key in settings if key in kept]
    if given:
        fault = "A fit that begins with a model keeps its architecture and normaliser"
        raise RwmError(f"{fault}, whatever {', '.join(given)} says.", "the command without it")
