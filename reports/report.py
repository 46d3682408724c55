"""One page of evidence: where a model or policy came from, what was measured of it, and how to make it again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from reports.commands import dataset_command, recorded_command, run_command
from reports.curves import draw_curves
from reports.evaluation_section import section_of
from reports.html import Cell, Picture, Table, cell, interval, number, picture, render, table
from reports.lineage import Lineage, Notice, choose, lineage_of
from reports.published import key_numbers
from rwmdata.atomic import write_text
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import Run

PAGE = "report.html"
TILES = (
    ("policy", "normalized_score", "undisturbed", None), ("policy", "falls_per_minute", "disturbed", None),
    ("dynamics", "rel_l1", "model", 32), ("dynamics", "rel_l1", "model", 368),
    ("uncertainty", "pearson_pooled", "mean", None), ("calibration", "coverage", "epistemic_calibrated", 100),
)  # fmt: skip
"""Evaluation, metric, mode and horizon of the numbers at the top, the first ``MOST_TILES`` that were measured."""
MOST_TILES = 4
KINDS = {"model": "model", "policy": "policy", "train": "policy, trained in the simulator", "eval": "evaluation"}


@dataclass(frozen=True)
class Card:
    """A step of the lineage."""

    anchor: str
    name: str
    facts: str
    status: str


@dataclass(frozen=True)
class Command:
    """How to make one thing again."""

    what: str
    command: str
    recorded: str = ""
    """How it was started, where that was said otherwise."""
    made_with: str = ""


def build_report(home: Home, names: list[str] | None = None, out: Path | None = None) -> dict[str, Any]:
    """Write the page about some runs.

    Args:
        home: Where they are.
        names: Ids, unique prefixes or paths; the newest model or policy when there are none.
        out: File to write; without one, ``report.html`` of a new ``report`` run.

    Returns:
        ``{"page", "run", "models", "policies", "datasets", "evaluations", "missing"}``.

    Raises:
        RwmError: A name fits no run, there is nothing to report on, or the page cannot be written.
    """
    runs, broken = home.readable_runs()
    chosen = choose(home, names or [], runs)
    lineage = lineage_of(home, chosen, runs)
    lineage.notices += [Notice(exc.message, exc.hint) for exc in broken]
    found = {
        "models": list(lineage.models), "policies": list(lineage.policies), "datasets": list(lineage.datasets),
        "evaluations": [e.id for e in lineage.evaluations], "missing": [vars(n) for n in lineage.notices],
    }  # fmt: skip
    parents = {kind: next(iter(getattr(lineage, f"{kind}s", [])), None) for kind in ("dataset", "model")}
    parents["policy"] = next(iter(lineage.policies), None)
    config = {"runs": [run.id for run in chosen], "compare": False}
    return write_page(home, config, parents, out, lambda: single_page(chosen, lineage), found)


def write_page(
    home: Home,
    config: dict[str, Any],
    parents: dict[str, str | None],
    out: Path | None,
    make: Callable[[], str],
    found: dict[str, Any],
) -> dict[str, Any]:
    """Write a page to a file, or into a run of its own; return what it is about and where it lies."""
    if out is not None:
        if out.is_dir():
            raise RwmError(f"{out} is a folder.", f"--out {out / PAGE}")
        write_text(out, make())
        return {"page": str(out), "run": None, **found}
    run = Run.create(home, "report", config, parents, seed=0)
    with run.running():
        write_text(run.path / PAGE, make())
        run.finish(found)
    return {"page": str(run.path / PAGE), "run": run.id, **found}


def single_page(chosen: list[Run], lineage: Lineage) -> str:
    """Return the page about one lineage as HTML."""
    subjects = [*reversed(lineage.policies.values()), *reversed(lineage.models.values())]
    sections = [section_of(e, lineage.summaries[e.id]) for e in lineage.evaluations]
    notices = lineage.notices + [notice for section in sections for notice in section.notices]
    curves = [
        (f"{run.kind} {run.id}", curve_of([run])) for run in [*lineage.models.values(), *lineage.policies.values()]
    ]
    for title, curve in curves:
        if curve is None:
            notices.append(Notice(f"The {title} recorded no metrics, so it has no learning curve."))
    return render(
        "report.html",
        title=f"{chosen[0].kind.capitalize()} {chosen[0].id}" if len(chosen) == 1 else f"{len(chosen)} runs",
        robot=robot_of(lineage),
        **about_page(),
        notices=notices,
        chain=chain_of(lineage),
        tiles=tiles_of(lineage),
        keys=[(f"{run.kind} {run.id}", keys) for run in subjects if (keys := key_table(lineage, run))],
        sections=sections,
        curves=[(title, curve) for title, curve in curves if curve],
        datasets=[dataset_tables(dataset) for dataset in lineage.datasets.values()],
        commands=commands_of(lineage),
        configs=[(f"{run.kind} {run.id}", dump(run.meta.config)) for run in lineage.runs],
        earlier=earlier_table(lineage),
    )


def about_page() -> dict[str, str]:
    """Return when and with what a page was made."""
    return {"made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "version": version("rwm")}


def robot_of(lineage: Lineage) -> str:
    """Return the robot's name, of the datasets or else of the evaluations."""
    named = [d.robot for d in lineage.datasets.values()] + [s.robot for s in lineage.summaries.values()]
    return ", ".join(dict.fromkeys(named))


def chain_of(lineage: Lineage) -> list[tuple[str, list[Card]]]:
    """Return the steps of the lineage, each with its cards; a step without any says so."""
    datasets = [
        Card(f"dataset-{d.name}", d.name, f"{d.rows:,} rows, {len(d.episodes):,} episodes", "")
        for d in lineage.datasets.values()
    ]
    models, policies = (
        [Card(f"run-{r.id}", r.id, facts_of(r), r.meta.status) for r in runs.values()]
        for runs in (lineage.models, lineage.policies)
    )
    evaluations = [
        Card(f"run-{r.id}", lineage.summaries[r.id].evaluation, r.id, r.meta.status) for r in lineage.evaluations
    ]
    return [("Dataset", datasets), ("Model", models), ("Policy", policies), ("Evaluations", evaluations)]


def facts_of(run: Run) -> str:
    """Return a model's or policy's settings in a few words."""
    config = run.meta.config
    if "imported" in config:
        return f"imported from {config['imported']}"
    if run.kind == "model" and "members" in config:
        return f"{config['members']} x {config['base']}, {config['updates']:,} updates"
    if run.kind == "train" and "task" in config:
        return f"PPO, {config['task']}, {config['iterations']} iterations"
    if config.get("algo") == "bc":
        return f"behaviour cloning, {config['updates']:,} updates"
    lam = config.get("imagination", {}).get("lam")
    return "" if lam is None else f"λ = {lam:g}, {config['iterations']} iterations"


def tiles_of(lineage: Lineage) -> list[Cell]:
    """Return the numbers at the top of the page; the sort key is the label."""
    found = [pair for run in [*lineage.policies.values(), *lineage.models.values()]
             for pair in key_numbers(lineage.of(run))]  # fmt: skip
    tiles = []
    for wanted in TILES:
        for key, scalar in found:
            at = (key.evaluation, key.metric, key.mode, key.horizon)
            if at == wanted and scalar.value is not None:
                tiles.append(Cell(number(scalar.value), key.label, interval(scalar.low, scalar.high)))
                break
    return tiles[:MOST_TILES]


def key_table(lineage: Lineage, run: Run) -> Table | None:
    """Return a model's or policy's key numbers beside published ones; None when nothing was measured."""
    rows = [
        (key.label, cell(scalar.value, interval(scalar.low, scalar.high)), key.published, Cell(key.source, key.source,
         key.difference)) for key, scalar in key_numbers(lineage.of(run))
    ]  # fmt: skip
    if not rows:
        return None
    if run.kind == "model" and isinstance(parameters := run.meta.summary.get("parameters"), int):
        source = "RWM-U's model of 5 members (arXiv:2504.16680)"
        rows.append(
            ("Parameters", cell(parameters), "1,995,569", Cell(source, source, "for ANYmal D's 45 + 12 columns"))
        )
        dataset = lineage.datasets.get(run.meta.parents.get("dataset") or "")
        if dataset is not None:
            source = "RWM-U, Table S10 (arXiv:2504.16680)"
            rows.append(("Transitions in the dataset", cell(dataset.rows), "6,000,000", Cell(source, source)))
    return table("", ("Quantity", "Here", "Published", "Where, and what differs"), rows)


def curve_of(runs: list[Run]) -> Picture | None:
    """Return the learning curves of one run, or of two of a kind; None when there are none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        if not draw_curves(path, runs):
            return None
        caption = "From the metrics the run recorded; what was not finite is a gap."
        if len(runs) > 1:
            caption = "Metrics both runs recorded, over each other."
        return picture(path, "Learning curves", caption)


def dataset_tables(dataset: Dataset) -> dict[str, Any]:
    """Return what is known of a dataset: facts, behaviours, statistics of the columns."""
    episodes, manifest = dataset.episodes, dataset.manifest
    minutes = dataset.rows / dataset.control_hz / 60
    falls = int(episodes.terminated.sum())
    splits = ", ".join(f"{name} {len(ids):,}" for name, ids in manifest.splits.items())
    facts = [
        ("robot", dataset.robot), ("rows", dataset.rows), ("minutes of robot time", minutes),
        ("control rate (Hz)", dataset.control_hz), ("episodes", len(episodes)), ("falls", falls),
        ("episodes by split", splits), ("created", manifest.created[:19]),
        ("source", str(manifest.provenance.get("source", "not recorded"))),
    ]  # fmt: skip
    return {
        "name": dataset.name,
        "facts": table("", ("What", "Value"), facts),
        "behaviours": table("Behaviours", ("Behaviour", "Episodes", "Rows", "Falls", "Falls a minute"),
                            behaviour_rows(dataset)),
        "columns": table("Columns", ("Column", "Unit", "Mean", "Std", "Min", "Max"),
                         [(c.name, c.unit, c.mean, c.std, c.min, c.max) for c in manifest.columns]),
    }  # fmt: skip


def behaviour_rows(dataset: Dataset) -> list[tuple[Any, ...]]:
    """Return episodes, rows, falls and falls a minute of every behaviour."""
    episodes, rows = dataset.manifest.episodes, []
    for name in dict.fromkeys(episodes.behaviour):
        mine = [i for i, behaviour in enumerate(episodes.behaviour) if behaviour == name]
        length, falls = sum(episodes.length[i] for i in mine), sum(episodes.terminated[i] for i in mine)
        rows.append((name or "not recorded", len(mine), length, falls, falls / (length / dataset.control_hz / 60)))
    return rows


def commands_of(lineage: Lineage) -> list[Command]:
    """Return how to make everything on the page again, in order."""
    found = []
    for dataset in lineage.datasets.values():
        command = dataset_command(dataset)
        text = command or "its origin is not recorded well enough to say"
        found.append(Command(f"dataset {dataset.name}", text))
    for run in lineage.runs:
        command, recorded = run_command(run), recorded_command(run)
        meta = run.meta
        parts = [
            f"{name} {meta.versions[name]}" for name in ("rwm", "python", "torch", "mujoco") if name in meta.versions
        ]
        if meta.git:
            parts.append(f"commit {str(meta.git['commit'])[:12]}{' with changes' if meta.git.get('dirty') else ''}")
        name = lineage.summaries[run.id].evaluation if run.kind == "eval" else KINDS[run.kind]
        found.append(Command(f"{name} {run.id}", command, "" if recorded == command else recorded, ", ".join(parts)))
    return found


def dump(config: dict[str, Any]) -> str:
    """Return a configuration as YAML."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def earlier_table(lineage: Lineage) -> Table | None:
    """Return the repetitions that are not shown."""
    rows = [(e.meta.config.get("evaluation", ""), e.id, e.meta.created[:19], f"rwm report {e.id}")
            for e in lineage.earlier]  # fmt: skip
    return table("", ("Evaluation", "Run", "Created (UTC)", "See it"), rows) if rows else None
