"""``rwm data``: get rollouts into the catalog, look at them, get them out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    DatasetArgument,
    HomeOption,
    JsonOption,
    SeedOption,
    home_of,
    out,
    pick_dataset,
    pick_policy,
    print_json,
    print_table,
    progress_bar,
    say,
)
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError

app = typer.Typer(help="Export, convert, validate and look at datasets.", no_args_is_help=True)


@app.command("export")
def export(
    task: Annotated[
        str, typer.Option("--task", help="Init-v0, Pretrain-v0, Finetune-v0 or Visualize-v0.")
    ] = "Pretrain-v0",
    robot: Annotated[str, typer.Option("--robot", help="Robot name or folder.")] = "anymal_d",
    backend: Annotated[str, typer.Option("--backend", help="auto, mujoco, isaaclab or mjlab.")] = "auto",
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="scripted, wander, random, medium, expert, mixed, a run, a file, or shares: expert:0.7,random:0.3.",
        ),
    ] = "scripted",
    action_noise: Annotated[
        float | None, typer.Option("--action-noise", min=0, help="Std of normal noise on every action.")
    ] = None,
    pushes: Annotated[bool | None, typer.Option(help="Kick the base; the task decides when left out.")] = None,
    noise: Annotated[bool | None, typer.Option(help="Noise on what the policy sees; likewise.")] = None,
    randomize: Annotated[bool | None, typer.Option(help="Domain randomisation; likewise.")] = None,
    bounds: Annotated[
        str | None, typer.Option("--bounds", help="Stay in a rectangle of this size, metres: 4x3.")
    ] = None,
    transitions: Annotated[int, typer.Option("--transitions", min=1, help="Rows to write.")] = 200_000,
    num_envs: Annotated[int | None, typer.Option("--num-envs", min=1, help="Robots simulated side by side.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Dataset name; made from task and time when left out.")
    ] = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Roll a behaviour out in a simulator and write the rollouts as a dataset."""
    from rwmrl.export import ExportConfig, export_dataset

    options: dict[str, Any] = {
        "num_envs": num_envs,
        "name": name,
        "action_noise": action_noise,
        "pushes": pushes,
        "noise": noise,
        "randomize": randomize,
        "bounds_m": parse_bounds(bounds) if bounds else None,
    }
    config = ExportConfig(
        task=task,
        robot=robot,
        backend=backend,
        policy=pick_policy(home_of(home), policy, json_output),
        transitions=transitions,
        seed=seed,
        **{k: v for k, v in options.items() if v is not None},
    )
    with progress_bar("export", json_output) as progress:
        dataset = export_dataset(home_of(home), config, progress)
    show_result(dataset, json_output)


def parse_bounds(text: str) -> tuple[float, float]:
    """Read ``4x3`` as length and width in metres."""
    try:
        length, width = (float(part) for part in text.lower().split("x"))
    except ValueError:
        raise RwmError(f"'{text}' is not LENGTHxWIDTH in metres.", "--bounds 4x3") from None
    return length, width


@app.command("convert")
def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="66-column CSV files or folders of them, Isaac Lab recorder files (.hdf5), a LeRobot dataset, or with "
            "--mapping any robot's log (CSV or Parquet with named columns)."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the new dataset.")] = None,
    robot: Annotated[str, typer.Option("--robot", help="Robot the rows come from.")] = "anymal_d",
    episode_ends: Annotated[
        str, typer.Option("--episode-ends", help="auto: marked and physically implied; file: marked only; none.")
    ] = "auto",
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="YAML that says where each column group is.")
    ] = None,
    extension: Annotated[
        str | None,
        typer.Option("--extension", help="Names of additional columns between action and contact: height,slope."),
    ] = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Only print a proposed mapping for a log, from its column names.")
    ] = False,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Turn recordings into a dataset: 66-column CSV (unmarked episode ends are found), Isaac Lab's HDF5, any log."""
    from rwmdata.formats.convert import convert as convert_sources
    from rwmdata.formats.logs import infer_mapping
    from rwmdata.robots import load_robot

    if infer:
        out.print(infer_mapping(sources[0], load_robot(robot)), highlight=False, markup=False, end="")
        return
    if name is None:
        raise RwmError("The new dataset needs a name.", "--name NAME")
    names = names_of(extension)
    with progress_bar("convert", json_output) as progress:
        dataset = convert_sources(home_of(home), sources, name, robot, mapping, episode_ends, names, seed, progress)
    show_result(dataset, json_output)


def names_of(text: str | None) -> list[str]:
    """Read names separated by commas.

    Raises:
        RwmError: A name is empty, no word, or there twice.
    """
    names = [name.strip() for name in text.split(",")] if text else []
    if len({*names}) < len(names) or not all(name.isidentifier() for name in names):
        raise RwmError(f"'{text}' are not different names, separated by commas.", "--extension height,slope")
    return names


@app.command("write-csv")
def write_csv(
    dataset: DatasetArgument = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write state_action_data_N.csv into.")] = Path("csv"),
    rows_per_file: Annotated[int, typer.Option("--rows-per-file", min=1)] = 10_000,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Write a dataset as 66-column CSV files."""
    from rwmdata.formats.csv66 import write_csv as write

    source = pick_dataset(home_of(home), dataset, json_output)
    files = write(source, out_dir, rows_per_file)
    if json_output:
        print_json({"dataset": source.name, "files": files})
    else:
        out.print(f"wrote {len(files)} files, {source.rows:,} rows: {out_dir}", highlight=False)


@app.command("write-lerobot")
def write_lerobot(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the new LeRobot dataset.")],
    dataset: DatasetArgument = None,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Write a dataset in LeRobot's format v3.0; rwm data convert reads it back, the same numbers."""
    from rwmdata.formats.lerobot import write_lerobot as write

    source = pick_dataset(home_of(home), dataset, json_output)
    with progress_bar("write", json_output) as progress:
        folder = write(source, out_dir, progress)
    if json_output:
        print_json({"dataset": source.name, "folder": folder})
    else:
        out.print(f"wrote {source.rows:,} frames: {folder}", highlight=False)


@app.command("write-minari")
def write_minari(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of Minari datasets.")],
    dataset: DatasetArgument = None,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Write a dataset in Minari's format, for offline reinforcement learning libraries."""
    from rwmdata.formats.minari import ROOT_VARIABLE
    from rwmdata.formats.minari import write_minari as write

    source = pick_dataset(home_of(home), dataset, json_output)
    with progress_bar("write", json_output) as progress:
        name = write(source, out_dir, progress)
    if json_output:
        print_json({"dataset": source.name, "id": name, "folder": out_dir / name})
    else:
        out.print(f"wrote {name}: {out_dir / name}", highlight=False)
        say(f"next: {ROOT_VARIABLE}={out_dir} python -c \"import minari; minari.load_dataset('{name}')\"")


@app.command("validate")
def validate(dataset: DatasetArgument = None, home: HomeOption = ".", json_output: JsonOption = False) -> None:
    """Check a dataset; every fault at once, exit code 1 when one is an error."""
    from rwmdata.validate import validate as check

    source = pick_dataset(home_of(home), dataset, json_output)
    faults = check(source)
    errors = [f for f in faults if f.severity == "error"]
    if json_output:
        rows = [{"severity": f.severity, "check": f.check, "where": f.where, "message": f.message} for f in faults]
        print_json({"dataset": source.name, "valid": not errors, "faults": rows})
    else:
        if faults:
            rows_ = [(f.severity, f.check, f.where, f.message) for f in faults]
            print_table(f"faults of {source.name}", ("severity", "check", "where", "what"), rows_)
        verdict = f"{len(errors)} errors, {len(faults) - len(errors)} warnings" if faults else "no fault"
        out.print(f"{source.name}: {verdict} in {source.rows:,} rows", highlight=False)
    if errors:
        raise typer.Exit(1)


@app.command("stats")
def stats(
    dataset: DatasetArgument = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Also draw histograms into this folder, a figure per group.")
    ] = None,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Show how every column is distributed."""
    from reports.evaluate.data_stats import column_statistics, draw_histograms, sparkline

    source = pick_dataset(home_of(home), dataset, json_output)
    found = column_statistics(source)
    files = draw_histograms(out_dir, source, found) if out_dir else []
    if json_output:
        print_json({"dataset": source.name, "rows": source.rows, "columns": found, "files": files})
        return
    rows = [
        (s["name"], s["unit"], s["mean"], s["std"], s["min"], s["max"], s["q001"], sparkline(s["counts"]), s["q999"])
        for s in found
    ]
    header = ("name", "unit", "mean", "std", "min", "max", "0.1 %", "histogram", "99.9 %")
    print_table(f"columns of {source.name}, {source.rows:,} rows", header, rows)
    for file in files:
        out.print(f"wrote {file}", highlight=False)


@app.command("ls")
def ls(home: HomeOption = ".", json_output: JsonOption = False) -> None:
    """List the datasets, newest first."""
    found = home_of(home).datasets()
    if json_output:
        print_json({"datasets": [facts(d) for d in found]})
        return
    if not found:
        say(f"No dataset yet in {home_of(home).data_dir}. Try: rwm data export --task Pretrain-v0")
        return
    rows = [(d.name, d.robot, d.rows, len(d.episodes), d.control_hz, d.manifest.created[:19]) for d in found]
    print_table("datasets", ("name", "robot", "rows", "episodes", "Hz", "created (UTC)"), rows)


@app.command("info")
def info(dataset: DatasetArgument = None, home: HomeOption = ".", json_output: JsonOption = False) -> None:
    """Show what a dataset holds: size, episodes, splits, columns with units and statistics, where it comes from."""
    source = pick_dataset(home_of(home), dataset, json_output)
    if json_output:
        print_json(source.manifest.model_dump() | {"path": source.path})
        return
    lengths = source.episodes.length
    print_table(
        source.name,
        ("what", "value"),
        [
            *facts(source).items(),
            ("duration", f"{source.rows / source.control_hz / 60:.1f} min at {source.control_hz:g} Hz"),
            ("episode rows", f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.0f}"),
            *((k, v) for k, v in source.manifest.provenance.items() if not isinstance(v, dict | list)),
        ],
    )
    columns = [(c.name, c.unit, c.mean, c.std, c.min, c.max) for c in source.manifest.columns]
    print_table("columns", ("name", "unit", "mean", "std", "min", "max"), columns)


def facts(dataset: Dataset) -> dict[str, Any]:
    """Return a dataset's key facts, flat."""
    manifest = dataset.manifest
    return {
        "name": dataset.name,
        "path": str(dataset.path),
        "robot": dataset.robot,
        "rows": dataset.rows,
        "episodes": len(dataset.episodes),
        "falls": int(dataset.episodes.terminated.sum()),
        "splits": ", ".join(f"{k} {len(v)}" for k, v in manifest.splits.items()),
        "created": manifest.created,
    }


def show_result(dataset: Dataset, json_output: bool) -> None:
    """Print what a command wrote, and where."""
    if json_output:
        print_json(dataset.manifest.model_dump() | {"path": dataset.path})
        return
    for note in dataset.manifest.provenance.get("notes", []):
        say(f"note: {note}")
    falls = int(dataset.episodes.terminated.sum())
    out.print(
        f"wrote {dataset.name}: {dataset.rows:,} rows in {len(dataset.episodes)} episodes, {falls} falls: "
        f"{dataset.path}",
        highlight=False,
    )
    say("next: rwm data validate, then rwm fit")
