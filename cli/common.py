"""What every command shares: options, progress bars, output as tables or as one JSON object."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rwmdata import progress as rwm_progress
from rwmdata.catalog import Dataset
from rwmdata.home import Home
from rwmdata.runs import Checkpoint, Run
from rwmdata.wandb_log import wandb_package

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows: ids and paths stay whole."""

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, soft_wrap=True)

FIRST = os.environ.get("RANK", "0") == "0"
"""Of the processes that torchrun starts, the first one speaks; errors are everyone's own."""

HomeOption = Annotated[str, typer.Option("--home", envvar="RWM_HOME", help="Folder that holds data/ and runs/.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed; the same seed gives the same result.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DatasetArgument = Annotated[str | None, typer.Argument(help="Dataset name or path; the newest when left out.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model run or model file; the newest when left out.")]

WandbOption = Annotated[
    str | None, typer.Option("--wandb", help="Project of Weights & Biases the metrics go to as well.")
]


def wandb_of(project: str | None) -> str | None:
    """Return the project a run's metrics go to as well.

    Raises:
        RwmError: There is one, but wandb is missing.
    """
    if project is not None:
        wandb_package()
    return project


def home_of(path: str) -> Home:
    """Return the home folder a command works in."""
    return Home.resolve(path)


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers are right-aligned, floats with four significant digits."""
    table = Table(title=title, title_justify="left", header_style="bold", highlight=False)
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(r[i], int | float) or r[i] is None for r in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(v)) for v in row))
    out.print(table)


def cell(value: Any) -> str:
    """Return a table cell's text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def say(text: str, quiet: bool = False) -> None:
    """Say something to the person on standard error, so that standard output stays machine-readable."""
    if FIRST and not quiet:
        err.print(text, highlight=False, markup=False)


@contextmanager
def progress_bar(label: str, quiet: bool = False) -> Iterator[rwm_progress.Progress]:
    """Give a progress callback that draws a bar on standard error; it appears with its first news.

    Within the block standard output goes to standard error too: simulators print, and it is for results.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=err,
        disable=quiet or not FIRST,
    )
    task = bar.add_task(label, total=None, numbers="", start=False)

    def update(done: int, total: int, numbers: dict[str, float]) -> None:
        if not bar.live.is_started:
            bar.start()
            bar.start_task(task)
        text = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        bar.update(task, completed=done, total=total, numbers=text)

    try:
        with results_only():
            yield update
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def results_only() -> Iterator[None]:
    """Send what is written to standard output to standard error, that of libraries below Python included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def pick_dataset(home: Home, name: str | None, quiet: bool) -> Dataset:
    """Return the dataset a command works on, and say which when it was not named."""
    dataset = home.dataset(name)
    if name is None:
        say(f"dataset {dataset.name} (the newest)", quiet)
    return dataset


def pick_run(home: Home, kind: str, run_id: str | None, quiet: bool) -> Run:
    """Return the run of that kind by id, prefix or path, else the newest finished one, and say which."""
    run = home.run(kind, run_id)
    if run_id is None:
        say(f"{kind} {run.id} (the newest)", quiet)
    return run


def pick_model(home: Home, name: str | None, quiet: bool) -> Checkpoint:
    """Return the model named by run or by file, else the newest one, and say which.

    Raises:
        RwmError: There is none of that name, or the file is not a world model.
    """
    from rwmmodel.checkpoint import load_model

    checkpoint = home.model(name)
    if name is None:
        say(f"model {checkpoint.id} (the newest)", quiet)
    if checkpoint.run is None:
        load_model(checkpoint.file)
    return checkpoint


def pick_fitted(home: Home, name: str | None, checkpoint: Checkpoint, quiet: bool) -> Dataset:
    """Return the dataset of that name, else the one a run's model was fitted on, else the newest, and say which."""
    return pick_dataset(home, name or checkpoint.parent("dataset"), quiet)


def pick_policy(home: Home, name: str | None, quiet: bool) -> str:
    """Return the policy file named by run or by file (the newest when not named); a behaviour's name as it is."""
    checkpoint = home.policy() if name is None else home.find_policy(name)
    if name is None and checkpoint:
        say(f"policy {checkpoint.id} (the newest)", quiet)
    return str(checkpoint.file) if checkpoint else str(name)


def given(**options: Any) -> dict[str, Any]:
    """Return the options the user gave; those left out keep the preset's value."""
    return {k: v for k, v in options.items() if v is not None}


def show_run(run: Run, json_output: bool, next_command: str) -> None:
    """Print a finished run's key numbers and where it lies."""
    if not FIRST:
        return
    if json_output:
        print_json(run.meta.summary | {"run": run.id, "path": str(run.path)})
        return
    rows = [(k, v) for k, v in run.meta.summary.items() if not isinstance(v, list | dict)]
    print_table(f"{run.kind} {run.id}", ("what", "value"), rows)
    out.print(f"wrote {run.path}", highlight=False)
    say(f"next: {next_command}")
