"""``rwm runs``: what was run, from what, with what result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import Call, command, confirm, out, print_json, print_table, say
from rwmdata.atomic import remove_folder
from rwmdata.errors import RwmError
from rwmdata.locks import held
from rwmdata.progress import Progress
from rwmdata.text import quoted

if TYPE_CHECKING:  # Help is shown without these.
    from rwmdata.catalog import Dataset
    from rwmdata.home import Home
    from rwmdata.runs import Run

RESUMABLE = ("model", "policy", "train")

app = typer.Typer(help="List, show, resume and hand over runs.", no_args_is_help=True)
RunArgument = Annotated[str | None, typer.Argument(metavar="run", help="Run id, unique prefix or path.")]


@command(app, "ls")
def ls(
    call: Call,
    kind: Annotated[str | None, typer.Option(help="model, policy, train, eval or report.")] = None,
) -> None:
    """List runs, newest first."""
    from rwmdata.runs import KINDS

    if kind is not None and kind not in KINDS:
        raise RwmError(f"Unknown kind '{kind}'; kinds: {', '.join(KINDS)}.", "rwm runs ls")
    listed, broken = call.home.readable_runs(kind)
    for fault in broken:
        say(f"not listed: {fault.message} Try: rwm data fsck, or rwm runs rm RUN")
    if call.json:
        print_json({"runs": [about(r, {"summary", "config"}) for r in listed]})
        return
    if not listed:
        say(f"No run yet in {call.home.runs_dir}. Try: rwm demo")
        return
    rows = [(r.id, r.kind, r.status, r.meta.created[:19], lineage(r), r.meta.seed) for r in listed]
    print_table("runs", ("id", "kind", "status", "created (UTC)", "made from", "seed"), rows)
    if any(r.gone for r in listed):
        say("gone: the process ended without a word. Try: rwm runs resume, or rwm data fsck --repair")


def about(run: Run, left_out: set[str] | None = None) -> dict[str, Any]:
    """Return a run's record with its path and the status it has now."""
    return run.meta.model_dump(exclude=left_out) | {"status": run.status, "path": run.path}


def lineage(run: Run) -> str:
    """Return a run's parents in one line."""
    return ", ".join(f"{k} {v}" for k, v in run.meta.parents.items() if v)


@command(app, "show")
def show(call: Call, run_id: RunArgument = None) -> None:
    """Show one run: status, parents, config, key numbers (the newest finished when left out)."""
    run = call.home.run(None, run_id)
    if call.json:
        print_json(about(run))
        return
    meta = run.meta
    facts = [
        ("path", run.path),
        ("status", run.status),
        ("created", meta.created),
        ("finished", meta.finished),
        ("made from", lineage(run) or "-"),
        ("seed", meta.seed),
        ("error", meta.error),
    ]
    print_table(f"{run.kind} {run.id}", ("what", "value"), [f for f in facts if f[1] is not None])
    for title, values in (("config", meta.config), ("summary", meta.summary)):
        rows = [(k, v) for k, v in values.items() if not isinstance(v, list | dict)]
        if rows:
            print_table(title, ("key", "value"), rows)
    if isinstance(scalars := meta.summary.get("scalars"), list):
        columns = ("metric", "mode", "horizon", "value")
        print_table("scalars", columns, [tuple(s.get(c) for c in columns) for s in scalars if isinstance(s, dict)])
    files = sorted(p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file())
    out.print("files: " + ", ".join(files))


@command(app, "resume")
def resume(call: Call, run_id: RunArgument = None) -> None:
    """Go on with a run where it stopped (the newest unfinished one when left out)."""
    run = call.home.run(None, run_id) if run_id else newest_unfinished(call.home.runs())
    if run.meta.status == "finished":
        call.say(f"{run.kind} {run.id} is finished; nothing to resume")
    else:
        call.say(f"resuming {run.kind} {run.id}")
        with call.progress(run.kind) as progress:
            run = continue_run(call.home, run, progress)
    if call.json:
        print_json(run.meta.summary | {"run": run.id, "path": run.path})
    else:
        out.print(f"{run.kind} {run.id} {run.meta.status}: {run.path}")


@command(app, "rm")
def rm(
    call: Call,
    run_id: Annotated[str, typer.Argument(metavar="run", help="Run id, or its folder in the home.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run, also one whose record cannot be read."""
    from rwmdata.runs import LOCK_FILE

    folder = call.home.own(run_folder(call.home, run_id))
    if held(folder / LOCK_FILE):
        raise RwmError(f"Run {folder.name} is running.", "rwm runs ls")
    if not yes:
        confirm(f"Delete {f'the link {folder}; its run stays' if folder.is_symlink() else f'{folder} for good'}?")
    remove_folder(folder)
    made_from = [r.id for r in call.home.runs() if folder.name in r.meta.parents.values()]
    if call.json:
        print_json({"removed": folder.name, "runs_made_from_it": made_from})
        return
    out.print(f"removed {folder.name}")
    if made_from:
        say(f"note: {len(made_from)} runs were made from it: {', '.join(made_from)}")


def run_folder(home: Home, run_id: str) -> Path:
    """Return the folder of a run, whether its record can be read or not.

    Raises:
        RwmError: There is none of that id.
    """
    from rwmdata.runs import KINDS

    known = [folder for folder in home.runs_dir.glob("*/*") if folder.name == run_id and folder.parent.name in KINDS]
    return known[0] if known else home.run(None, run_id).path


def continue_run(home: Home, run: Run, progress: Progress) -> Run:
    """Go on with an unfinished run, whatever its kind.

    Raises:
        RwmError: It is an evaluation or a report, or its parents are gone.
    """
    parents = run.meta.parents
    if run.kind == "model":
        from rwmmodel.fit import fit_model

        return fit_model(home, home.dataset(parents["dataset"]), progress=progress, resume=run)
    if run.kind == "policy" and run.meta.config.get("algo") == "bc":
        from rwmrl.cloning import clone_behaviour

        return clone_behaviour(home, home.dataset(parents["dataset"]), progress=progress, resume=run)
    if run.kind == "policy" and run.meta.config.get("algo") in ("cql", "iql"):
        from rwmrl.offline_rl import train_offline_rl

        return train_offline_rl(home, home.dataset(parents["dataset"]), progress=progress, resume=run)
    if run.kind == "policy":
        from rwmrl.imagination_training import train_policy

        model = home.model(parents["model"])
        return train_policy(home, home.dataset(parents["dataset"]), model, progress=progress, resume=run)
    if run.kind == "train":
        from rwmrl.simulator_training import train_in_simulator

        return train_in_simulator(home, progress=progress, resume=run)
    from rwmdata.runs import HOW_TO_MAKE

    what = "A report" if run.kind == "report" else "An evaluation"
    raise RwmError(f"{what} is not resumed but made again: {run.id}.", HOW_TO_MAKE[run.kind])


@command(app, "pack", "rwmdata.packing:pack")
def pack(
    call: Call,
    name: Annotated[
        str | None,
        typer.Argument(help="Run (id, unique prefix or path) or dataset; the newest finished run when left out."),
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Archive to write; ID.zip when left out.")] = None,
    without: Annotated[
        str | None, typer.Option(help="Parents to leave out, with commas: dataset, model, policy, judge.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Its identifier for the card: mit, cc-by-4.0, other.")
    ] = None,
) -> None:
    """Write a run or a dataset, with what it was made from, checksums and a card, to one archive to hand over."""
    from rwmdata.packing import pack as write
    from rwmdata.runs import Run

    what = packable(call, name)
    out_file = out_file or Path(f"{what.id if isinstance(what, Run) else what.name}.zip")
    options = call.chosen("licence") | {"without": tuple(p.strip() for p in without.split(",")) if without else ()}
    packed = call.work("pack", write, home_of(call.home, what), what, out_file, **options)
    parts = [p.model_dump() for p in packed.index.parts]
    if call.json:
        left_out = [p.model_dump() for p in packed.index.left_out]
        about = {"sha256": packed.sha256, "bytes": packed.size, "parts": parts, "left_out": left_out}
        print_json({"file": packed.file, **about})
        return
    print_table("packed", ("kind", "name"), [(p["kind"], p["name"]) for p in parts])
    for parent in packed.index.left_out:
        say(f"note: {parent.kind} {parent.name} is left out: {parent.why}")
    out.print(f"wrote {packed.file}, {packed.size:,} bytes, sha256 {packed.sha256}")
    say(f"next: rwm runs unpack {quoted(packed.file)}")


def packable(call: Call, name: str | None) -> Run | Dataset:
    """Return the dataset or the run of that name; without one the newest finished run.

    Raises:
        RwmError: There is none, or the name fits several runs.
    """
    if name is not None:
        try:
            return call.home.dataset(name)
        except RwmError as no_dataset:
            runs = call.home.readable_runs()[0]
            if not (Path(name) / "run.json").is_file() and not any(r.id.startswith(name) for r in runs):
                fault = f"No run and no dataset '{name}' in {call.home.root}."
                raise RwmError(fault, "rwm runs ls, rwm data ls") from no_dataset
    run = call.home.run(None, name)
    if name is None:
        call.say(f"{run.kind} {run.id} (the newest)")
    return run


def home_of(home: Home, what: Run | Dataset) -> Home:
    """Return the home that a run lies in, which may be named by its path: its parents are there."""
    from rwmdata.home import Home
    from rwmdata.runs import Run

    return Home(what.path.resolve().parents[2]) if isinstance(what, Run) else home


@command(app, "unpack", "rwmdata.unpacking:unpack")
def unpack(
    call: Call,
    file: Annotated[Path, typer.Argument(help="Archive of rwm runs pack.")],
) -> None:
    """Add the runs and datasets of an archive to the home: checked first, nothing executed, nothing overwritten."""
    from rwmdata.unpacking import unpack as read

    unpacked = call.work("unpack", read, call.home, file)
    rows = [
        {**p.model_dump(), "path": call.home.root / p.folder, "new": p in unpacked.added} for p in unpacked.index.parts
    ]
    left_out = [p.model_dump() for p in unpacked.index.left_out]
    if call.json:
        print_json({"file": file, "parts": rows, "left_out": left_out})
        return
    print_table(
        "unpacked", ("kind", "name", ""), [(r["kind"], r["name"], "" if r["new"] else "was here") for r in rows]
    )
    for parent in left_out:
        say(f"note: {parent['kind']} {parent['name']} is not in the archive: {parent['why']}")
    out.print(f"wrote {len(unpacked.added)} of {len(rows)} parts: {call.home.root}")
    kind, name = rows[-1]["kind"], rows[-1]["name"]
    say(f"next: {'rwm data info' if kind == 'dataset' else 'rwm runs show'} {name}")


def newest_unfinished(runs: list[Run]) -> Run:
    """Return the newest run that can be resumed.

    Raises:
        RwmError: No run is unfinished.
    """
    for run in runs:
        if run.kind in RESUMABLE and run.status not in ("finished", "running"):
            return run
    raise RwmError("There is nothing to resume: no run is unfinished.", "rwm runs ls")
