"""``rwm model``: look at dynamics models, take the authors' in and give ours out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import Call, DeviceOption, SeedOption, command, out, print_json, print_table, say
from rwmdata.errors import RwmError
from rwmdata.shipped import is_shipped
from rwmdata.text import quoted

app = typer.Typer(help="Look at, import, calibrate and export dynamics models.", no_args_is_help=True)

ModelArgument = Annotated[str | None, typer.Argument(help="Model run or file; the newest when left out.")]


@command(app, "import", "rwmrl.reference_training:import_training")
def import_(
    call: Call,
    file: Annotated[
        Path, typer.Argument(help="Model file of ours, or a checkpoint of the authors' code (torch.save).")
    ],
    robot: Annotated[str | None, typer.Option(help="Whose columns and normaliser it has.")] = None,
    history: Annotated[int | None, typer.Option(min=2, help="History horizon M, rows.")] = None,
    with_policy: Annotated[
        bool | None,
        typer.Option(
            "--with-policy/--only-model",
            help="Refuse a checkpoint whose policy does not fit; or leave the policy out. By default one that fits is "
            "taken over with the optimisers, and another left out.",
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Of the policy's layers: elu (the authors'), relu or tanh.")
    ] = None,
) -> None:
    """Take in a model file of ours, or a checkpoint of the authors' code, which does not say its robot and history.

    A checkpoint that holds a policy as well becomes a train run of both, to fine-tune from; else it is a model run.
    """
    from rwmmodel.checkpoint import is_model, load_model
    from rwmrl.reference_training import Training, import_training, keep_training

    if is_model(file):
        model = load_model(file)
        own = (model.info.robot if model.info else None, model.config.history)
        if (robot or own[0], history or own[1]) != own:
            raise RwmError(f"{file} is a model of {own[0]} with a history of {own[1]}.", "no --robot and no --history")
        if with_policy or activation:
            option = "--with-policy" if with_policy else "--activation"
            raise RwmError(f"{file} is a model alone; it holds no policy.", f"rwm model import, without {option}")
        training = Training(model)
    else:
        training = import_training(file, **call.chosen("robot", "history", "with_policy", "activation"))
    run = keep_training(call.home, training, file.name)
    facts = facts_of(run.model_file)
    if training.policy:
        info = training.policy.info
        sizes = (len(info.observations), *info.hidden_dims, len(info.joints))
        facts |= {"policy": f"{' x '.join(map(str, sizes))}, {info.activation}"}
    if call.json:
        print_json({"run": run.id, "kind": run.kind, "path": run.path, **facts, "notes": training.notes})
        return
    print_table(f"{run.kind} {run.id}", ("what", "value"), list(facts.items()))
    for note in training.notes:
        say(f"note: {note}")
    out.print(f"wrote {run.path}")
    both = f"rwm train --task Finetune-v0 --policy {quoted(run.id)} --model {quoted(run.id)}"
    say(f"next: {both if training.policy else 'rwm eval uncertainty'}")


@command(app, "export")
def export(
    call: Call,
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")],
    model: ModelArgument = None,
    form: Annotated[str, typer.Option("--format", help="reference: the authors' checkpoint.")] = "reference",
    keep_normalizers: Annotated[
        bool,
        typer.Option(
            "--keep-normalizers",
            help="Of a train run: write the policy's observation normalisers as they are, not folded into its layers.",
        ),
    ] = False,
) -> None:
    """Write a model as a checkpoint of the authors' code; of a train run also the policy and both optimisers."""
    from rwmmodel.checkpoint import load_model
    from rwmmodel.reference_checkpoint import export_reference
    from rwmrl.reference_training import export_training, training_of

    if form != "reference":
        raise RwmError(f"Unknown format '{form}'.", "--format reference")
    file = call.model(model).file
    notes: tuple[str, ...] = ()
    if run := training_of(file):
        notes = export_training(run, out_file, keep_normalizers)
    elif keep_normalizers:
        raise RwmError(f"{file} is a model alone; it has no policy with normalisers.", "no --keep-normalizers")
    else:
        export_reference(load_model(file), out_file)
    if call.json:
        print_json({"file": out_file, "notes": notes})
        return
    for note in notes:
        say(f"note: {note}")
    out.print(f"wrote {out_file}")


@command(app, "calibrate", "reports.evaluate.calibration:CalibrationConfig")
def calibrate(
    call: Call,
    model: ModelArgument = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Dataset; the one it was fitted on when left out.")
    ] = None,
    windows: Annotated[int | None, typer.Option(help="Trajectories of the val split.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to fit a factor for.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Fit the factor of every forecast step that makes the model's standard deviations true; kept in its file."""
    from reports.evaluate.calibration import CalibrationConfig
    from reports.evaluate.calibration import calibrate as fit_factors

    config = call.config(CalibrationConfig, "dataset", "model")
    checkpoint = call.model(model)
    if is_shipped(checkpoint.file):
        fault = f"{checkpoint.file} came with the installation and is not changed"
        raise RwmError(f"{fault}; it is calibrated already.", "rwm fit --warm-start shipped, then rwm model calibrate")
    factors = call.work("calibrate", fit_factors, call.fitted(dataset, checkpoint), checkpoint, config)
    if call.json:
        print_json({"run": checkpoint.id, **factors.model_dump()})
        return
    shown = [h for h in (1, 8, 32, 100, 200, 368) if h <= factors.steps]
    rows = [(h, factors.epistemic[h - 1], factors.total[h - 1]) for h in shown]
    print_table(f"factors of {checkpoint.id}", ("step", "epistemic std", "total std"), rows)
    out.print(f"wrote {checkpoint.file}")
    say("next: rwm eval calibration, or rwm eval uncertainty --calibrated")


@command(app, "info")
def info(call: Call, model: ModelArgument = None) -> None:
    """Show a model's architecture, sizes, normaliser and origin."""
    facts = facts_of(call.model(model).file)
    if call.json:
        print_json(facts)
    else:
        print_table("model", ("what", "value"), list(facts.items()))


def facts_of(path: Path) -> dict[str, Any]:
    """Return what there is to say about a model file."""
    from rwmmodel.checkpoint import load_model

    model = load_model(path)
    c, n, k = model.config, model.normalizer, model.calibration
    size: object = list(c.mlp_hidden) if c.base == "mlp" else c.hidden
    if c.base != "mlp" and c.auxiliary_hidden not in (None, c.hidden):
        size = f"{size} and {c.auxiliary_hidden}"
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
