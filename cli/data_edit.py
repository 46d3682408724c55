"""``rwm data``: datasets made of datasets, and what keeps the home folder in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import (
    DatasetArgument,
    HomeOption,
    JsonOption,
    SeedOption,
    home_of,
    out,
    pick_dataset,
    print_json,
    print_table,
    progress_bar,
    say,
)
from cli.data import app, show_result
from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError


@app.command("sample")
def sample(
    dataset: DatasetArgument = None,
    windows: Annotated[int, typer.Option("--windows", min=1, help="How many.")] = 8,
    length: Annotated[int, typer.Option("--length", min=1, help="Rows of each.")] = 40,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write their rows there, .parquet or .csv; else a line about each.")
    ] = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Draw training windows as a fit draws them."""
    from rwmdata.windows import sample_windows, summary_of

    if out_file and out_file.suffix not in (".parquet", ".csv"):
        raise RwmError(f"'{out_file}' ends in neither .parquet nor .csv.", "--out windows.parquet")
    source = pick_dataset(home_of(home), dataset, json_output)
    frame = sample_windows(source, windows, length, split, seed)
    if out_file:
        commit_file(out_file, frame.write_csv if out_file.suffix == ".csv" else frame.write_parquet)
    about = summary_of(frame)
    if json_output:
        print_json({"dataset": source.name, "windows": about.to_dicts(), "file": out_file})
        return
    print_table(f"windows of {length} rows, {split} split of {source.name}", about.columns, about.rows())
    if out_file:
        out.print(f"wrote {out_file}, {frame.height} rows", highlight=False)


@app.command("merge")
def merge(
    sources: Annotated[list[str], typer.Argument(help="Datasets of one robot, in order.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Write the episodes of several datasets as a new one; what they come from is kept."""
    from rwmdata.edit import merge as join

    parts = [home_of(home).dataset(source) for source in sources]
    with progress_bar("merge", json_output) as progress:
        dataset = join(home_of(home), parts, name, seed, progress)
    show_result(dataset, json_output)


@app.command("filter")
def filter_(
    where: Annotated[str, typer.Argument(help='SQL condition on episodes: "not terminated and length > 100".')],
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="The newest when left out.")] = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Write the episodes that fit a condition as a new dataset; rwm sql 'describe episodes' shows the columns."""
    from rwmdata.edit import filter_episodes

    source = pick_dataset(home_of(home), dataset, json_output)
    with progress_bar("filter", json_output) as progress:
        kept = filter_episodes(home_of(home), source, where, name, seed, progress)
    show_result(kept, json_output)


@app.command("split")
def split(
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    train: Annotated[float, typer.Option("--train", min=0)] = 0.8,
    val: Annotated[float, typer.Option("--val", min=0)] = 0.1,
    test: Annotated[float, typer.Option("--test", min=0)] = 0.1,
    dataset: DatasetArgument = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Deal the episodes to other splits, as a new dataset that shares the old one's files."""
    from rwmdata.edit import split_anew

    source = pick_dataset(home_of(home), dataset, json_output)
    shares = {"train": train, "val": val, "test": test}
    show_result(split_anew(home_of(home), source, name, shares, seed), json_output)


@app.command("rm")
def rm(
    dataset: Annotated[str, typer.Argument(help="Dataset name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Delete a dataset."""
    from rwmdata.edit import remove

    source = home_of(home).dataset(dataset)
    if not yes:
        typer.confirm(f"Delete {source.name}, {source.rows:,} rows, for good?", abort=True, err=True)
    orphans = remove(home_of(home), source)
    if json_output:
        print_json({"removed": source.name, "runs_made_from_it": orphans})
        return
    out.print(f"removed {source.name}", highlight=False)
    if orphans:
        say(f"note: {len(orphans)} runs were made from it: {', '.join(orphans)}")


@app.command("fsck")
def fsck(
    fix: Annotated[bool, typer.Option("--repair", help="Remove leftovers, mark dead runs as interrupted.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not read the shards.")] = False,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Look for leftovers of crashes and damaged files in data/ and runs/; exit code 1 while something is wrong."""
    from rwmdata.fsck import check_home, repair

    troubles = check_home(home_of(home), deep=not quick)
    done = repair(home_of(home), troubles) if fix else []
    left = [t for t in troubles if t.path not in done]
    if json_output:
        rows = [{"path": t.path, "what": t.what, "repair": t.repair, "done": t.path in done} for t in troubles]
        print_json({"troubles": rows})
    else:
        if troubles:
            rows_ = [(t.path, t.what, "done" if t.path in done else t.repair or "by hand") for t in troubles]
            print_table("troubles", ("path", "what", "repair"), rows_)
        out.print(f"{len(troubles)} troubles, {len(left)} left in {home_of(home).root}", highlight=False)
        if any(t.repair for t in left):
            say("next: rwm data fsck --repair")
    if left:
        raise typer.Exit(1)
