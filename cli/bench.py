"""``rwm bench``: speeds, each beside a baseline measured in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    SeedOption,
    home_of,
    pick_dataset,
    print_json,
    print_table,
    progress_bar,
)

app = typer.Typer(help="Measure speeds beside their baselines.", no_args_is_help=True)


@app.command("export")
def export(
    robot: Annotated[str, typer.Option("--robot", help="Robot name or folder.")] = "anymal_d",
    policy: Annotated[str, typer.Option("--policy", help="As in rwm data export.")] = "expert",
    transitions: Annotated[int, typer.Option("--transitions", min=1, help="Rows the export writes.")] = 400_000,
    num_envs: Annotated[int, typer.Option("--num-envs", min=1, help="Robots simulated side by side.")] = 1024,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="The fastest counts.")] = 3,
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Compare a whole export with the environment alone and with bare mujoco.rollout."""
    from reports.bench.export import BenchExportConfig, bench_export

    config = BenchExportConfig(
        robot=robot, policy=policy, transitions=transitions, num_envs=num_envs, repeats=repeats, seed=seed
    )
    with progress_bar("bench", json_output) as progress:
        found = bench_export(config, progress)
    show(found, json_output)


@app.command("data")
def data(
    rows: Annotated[int, typer.Option("--rows", min=2000, help="Rows of the dataset.")] = 6_000_000,
    csv_mb: Annotated[int, typer.Option("--csv-mb", min=1, help="Size of the CSV, MB.")] = 1000,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where the files go meanwhile.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure the data stage at scale: write, validate, open, draw windows; CSV conversion beside pandas."""
    from reports.bench.data import BenchDataConfig, bench_data

    with progress_bar("bench", json_output) as progress:
        found = bench_data(BenchDataConfig(rows=rows, csv_mb=csv_mb), folder, progress)
    show(found, json_output)


@app.command("fit")
def fit(
    batch: Annotated[int, typer.Option("--batch", min=1, help="Windows per update.")] = 1000,
    members: Annotated[int, typer.Option("--members", min=1, help="Ensemble size.")] = 5,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="The fastest update counts.")] = 3,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Compare an update with one in which every member runs the whole window by itself."""
    from reports.bench.fit import BenchFitConfig, bench_fit

    config = BenchFitConfig(batch=batch, members=members, repeats=repeats, device=device, seed=seed)
    with progress_bar("bench", json_output) as progress:
        found = bench_fit(config, progress)
    show(found, json_output)


@app.command("imagine")
def imagine(
    num_envs: Annotated[
        list[int] | None, typer.Option("--num-envs", min=1, help="Imagined robots side by side; may be repeated.")
    ] = None,
    members: Annotated[int, typer.Option("--members", min=1, help="Ensemble size.")] = 5,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="The fastest counts.")] = 3,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Compare imagined steps and whole iterations with the way that runs every head of every member by itself."""
    from reports.bench.imagine import BenchImagineConfig, bench_imagine

    envs = {"num_envs": tuple(num_envs)} if num_envs else {}
    config = BenchImagineConfig(members=members, repeats=repeats, device=device, seed=seed, **envs)
    with progress_bar("bench", json_output) as progress:
        found = bench_imagine(config, progress)
    show(found, json_output)


@app.command("models")
def models(
    dataset: DatasetArgument = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="One of the variants, may be repeated; all when left out.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=10, help="Fits of each.")] = 3,
    updates: Annotated[int, typer.Option("--updates", min=1, help="Optimiser steps of a fit.")] = 1000,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Held-out trajectories.")] = 128,
    home: HomeOption = ".",
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Fit bases, losses and ensembles side by side on a dataset and compare error, coverage and ranking.

    The fits are runs: interrupted and started again, it goes on where it was.
    """
    from reports.bench.models import BenchModelsConfig, bench_models

    source = pick_dataset(home_of(home), dataset, json_output)
    chosen = {"variants": tuple(variants)} if variants else {}
    config = BenchModelsConfig(seeds=seeds, updates=updates, windows=windows, device=device, **chosen)
    with progress_bar("bench", json_output) as progress:
        found = bench_models(home_of(home), source, config, progress)
    if json_output:
        print_json(found)
        return
    for title, columns, rows in by_metric(found["rows"]):
        print_table(title, columns, rows)


def by_metric(rows: list[dict[str, Any]]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Return a table for every metric: title, columns, and a row for every name with a column for every horizon."""
    tables = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        cells = {(r["name"], r["horizon"]): with_half_width(r) for r in rows if r["metric"] == metric}
        names, horizons = (list(dict.fromkeys(key[k] for key in cells)) for k in (0, 1))
        columns = ("name", *(f"h = {h}" if h else "all steps" for h in horizons))
        body = [(name, *(cells.get((name, h), "-") for h in horizons)) for name in names]
        tables.append((f"{metric}, mean over seeds ± half of its 95 % interval", columns, body))
    return tables


def with_half_width(row: dict[str, Any]) -> str:
    """Return a mean with half the width of its interval."""
    return f"{row['value']:.3f}" + (f" ± {row['high'] - row['value']:.3f}" if row["high"] is not None else "")


def show(found: dict[str, Any], json_output: bool) -> None:
    """Print a benchmark."""
    if json_output:
        print_json(found)
        return
    columns = ("name", "value", "unit", "baseline", "ratio")
    print_table(f"bench {found['benchmark']}", columns, [tuple(row[c] for c in columns) for row in found["rows"]])
