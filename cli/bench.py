"""``rwm bench``: speeds, each beside a baseline measured in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    Call,
    DatasetArgument,
    DeviceOption,
    ModelOption,
    RobotOption,
    SeedOption,
    command,
    print_json,
    print_table,
)

app = typer.Typer(help="Measure speeds and errors beside their baselines.", no_args_is_help=True)

MembersOption = Annotated[int | None, typer.Option("--members", help="Ensemble size.")]
FigureOption = Annotated[Path, typer.Option("--out", help="Where the curves go, PNG.")]
RepeatsOption = Annotated[int | None, typer.Option("--repeats", help="The fastest of so many counts.")]


@command(app, "export", "reports.bench.export:BenchExportConfig")
def export(
    call: Call,
    robot: RobotOption = None,
    policy: Annotated[str | None, typer.Option(help="As in rwm data export.")] = None,
    transitions: Annotated[int | None, typer.Option(help="Rows the export writes.")] = None,
    num_envs: Annotated[int | None, typer.Option(help="Robots simulated side by side.")] = None,
    repeats: RepeatsOption = None,
    seed: SeedOption = None,
) -> None:
    """Compare a whole export with the environment alone and with bare mujoco.rollout."""
    from reports.bench.export import BenchExportConfig, bench_export

    show(call, call.work("bench", bench_export, call.config(BenchExportConfig)))


@command(app, "data", "reports.bench.data:BenchDataConfig")
def data(
    call: Call,
    rows: Annotated[int | None, typer.Option(help="Rows of the dataset.")] = None,
    csv_mb: Annotated[int | None, typer.Option(help="Size of the CSV, MB.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the files go meanwhile.")] = None,
) -> None:
    """Measure the data stage at scale: write, validate, open, draw windows; CSV conversion beside pandas."""
    from reports.bench.data import BenchDataConfig, bench_data

    show(call, call.work("bench", bench_data, call.config(BenchDataConfig, "folder"), folder))


@command(app, "fit", "reports.bench.fit:BenchFitConfig")
def fit(
    call: Call,
    batch: Annotated[int | None, typer.Option(help="Windows per update.")] = None,
    members: MembersOption = None,
    repeats: RepeatsOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
) -> None:
    """Compare an update with one in which every member runs the whole window by itself."""
    from reports.bench.fit import BenchFitConfig, bench_fit

    show(call, call.work("bench", bench_fit, call.config(BenchFitConfig)))


@command(app, "imagine", "reports.bench.imagine:BenchImagineConfig")
def imagine(
    call: Call,
    num_envs: Annotated[list[int] | None, typer.Option(help="Imagined robots side by side; may be repeated.")] = None,
    members: MembersOption = None,
    repeats: RepeatsOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
) -> None:
    """Compare imagined steps and whole iterations with the way that runs every head of every member by itself."""
    from reports.bench.imagine import BenchImagineConfig, bench_imagine

    show(call, call.work("bench", bench_imagine, call.config(BenchImagineConfig)))


@command(app, "models", "reports.bench.models:BenchModelsConfig")
def models(
    call: Call,
    dataset: DatasetArgument = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="One of the variants, may be repeated; all when left out.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Fits of each.")] = None,
    updates: Annotated[int | None, typer.Option(help="Optimiser steps of a fit.")] = None,
    windows: Annotated[int | None, typer.Option(help="Held-out trajectories.")] = None,
    device: DeviceOption = None,
) -> None:
    """Fit bases, losses and ensembles side by side on a dataset and compare error, coverage and ranking.

    The fits are runs: interrupted and started again, it goes on where it was.
    """
    from reports.bench.models import BenchModelsConfig, bench_models

    config, source = call.config(BenchModelsConfig, "dataset"), call.dataset(dataset)
    result = call.work("bench", bench_models, call.home, source, config)
    if call.json:
        print_json(result)
        return
    for title, columns, rows in by_metric(result["rows"]):
        print_table(title, columns, rows)


@command(app, "time-to-error", "reports.bench.time_to_error:BenchTimeToErrorConfig")
def time_to_error(
    call: Call,
    dataset: DatasetArgument = None,
    fits: Annotated[
        list[str] | None, typer.Option("--preset", help="Preset of rwm fit, may be repeated; all but smoke.")
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", help="Change of the first preset, 'KEY=VALUE KEY=VALUE'; may be repeated."),
    ] = None,
    updates: Annotated[int | None, typer.Option(help="Updates of the longest fits; the presets' own.")] = None,
    points: Annotated[int | None, typer.Option(help="Fits of a curve at most, the longest ones.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Fits of a point; curves are their means.")] = None,
    minutes: Annotated[float | None, typer.Option(help="No fit takes longer.")] = None,
    marks: Annotated[
        list[float] | None,
        typer.Option("--mark", help="Error to pass at h = 100 and at h = 368; twice, in this order."),
    ] = None,
    windows: Annotated[int | None, typer.Option(help="Held-out trajectories.")] = None,
    figure: FigureOption = Path("time_to_error.png"),
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Measure the minutes until a fit's held-out error passes a mark, for presets and arithmetics on the same rows.

    Every point is a whole fit, a run: interrupted and started again, it goes on where it was.
    """
    from reports.bench.time_to_error import BenchTimeToErrorConfig, bench_time_to_error

    config, source = call.config(BenchTimeToErrorConfig, "dataset", "figure"), call.dataset(dataset)
    show(call, call.work("bench", bench_time_to_error, call.home, source, config, figure))
    call.say(f"wrote {figure}")


@command(app, "time-to-score", "reports.bench.time_to_score:BenchTimeToScoreConfig")
def time_to_score(
    call: Call,
    runs: Annotated[list[str], typer.Argument(help="Policy or train runs.")],
    mark: Annotated[float | None, typer.Option(help="Normalised score to pass.")] = None,
    stages: Annotated[int | None, typer.Option(help="Stages of a run that are scored.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes of a stage.")] = None,
    figure: FigureOption = Path("time_to_score.png"),
    seed: SeedOption = None,
) -> None:
    """Measure the minutes of training until a policy's normalised score in the simulator passes a mark."""
    from reports.bench.time_to_score import BenchTimeToScoreConfig, bench_time_to_score

    config = call.config(BenchTimeToScoreConfig, "figure")
    show(call, call.work("bench", bench_time_to_score, call.home, config, figure))
    call.say(f"wrote {figure}")


@command(app, "predictability", "reports.bench.predictability:BenchPredictabilityConfig")
def predictability(
    call: Call,
    model: ModelOption = None,
    policy: Annotated[str | None, typer.Option(help="Who acts: names and shares as in rwm data export.")] = None,
    action_noise: Annotated[float | None, typer.Option(help="Standard deviation of noise on every action.")] = None,
    num_envs: Annotated[int | None, typer.Option(help="Trajectories.")] = None,
    steps: Annotated[int | None, typer.Option(help="Control steps that are forecast.")] = None,
    offsets: Annotated[
        list[float] | None,
        typer.Option("--offset", help="How far starts are off, in standard deviations; may be repeated."),
    ] = None,
    figure: FigureOption = Path("predictability.png"),
    seed: SeedOption = None,
) -> None:
    """Compare a model's forecasts with the simulator's own, when it knows a little less than everything.

    Its start is off, it does not foresee pushes, or it has the nominal trunk.
    """
    from reports.bench.predictability import BenchPredictabilityConfig, bench_predictability

    config, checkpoint = call.config(BenchPredictabilityConfig, "model", "figure"), call.model(model)
    show(call, call.work("bench", bench_predictability, checkpoint.file, config, figure))
    call.say(f"wrote {figure}")


@command(app, "gpu", "reports.bench.gpu:BenchGpuConfig")
def gpu(
    call: Call,
    robot: RobotOption = None,
    batch: Annotated[int | None, typer.Option(help="Windows per update.")] = None,
    robots: Annotated[int | None, typer.Option(help="Imagined robots side by side.")] = None,
    repeats: RepeatsOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
) -> None:
    """Measure a device at the paper's sizes, and what its whole trainings would take there."""
    from reports.bench.gpu import BenchGpuConfig, bench_gpu

    show(call, call.work("bench", bench_gpu, call.config(BenchGpuConfig)))


@command(app, "scale", "reports.bench.scale:BenchScaleConfig")
def scale(
    call: Call,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of a dataset that a fit opens.")] = None,
    members: Annotated[list[int] | None, typer.Option(help="Ensemble sizes.")] = None,
    forecast: Annotated[list[int] | None, typer.Option(help="Forecast horizons of an update.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Windows of an update.")] = None,
    robots: Annotated[list[int] | None, typer.Option(help="Imagined robots side by side.")] = None,
    processes: Annotated[list[int] | None, typer.Option(help="Processes of a fit under torchrun.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Size of the base.")] = None,
    robot: RobotOption = None,
    folder: Annotated[Path | None, typer.Option(help="Where the datasets go meanwhile.")] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
) -> None:
    """Measure how time and memory grow with rows, members, horizon, batch, imagined robots and processes.

    Values of an axis are given one after the other, as in --rows 100000 --rows 1000000.
    """
    from reports.bench.scale import BenchScaleConfig, bench_scale

    show(call, call.work("bench", bench_scale, call.config(BenchScaleConfig, "folder"), folder))


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


def show(call: Call, result: dict[str, Any]) -> None:
    """Print a benchmark."""
    if call.json:
        print_json(result)
        return
    columns = ("name", "value", "unit", "baseline", "ratio")
    print_table(f"bench {result['benchmark']}", columns, [tuple(row[c] for c in columns) for row in result["rows"]])
