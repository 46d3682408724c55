"""``rwm eval``: the evidence."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    ModelOption,
    SeedOption,
    home_of,
    out,
    pick_dataset,
    pick_run,
    print_json,
    print_table,
    progress_bar,
)

app = typer.Typer(help="Evaluate models and policies.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep ``uncertainty`` a subcommand while it is the only one."""


@app.command("uncertainty")
def uncertainty(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Held-out trajectories.")] = 32,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Autoregressive steps.")] = 200,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Relate the ensemble's uncertainty to its autoregressive error on held-out episodes (RWM-U Figure 3)."""
    from reports.uncertainty import UncertaintyConfig, evaluate_uncertainty

    where = home_of(home)
    run = pick_run(where, "model", model, json_output)
    source = pick_dataset(where, dataset or run.meta.parents.get("dataset"), json_output)
    config = UncertaintyConfig(windows=windows, steps=steps, seed=seed, device=device)
    with progress_bar("uncertainty", json_output) as progress:
        result = evaluate_uncertainty(where, source, run, config, progress)
    if json_output:
        print_json(result.meta.summary)
        return
    summary = result.meta.summary
    names = ("metric", "mode", "horizon", "value", "low", "high")
    title = f"{summary['windows']} windows of {summary['episodes']} held-out episodes ({summary['split']} split)"
    print_table(
        title, (*names[:4], "95 % low", "95 % high"), [tuple(s.get(n) for n in names) for s in summary["scalars"]]
    )
    out.print(f"wrote {result.path}", highlight=False)
