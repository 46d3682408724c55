"""``rwm model``: look at dynamics models, take the authors' in and give ours out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    DeviceOption,
    HomeOption,
    JsonOption,
    SeedOption,
    given,
    home_of,
    out,
    pick_fitted,
    pick_model,
    print_json,
    print_table,
    progress_bar,
    say,
)
from rwmdata.errors import RwmError

app = typer.Typer(help="Look at, import and export dynamics models.", no_args_is_help=True)

ModelArgument = Annotated[str | None, typer.Argument(help="Model run or file; the newest when left out.")]


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="Model file of ours, or a checkpoint of the authors' code (torch.save).")
    ],
    robot: Annotated[str | None, typer.Option("--robot", help="Whose columns and normaliser it has.")] = None,
    history: Annotated[int | None, typer.Option("--history", min=2, help="History horizon M, rows.")] = None,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Take a model file in as a model run: one of ours, or the authors', which does not say its robot and history."""
    from rwmdata.runs import Run
    from rwmmodel.checkpoint import load_model, save_model
    from rwmmodel.described_file import is_safetensors
    from rwmmodel.reference_checkpoint import import_reference

    if is_safetensors(file):
        model = load_model(file)
        own = (model.info.robot if model.info else None, model.config.history)
        if (robot or own[0], history or own[1]) != own:
            raise RwmError(f"{file} is a model of {own[0]} with a history of {own[1]}.", "no --robot and no --history")
    else:
        model = import_reference(file, **given(robot=robot, history=history))
    config = {"imported": file.name, **model.config.model_dump(mode="json")}
    run = Run.create(home_of(home), "model", config, {"dataset": None}, 0)
    with run.running():
        save_model(model, run.model_file)
        run.finish({"parameters": model.parameter_count})
    facts = facts_of(run.model_file)
    if json_output:
        print_json({"run": run.id, "path": run.path, **facts})
        return
    print_table(f"model {run.id}", ("what", "value"), list(facts.items()))
    out.print(f"wrote {run.path}", highlight=False)
    say("next: rwm eval uncertainty")


@app.command("export")
def export(
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")],
    model: ModelArgument = None,
    form: Annotated[str, typer.Option("--format", help="reference: the authors' checkpoint.")] = "reference",
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Write a model as a checkpoint of the authors' code."""
    from rwmmodel.checkpoint import load_model
    from rwmmodel.reference_checkpoint import export_reference

    if form != "reference":
        raise RwmError(f"Unknown format '{form}'.", "--format reference")
    export_reference(load_model(pick_model(home_of(home), model, json_output).file), out_file)
    if json_output:
        print_json({"file": out_file})
    else:
        out.print(f"wrote {out_file}", highlight=False)


@app.command("calibrate")
def calibrate(
    model: ModelArgument = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Dataset; the one it was fitted on when left out.")
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Trajectories of the val split.")] = 256,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps to fit a factor for.")] = 200,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Fit the factor of every forecast step that makes the model's standard deviations true; kept in its file."""
    from reports.evaluate.calibration import CalibrationConfig
    from reports.evaluate.calibration import calibrate as fit_factors

    where = home_of(home)
    checkpoint = pick_model(where, model, json_output)
    source = pick_fitted(where, dataset, checkpoint, json_output)
    config = CalibrationConfig(windows=windows, steps=steps, seed=seed, device=device)
    with progress_bar("calibrate", json_output) as progress:
        found = fit_factors(source, checkpoint, config, progress)
    if json_output:
        print_json({"run": checkpoint.id, **found.model_dump()})
        return
    shown = [h for h in (1, 8, 32, 100, 200, 368) if h <= found.steps]
    rows = [(h, found.epistemic[h - 1], found.total[h - 1]) for h in shown]
    print_table(f"factors of {checkpoint.id}", ("step", "epistemic std", "total std"), rows)
    out.print(f"wrote {checkpoint.file}", highlight=False)
    say("next: rwm eval calibration, or rwm eval uncertainty --calibrated")


@app.command("info")
def info(model: ModelArgument = None, home: HomeOption = ".", json_output: JsonOption = False) -> None:
    """Show a model's architecture, sizes, normaliser and origin."""
    facts = facts_of(pick_model(home_of(home), model, json_output).file)
    if json_output:
        print_json(facts)
    else:
        print_table("model", ("what", "value"), list(facts.items()))


def facts_of(path: Path) -> dict[str, Any]:
    """Return what there is to say about a model file."""
    from rwmmodel.checkpoint import load_model

    model = load_model(path)
    c, n, k = model.config, model.normalizer, model.calibration
    size = list(c.mlp_hidden) if c.base == "mlp" else c.hidden
    layers = f" x {c.layers}" if c.base in ("gru", "lstm", "transformer") else ""
    layers += f" + {c.latent}" if c.base == "rssm" else ""
    identity = bool((n.state_std == 1).all()) and bool((n.state_mean == 0).all())
    return {
        "file": str(path),
        "base": f"{c.base}, {size}{layers}",
        "members": f"{c.members}, {'sharing one base' if c.shared_base else 'each with its own base'}",
        "history": c.history,
        "state, action, extension, contact": f"{c.state_dim}, {c.action_dim}, {c.extension_dim}, {c.contact_dim}",
        "heads": c.head_hidden,
        "parameters": model.parameter_count,
        "normaliser": "identity" if identity else f"state std {n.state_std.min():.3g} to {n.state_std.max():.3g}",
        "calibrated on": f"{k.windows} trajectories of {k.dataset}, {k.steps} steps" if k else None,
        "robot": model.info.robot if model.info else None,
        "control rate (Hz)": model.info.control_hz if model.info else None,
        "dataset": model.info.dataset if model.info else None,
    }
