"""An evaluation on the page: its question, its figures, its numbers as tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from reports.page.captions import about_evaluation, about_figure
from reports.page.html import Cell, Picture, Table, cell, interval, picture, table
from reports.page.lineage import Notice
from rwmdata.evaluation_summary import EvaluationSummary, Scalar
from rwmdata.runs import Run
from rwmdata.text import quoted

FACTS = ("dataset", "split", "windows", "steps", "episodes", "members", "seed")
"""Fields shown in the line below an evaluation's title, where it has them."""


@dataclass(frozen=True)
class Section:
    """What the page shows of one evaluation."""

    anchor: str
    title: str
    question: str
    facts: str
    units: str
    pictures: list[Picture]
    tables: list[Table]
    parts: list[Table]
    """Numbers by state group or reward term; folded away."""
    verdict: str = ""
    not_computed: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def section_of(run: Run, summary: EvaluationSummary) -> Section:
    """Return an evaluation's section; a figure that cannot be read becomes a notice."""
    about, pictures, notices = about_evaluation(summary.evaluation), [], []
    for file in sorted(run.path.glob("*.png")):
        figure = about_figure(file.stem)
        shown = picture(file, figure.title, figure.text)
        if shown is not None:
            pictures.append(shown)
            continue
        text = f"The figure {file.name} of evaluation {run.id} cannot be read."
        notices.append(Notice(text, f"rwm runs show {quoted(run.id)}"))
    content = summary.model_dump()
    facts = [f"{name} {content[name]}" for name in FACTS if content.get(name) is not None]
    whole = tables_of([s for s in summary.scalars if s.group is None], "Numbers")
    parts = tables_of([s for s in summary.scalars if s.group is not None], "By part")
    not_computed = [str(text) for text in content.get("not_computed") or []]
    heading = f"run-{run.id}", about.title, about.text, " · ".join([run.id, *facts]), summary.units
    verdict = str(content.get("verdict") or "")
    return Section(*heading, pictures, whole, parts, verdict, not_computed, notices)


def tables_of(scalars: list[Scalar], caption: str) -> list[Table]:
    """Return scalars as two tables: those with a horizon have a column for each, the others a row with its interval."""
    by_horizon = [s for s in scalars if s.horizon is not None]
    plain = [s for s in scalars if s.horizon is None]
    tables = [horizon_table(by_horizon, f"{caption} by horizon (control steps)")] if by_horizon else []
    if plain:
        rows = [(s.metric, s.mode, s.value, Cell(interval(s.low, s.high) or "–")) for s in plain]
        tables.append(table(caption, ("Metric", "Mode", "Value", "95 % interval"), rows))
    return tables


def horizon_table(scalars: list[Scalar], caption: str) -> Table:
    """Return a row for every metric and mode and a column for every horizon, intervals below the values."""
    horizons = sorted({s.horizon for s in scalars if s.horizon is not None})
    values = {s.key: s for s in scalars}
    rows = []
    for metric, mode in dict.fromkeys((s.metric, s.mode) for s in scalars):
        of_row = [values.get((metric, mode, h)) for h in horizons]
        rows.append((metric, mode, *(cell(s.value, interval(s.low, s.high)) if s else cell(None) for s in of_row)))
    return table(caption, ("Metric", "Mode", *map(str, horizons)), rows)
