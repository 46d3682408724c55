"""One page of evidence: where a model or policy came from, what was measured of it, and how to make it again."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from reports.page.curves import draw_curves
from reports.page.evaluation_section import section_of
from reports.page.html import Picture, Table, cell, interval, number, picture, render, table
from reports.page.lineage import Lineage, Notice, choose, lineage_of
from reports.page.published import SOURCES, key_numbers
from reports.page.reproduce import dataset_command, recorded_command, run_command
from reports.page.trust import answers_of
from rwmdata.atomic import write_text
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import Run
from rwmdata.text import quoted

PAGE = "report.html"
TILES = (
    ("policy", "normalized_score", "undisturbed", None),
    ("policy", "falls_per_minute", "disturbed", None),
    ("dynamics", "rel_l1", "model", 32),
    ("dynamics", "rel_l1", "model", 368),
    ("uncertainty", "pearson_pooled", "mean", None),
    ("calibration", "coverage", "epistemic_calibrated", 100),
)
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
class Tile:
    """A number at the top of the page."""

    label: str
    value: str
    interval: str


@dataclass(frozen=True)
class Command:
    """How to make one thing again."""

    what: str
    command: str
    anchor: str = ""
    recorded: str = ""
    """The command line it was started with, where that differs."""
    made_with: str = ""
    config: str = ""
    """Its resolved configuration."""


def build_report(home: Home, names: list[str] | None = None, out: Path | None = None) -> dict[str, Any]:
    """Write the page about runs given by id, unique prefix or path; about the newest model or policy without names.

    It goes to the file ``out``; without one, to ``report.html`` of a new ``report`` run.

    Returns:
        ``{"page", "run", "models", "policies", "datasets", "evaluations", "missing"}``.

    Raises:
        RwmError: A name fits no run, there is nothing to report on, or the page cannot be written.
    """
    runs, broken = home.readable_runs()
    chosen = choose(home, names or [], runs)
    lineage = lineage_of(home, chosen, runs)
    lineage.notices += [Notice(exc.message, exc.hint) for exc in broken]
    html = single_page(chosen, lineage)
    made = {"models": [*lineage.models], "policies": [*lineage.policies], "datasets": [*lineage.datasets]}
    evaluations, missing = [e.id for e in lineage.evaluations], [vars(notice) for notice in lineage.notices]
    content = {**made, "evaluations": evaluations, "missing": missing}
    kinds = {"dataset": "datasets", "model": "models", "policy": "policies"}
    parents = {kind: next(iter(made[plural]), None) for kind, plural in kinds.items()}
    return write_page(home, {"runs": [run.id for run in chosen], "compare": False}, parents, out, html, content)


def write_page(
    home: Home,
    config: dict[str, object],
    parents: dict[str, str | None],
    out: Path | None,
    html: str,
    content: dict[str, object],
) -> dict[str, Any]:
    """Write a page to a file, or into a run of its own; return what it is about and where it lies.

    Raises:
        RwmError: It cannot be written there.
    """
    if out is not None:
        if out.is_dir():
            raise RwmError(f"{out} is a folder.", f"--out {quoted(out / PAGE)}")
        write_text(out, html)
        return {"page": str(out), "run": None, **content}
    run = Run.create(home, "report", config, parents, seed=0)
    with run.running():
        write_text(run.path / PAGE, html)
        run.finish(content)
    return {"page": str(run.path / PAGE), "run": run.id, **content}


def single_page(chosen: list[Run], lineage: Lineage) -> str:
    """Return the page about one lineage as HTML; what cannot be shown becomes a notice of the lineage."""
    makers = [*lineage.models.values(), *lineage.policies.values()]
    sections = [section_of(e, lineage.summaries[e.id]) for e in lineage.evaluations]
    lineage.notices += [notice for section in sections for notice in section.notices]
    curves = [(f"{run.kind} {run.id}", curve_of([run])) for run in makers]
    for title, curve in curves:
        if curve is None:
            lineage.notices.append(Notice(f"The {title} recorded no metrics, so it has no learning curve."))
    return render(
        "report.html",
        title=f"{chosen[0].kind.capitalize()} {chosen[0].id}" if len(chosen) == 1 else f"{len(chosen)} runs",
        robot=robot_of(lineage),
        **about_page(),
        notices=lineage.notices,
        chain=chain_of(lineage),
        answers=answers_of(lineage),
        tiles=tiles_of(lineage),
        keys=[(f"{run.kind} {run.id}", keys) for run in reversed(makers) if (keys := key_table(lineage, run))],
        sections=sections,
        curves=[(title, curve) for title, curve in curves if curve],
        datasets=[dataset_tables(dataset) for dataset in lineage.datasets.values()],
        sources=SOURCES,
        commands=commands_of(lineage),
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


def tiles_of(lineage: Lineage) -> list[Tile]:
    """Return the numbers at the top of the page."""
    tiles: dict[tuple[str, str, str, int | None], Tile] = {}
    for run in [*lineage.policies.values(), *lineage.models.values()]:
        for one in key_numbers(lineage.of(run)):
            key, scalar = one.key, one.scalar
            if scalar.value is not None:
                tile = Tile(one.label, number(scalar.value), interval(scalar.low, scalar.high))
                tiles.setdefault((key.evaluation, key.metric, key.mode, key.horizon), tile)
    return [tiles[wanted] for wanted in TILES if wanted in tiles][:MOST_TILES]


def key_table(lineage: Lineage, run: Run) -> Table | None:
    """Return a model's or policy's key numbers beside published ones; None when nothing was measured."""
    rows = []
    for one in key_numbers(lineage.of(run)):
        note = interval(one.scalar.low, one.scalar.high) or one.conditions
        here, published = cell(one.scalar.value, note), cell(one.key.published, one.key.source)
        rows.append((one.label, here, published, cell(one.key.difference)))
    if not rows:
        return None
    if run.kind == "model" and isinstance(parameters := run.meta.summary.get("parameters"), int):
        published = cell("1,995,569", "RWM-U, 5 members, ANYmal D")
        rows.append(("Parameters", cell(parameters), published, cell(None)))
    dataset = lineage.datasets.get(run.meta.parents.get("dataset") or "")
    if run.kind == "model" and dataset is not None:
        published = cell("6,000,000", "RWM-U, Table S10")
        rows.append(("Transitions in the dataset", cell(dataset.rows), published, cell("all splits together, here")))
    return table("", ("Quantity", "Here", "Published", "What differs"), rows)


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


def dataset_tables(dataset: Dataset) -> dict[str, object]:
    """Return what is known of a dataset: facts, behaviours, statistics of the columns."""
    episodes, manifest = dataset.episodes, dataset.manifest
    minutes = dataset.rows / dataset.control_hz / 60
    falls = int(episodes.terminated.sum())
    splits = ", ".join(f"{name} {size}" for name, size in dataset.split_sizes.items())
    facts = [
        ("robot", dataset.robot), ("rows", dataset.rows), ("minutes of robot time", minutes),
        ("control rate (Hz)", dataset.control_hz), ("episodes", len(episodes)), ("falls", falls),
        ("episodes by split", splits), ("created", manifest.created[:19]),
        ("source", str(manifest.provenance.get("source", "not recorded"))),
    ]  # fmt: skip
    behaviour_heads = ("Behaviour", "Episodes", "Rows", "Falls", "Falls a minute")
    column_heads = ("Column", "Unit", "Mean", "Std", "Min", "Max")
    columns = [(c.name, c.unit, c.mean, c.std, c.min, c.max) for c in manifest.columns]
    return {
        "name": dataset.name,
        "facts": table("", ("What", "Value"), facts),
        "behaviours": table("Behaviours", behaviour_heads, behaviour_rows(dataset)),
        "columns": table("Columns", column_heads, columns),
    }


def behaviour_rows(dataset: Dataset) -> list[tuple[str, int, int, int, float]]:
    """Return episodes, rows, falls and falls a minute of every behaviour."""
    episodes, rows = dataset.manifest.episodes, []
    for name in dict.fromkeys(episodes.behaviour):
        mine = [i for i, behaviour in enumerate(episodes.behaviour) if behaviour == name]
        length, falls = sum(episodes.length[i] for i in mine), sum(episodes.terminated[i] for i in mine)
        rows.append((name or "not recorded", len(mine), length, falls, falls / (length / dataset.control_hz / 60)))
    return rows


def commands_of(lineage: Lineage) -> list[Command]:
    """Return how to make everything on the page again, in order."""
    commands = []
    for dataset in lineage.datasets.values():
        command = dataset_command(dataset) or "its origin is not recorded well enough to say"
        origin = {k: v for k, v in dataset.manifest.provenance.items() if k != "versions"}
        commands.append(Command(f"dataset {dataset.name}", command, config=dump(origin)))
    for run in lineage.runs:
        command, recorded, evaluation = run_command(run), recorded_command(run), run.kind == "eval"
        name = lineage.summaries[run.id].evaluation if evaluation else KINDS[run.kind]
        anchor, differing = "" if evaluation else f"run-{run.id}", "" if recorded == command else recorded
        config = dump(run.meta.config)
        commands.append(Command(f"{name} {run.id}", command, anchor, differing, made_with(run), config))
    return commands


def made_with(run: Run) -> str:
    """Return the versions and the commit a run was made with."""
    meta = run.meta
    parts = [f"{name} {meta.versions[name]}" for name in ("rwm", "python", "torch", "mujoco") if name in meta.versions]
    if meta.git:
        parts.append(f"commit {str(meta.git['commit'])[:12]}{' with changes' if meta.git.get('dirty') else ''}")
    return ", ".join(parts)


def dump(config: dict[str, object]) -> str:
    """Return a configuration as YAML."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def earlier_table(lineage: Lineage) -> Table | None:
    """Return the repetitions that are not shown."""
    rows = []
    for run in lineage.earlier:
        rows.append(
            (run.meta.config.get("evaluation", ""), run.id, run.meta.created[:19], f"rwm report {quoted(run.id)}")
        )
    return table("", ("Evaluation", "Run", "Created (UTC)", "See it"), rows) if rows else None
