"""``rwm data``: datasets made of datasets, and what keeps the home folder in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, DatasetArgument, SeedOption, command, confirm, out, print_json, print_table, say
from cli.data import app, show_result
from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError


@command(app, "sample", "rwmdata.windows:sample_windows")
def sample(
    call: Call,
    dataset: DatasetArgument = None,
    count: Annotated[int | None, typer.Option("--windows", min=1, help="How many.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Rows of each.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write their rows there, .parquet or .csv; else a line about each.")
    ] = None,
    seed: SeedOption = None,
) -> None:
    """Draw training windows as a fit draws them."""
    from rwmdata.windows import sample_windows, summary_of

    if out_file and out_file.suffix not in (".parquet", ".csv"):
        raise RwmError(f"'{out_file}' ends in neither .parquet nor .csv.", "--out windows.parquet")
    source = call.dataset(dataset)
    frame = sample_windows(source, **call.chosen("count", "length", "split", "seed"))
    if out_file:
        commit_file(out_file, frame.write_csv if out_file.suffix == ".csv" else frame.write_parquet)
    about = summary_of(frame)
    if call.json:
        print_json({"dataset": source.name, "windows": about.to_dicts(), "file": out_file})
        return
    print_table(f"windows of {frame.height // max(1, about.height)} rows of {source.name}", about.columns, about.rows())
    if out_file:
        out.print(f"wrote {out_file}, {frame.height} rows")


@command(app, "merge")
def merge(
    call: Call,
    sources: Annotated[list[str], typer.Argument(help="Datasets of one robot, in order.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    seed: SeedOption = None,
) -> None:
    """Write the episodes of several datasets as a new one; what they come from is kept."""
    from rwmdata.edit import merge as join

    parts = [call.home.dataset(source) for source in sources]
    show_result(call, call.work("merge", join, call.home, parts, name, **call.chosen("seed")))


@command(app, "filter")
def filter_(
    call: Call,
    where: Annotated[str, typer.Argument(help='SQL condition on episodes: "not terminated and length > 100".')],
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Dataset name or path; the newest when left out.")
    ] = None,
    cut_spikes: Annotated[
        bool | None, typer.Option("--cut-spikes", help="Leave out rows with impossible values; episodes are cut there.")
    ] = None,
    seed: SeedOption = None,
) -> None:
    """Write the episodes that fit a condition as a new dataset; rwm sql 'describe episodes' shows the columns."""
    from rwmdata.edit import filter_episodes

    source, options = call.dataset(dataset), call.chosen("cut_spikes", "seed")
    show_result(call, call.work("filter", filter_episodes, call.home, source, where, name, **options))


@command(app, "split", "rwmdata.edit:split_anew")
def split(
    call: Call,
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    train: Annotated[float | None, typer.Option(min=0, help="Share of the episodes to train with.")] = None,
    val: Annotated[float | None, typer.Option(min=0, help="Share of the episodes to validate with.")] = None,
    test: Annotated[float | None, typer.Option(min=0, help="Share of the episodes to evaluate with.")] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Rows an episode needs to count; too few such are divided by time.")
    ] = None,
    dataset: DatasetArgument = None,
    seed: SeedOption = None,
) -> None:
    """Deal the episodes to other splits, as a new dataset that shares the old one's files."""
    from rwmdata.edit import split_anew
    from rwmdata.manifest import SPLIT_SHARES

    source = call.dataset(dataset)
    shares = SPLIT_SHARES | call.chosen("train", "val", "test")
    show_result(call, split_anew(call.home, source, name, shares, **call.chosen("seed", "window")))


@command(app, "rm")
def rm(
    call: Call,
    dataset: Annotated[str, typer.Argument(help="Dataset name, or its folder in the home.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a dataset."""
    from rwmdata.edit import remove

    folder = call.home.own(call.home.dataset_folder(dataset))
    name, link = folder.name, folder.is_symlink()
    if not yes:
        confirm(f"Delete {f'the link {folder}; its data stay' if link else f'{folder}, {rows_in(folder)}, for good'}?")
    target = folder.resolve()
    orphans = remove(call.home, folder)
    if call.json:
        print_json({"removed": name, "runs_made_from_it": orphans})
        return
    out.print(f"removed the link {name}; its data stay in {target}" if link else f"removed {name}")
    if orphans:
        say(f"note: {len(orphans)} runs were made from it: {', '.join(orphans)}")


def rows_in(folder: Path) -> str:
    """Return how much a dataset holds, as text."""
    from rwmdata.catalog import Dataset

    try:
        return f"{Dataset.open(folder).rows:,} rows"
    except RwmError:
        return "which cannot be read"


@command(app, "fsck")
def fsck(
    call: Call,
    fix: Annotated[bool, typer.Option("--repair", help="Remove leftovers, mark dead runs as interrupted.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not read the shards.")] = False,
) -> None:
    """Look for leftovers of crashes and damaged files in data/ and runs/; exit code 1 while something is wrong."""
    from rwmdata.fsck import check_home, repair

    troubles = check_home(call.home, deep=not quick)
    done = repair(call.home, troubles) if fix else []
    left = [t for t in troubles if t.path not in done]
    if call.json:
        rows = [{"path": t.path, "what": t.what, "repair": t.repair, "done": t.path in done} for t in troubles]
        print_json({"troubles": rows})
    else:
        if troubles:
            rows_ = [(t.path, t.what, "done" if t.path in done else t.repair or "by hand") for t in troubles]
            print_table("troubles", ("path", "what", "repair"), rows_)
        out.print(f"{len(troubles)} troubles, {len(left)} left in {call.home.root}")
        if any(t.repair for t in left):
            say("next: rwm data fsck --repair")
    if left:
        raise typer.Exit(1)
