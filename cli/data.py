"""``rwm data``: get rollouts into the catalog, look at them, get them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    BackendOption,
    Call,
    DatasetArgument,
    DeviceOption,
    RobotOption,
    SeedOption,
    SettingsOption,
    command,
    out,
    print_json,
    print_table,
    say,
    write_out,
)
from rwmdata.errors import RwmError

if TYPE_CHECKING:  # Help is shown without it.
    from rwmdata.catalog import Dataset

app = typer.Typer(help="Export, convert, validate and look at datasets.", no_args_is_help=True)


@command(app, "export", "rwmrl.export:ExportConfig", "rwmrl.export_parts:export_in_parts")
def export(
    call: Call,
    task: Annotated[str | None, typer.Option(help="Init-v0, Pretrain-v0, Finetune-v0 or Visualize-v0.")] = None,
    robot: RobotOption = None,
    backend: BackendOption = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="scripted, wander, random, medium, expert, mixed, a policy run or file; shares: expert:0.7,random:0.3."
        ),
    ] = None,
    action_noise: Annotated[float | None, typer.Option(help="Std of normal noise on every action.")] = None,
    pushes: Annotated[bool | None, typer.Option(help="Kick the base; the task decides when left out.")] = None,
    noise: Annotated[
        bool | None, typer.Option(help="Noise on what the policy sees; the task decides when left out.")
    ] = None,
    randomize: Annotated[
        bool | None, typer.Option(help="Domain randomisation; the task decides when left out.")
    ] = None,
    bounds_m: Annotated[
        str | None, typer.Option("--bounds", help="Stay in a rectangle of this size, metres: 4x3.")
    ] = None,
    transitions: Annotated[int | None, typer.Option(help="Rows to write.")] = None,
    num_envs: Annotated[int | None, typer.Option(help="Robots simulated side by side.")] = None,
    name: Annotated[str | None, typer.Option(help="Dataset name; made from task and time when left out.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Export in parts on several workers: local (processes) or ray (a cluster).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parts made at the same time; the rows do not depend on it.")
    ] = None,
    parts: Annotated[
        int | None, typer.Option(help="Parts, each with a seed of its own; one per 200,000 rows when left out.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster; one is started here when left out.")
    ] = None,
    settings: SettingsOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Roll a behaviour out in a simulator and write the rollouts as a dataset."""
    from rwmrl.export import ExportConfig, export_dataset
    from rwmrl.export_parts import export_in_parts

    where = ("engine", "workers", "address")
    config = call.config(ExportConfig, *where, over={"policy": call.policy(policy)} if policy else None)
    given = call.chosen(*where)
    if given or config.parts:
        show_result(call, call.work("export", export_in_parts, call.home, config, **given))
    else:
        show_result(call, call.work("export", export_dataset, call.home, config))


@command(app, "convert", "rwmdata.formats.convert:convert")
def convert(
    call: Call,
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="66-column CSV files or folders of them, Isaac Lab recorder files (.hdf5), a LeRobot or Minari "
            "dataset, or with --mapping any robot's log (text, Parquet, Arrow, NumPy, or a folder of them) or ROS bag."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the new dataset.")] = None,
    robot: Annotated[
        str | None, typer.Option(help="Robot the rows come from; else the one an HDF5 file is of, else anymal_d.")
    ] = None,
    episode_ends: Annotated[
        str | None, typer.Option(help="CSV: auto, marked and physically implied; file, marked only; none.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="YAML that says where each column group is.")
    ] = None,
    extension: Annotated[
        str | None,
        typer.Option("--extension", help="Names of additional columns between action and contact: height,slope."),
    ] = None,
    joint_order: Annotated[
        str | None, typer.Option(help="HDF5: order of the recorded joints: robot, legs, types, or their names.")
    ] = None,
    quaternions: Annotated[
        str | None, typer.Option(help="HDF5: wxyz or xyzw; else what the file says and its motion shows.")
    ] = None,
    rate_hz: Annotated[
        float | None, typer.Option(help="HDF5: rows per second; else what the file says. Higher rates are thinned out.")
    ] = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Only print a mapping for a log, proposed from its column names and values.")
    ] = False,
    seed: SeedOption = None,
) -> None:
    """Turn recordings into a dataset: 66-column CSV (unmarked episode ends are found), Isaac Lab's HDF5, any log."""
    from rwmdata.formats.convert import convert as convert_sources
    from rwmdata.formats.infer import infer_mapping

    if infer:
        mapping_text = infer_mapping(sources[0], **call.chosen("robot"))
        if call.json:
            print_json({"mapping": mapping_text})
        else:
            write_out(mapping_text)
        return
    if name is None:
        raise RwmError("The new dataset needs a name.", "--name NAME")
    options = call.chosen("robot", "mapping", "episode_ends", "joint_order", "quaternions", "rate_hz", "seed")
    options |= {"extension": names_of(extension)}
    show_result(call, call.work("convert", convert_sources, call.home, sources, name, **options))


def names_of(text: str | None) -> list[str]:
    """Read names separated by commas.

    Raises:
        RwmError: A name is empty, no word, or there twice.
    """
    names = [name.strip() for name in text.split(",")] if text else []
    if len({*names}) < len(names) or not all(name.isidentifier() for name in names):
        raise RwmError(f"'{text}' are not different names, separated by commas.", "--extension height,slope")
    return names


@command(app, "write-csv", "rwmdata.formats.csv66:write_csv")
def write_csv(
    call: Call,
    dataset: DatasetArgument = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write state_action_data_N.csv into.")] = Path("csv"),
    rows_per_file: Annotated[int | None, typer.Option(min=1, help="A file ends after as many.")] = None,
) -> None:
    """Write a dataset as 66-column CSV files."""
    from rwmdata.formats.csv66 import write_csv as write

    source = call.dataset(dataset)
    files = write(source, out_dir, **call.chosen("rows_per_file"))
    if call.json:
        print_json({"dataset": source.name, "files": files})
    else:
        out.print(f"wrote {len(files)} files, {source.rows:,} rows: {out_dir}")


@command(app, "write-lerobot")
def write_lerobot(
    call: Call,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the new LeRobot dataset.")],
    dataset: DatasetArgument = None,
) -> None:
    """Write a dataset in LeRobot's format v3.0; rwm data convert reads it back, the same numbers."""
    from rwmdata.formats.lerobot import write_lerobot as write

    source = call.dataset(dataset)
    folder = call.work("write", write, source, out_dir)
    if call.json:
        print_json({"dataset": source.name, "folder": folder})
    else:
        out.print(f"wrote {source.rows:,} frames: {folder}")


@command(app, "write-minari")
def write_minari(
    call: Call,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of Minari datasets.")],
    dataset: DatasetArgument = None,
) -> None:
    """Write a dataset in Minari's format, for offline reinforcement learning libraries."""
    from rwmdata.formats.minari import ROOT_VARIABLE
    from rwmdata.formats.minari import write_minari as write

    source = call.dataset(dataset)
    name = call.work("write", write, source, out_dir)
    if call.json:
        print_json({"dataset": source.name, "id": name, "folder": out_dir / name})
    else:
        out.print(f"wrote {name}: {out_dir / name}")
        say(f"next: {ROOT_VARIABLE}={out_dir} python -c \"import minari; minari.load_dataset('{name}')\"")


@command(app, "validate")
def validate(call: Call, dataset: DatasetArgument = None) -> None:
    """Check a dataset; every fault at once, exit code 1 when one is an error."""
    from rwmdata.validate import validate as check

    source = call.dataset(dataset)
    faults = check(source)
    errors = [f for f in faults if f.severity == "error"]
    if call.json:
        rows = [{"severity": f.severity, "check": f.check, "where": f.where, "message": f.message} for f in faults]
        print_json({"dataset": source.name, "valid": not errors, "faults": rows})
    else:
        if faults:
            rows_ = [(f.severity, f.check, f.where, f.message) for f in faults]
            print_table(f"faults of {source.name}", ("severity", "check", "where", "what"), rows_)
        verdict = f"{len(errors)} errors, {len(faults) - len(errors)} warnings" if faults else "no fault"
        out.print(f"{source.name}: {verdict} in {source.rows:,} rows")
    if errors:
        raise typer.Exit(1)


@command(app, "stats")
def stats(
    call: Call,
    dataset: DatasetArgument = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Also draw histograms into this folder, a figure per group.")
    ] = None,
) -> None:
    """Show how every column is distributed."""
    from reports.evaluate.data_stats import column_statistics, draw_histograms, sparkline

    source = call.dataset(dataset)
    found = column_statistics(source)
    files = draw_histograms(out_dir, source, found) if out_dir else []
    if call.json:
        print_json({"dataset": source.name, "rows": source.rows, "columns": found, "files": files})
        return
    rows = [
        (s["name"], s["unit"], s["mean"], s["std"], s["min"], s["max"], s["q001"], sparkline(s["counts"]), s["q999"])
        for s in found
    ]
    header = ("name", "unit", "mean", "std", "min", "max", "0.1 %", "histogram", "99.9 %")
    print_table(f"columns of {source.name}, {source.rows:,} rows", header, rows)
    for file in files:
        out.print(f"wrote {file}")


@command(app, "ls")
def ls(call: Call) -> None:
    """List the datasets, newest first."""
    from rwmdata.home import HOW_TO_BEGIN

    found, broken = call.home.readable_datasets()
    for fault in broken:
        say(f"not listed: {fault.message}")
    if call.json:
        print_json({"datasets": [facts(d) for d in found]})
        return
    if not found:
        say(f"No dataset yet in {call.home.data_dir}. Try: {HOW_TO_BEGIN}")
        return
    rows = [(d.name, d.robot, d.rows, len(d.episodes), d.control_hz, d.manifest.created[:19]) for d in found]
    print_table("datasets", ("name", "robot", "rows", "episodes", "Hz", "created (UTC)"), rows)


@command(app, "info")
def info(call: Call, dataset: DatasetArgument = None) -> None:
    """Show what a dataset holds: size, episodes, splits, columns with units and statistics, where it comes from."""
    source = call.dataset(dataset)
    if call.json:
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
        "splits": ", ".join(f"{name} {size}" for name, size in dataset.split_sizes.items()),
        "created": manifest.created,
    }


def show_result(call: Call, dataset: Dataset) -> None:
    """Print what a command wrote, and where."""
    if call.json:
        print_json(dataset.manifest.model_dump() | {"path": dataset.path})
        return
    for note in dataset.manifest.provenance.get("notes", []):
        say(f"note: {note}")
    falls = int(dataset.episodes.terminated.sum())
    out.print(
        f"wrote {dataset.name}: {dataset.rows:,} rows in {len(dataset.episodes)} episodes, {falls} falls: "
        f"{dataset.path}",
    )
    say("next: rwm data validate, then rwm fit")
