"""Two runs side by side: what their configurations differ in, their numbers with the difference, their curves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.page.captions import about_evaluation
from reports.page.evaluation_section import section_of
from reports.page.html import Cell, Picture, Table, cell, interval, number, render, table
from reports.page.lineage import POLICY_KINDS, Lineage, Notice, choose, lineage_of
from reports.page.report import about_page, commands_of, curve_of, robot_of, write_page
from reports.page.reproduce import flat
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary, Scalar, current_name
from rwmdata.home import Home
from rwmdata.runs import Run

CONDITIONS = ("dataset", "split", "windows", "steps", "episodes", "seed", "units")
"""What two evaluations must share for their numbers to be the same quantity."""
Found = dict[str, tuple[Run, EvaluationSummary]]
"""The newest evaluation of each name."""


@dataclass(frozen=True)
class Pair:
    """One evaluation of both runs."""

    title: str
    tables: list[Table]
    parts: list[Table]
    pictures: list[Picture]


def build_comparison(home: Home, first: str, second: str, out: Path | None = None) -> dict[str, Any]:
    """Write the page that compares two runs.

    Args:
        home: Where they are.
        first: Run A: id, unique prefix or path.
        second: Run B.
        out: File to write; without one, ``report.html`` of a new ``report`` run.

    Returns:
        ``{"page", "run", "compared", "differences", "scalars", "missing"}``: differing settings, and numbers both have.

    Raises:
        RwmError: A name fits no run or several, both name the same run, or the page cannot be written.
    """
    runs, broken = home.readable_runs()
    chosen = choose(home, [first, second], runs)
    if len(chosen) != 2:
        raise RwmError(f"{first} and {second} are the same run.", "rwm runs ls")
    lineages = [lineage_of(home, [run], runs) for run in chosen]
    notices = [Notice(exc.message, exc.hint) for exc in broken]
    found = [newest_of(run, lineage) for run, lineage in zip(chosen, lineages, strict=True)]
    notices += _unlike(chosen, found, lineages)
    differing = config_differences(*chosen)
    shared = [name for name in found[0] if name in found[1]]
    scalars = [row for name in shared for row in scalar_pairs(found[0][name][1], found[1][name][1])]
    parents = {kind: _shared(chosen, kind) for kind in ("dataset", "model", "policy")}
    config = {"runs": [run.id for run in chosen], "compare": True}
    differences = [{"key": key, "a": a, "b": b} for key, a, b in differing]
    content = {
        "compared": config["runs"],
        "differences": differences,
        "scalars": scalars,
        "missing": [vars(n) for n in notices],
    }
    html = _page(chosen, lineages, found, shared, differing, notices)
    return write_page(home, config, parents, out, html, content)


def newest_of(run: Run, lineage: Lineage) -> Found:
    """Return a run's newest evaluation of each name; an evaluation run is its own."""
    mine = [(e, lineage.summaries[e.id]) for e in lineage.evaluations]
    of_run = {s.run for s in lineage.of(run)} if run.kind != "eval" else {run.id}
    return {s.evaluation: (e, s) for e, s in reversed(mine) if e.id in of_run or s.run in of_run}


def config_differences(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    """Return the settings, parents included, in which two runs differ; None where one does not have it."""
    left, right = (flat({**run.meta.parents, **run.meta.config}) for run in (a, b))
    keys = dict.fromkeys([*left, *right])
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def scalar_pairs(a: EvaluationSummary, b: EvaluationSummary) -> list[dict[str, Any]]:
    """Return the numbers two evaluations both have, with B - A and whether their 95 % intervals lie apart."""
    other = {s.key: s for s in b.scalars}
    pairs = [(s, other[s.key]) for s in a.scalars if s.key in other]
    return [
        {
            "evaluation": a.evaluation,
            "metric": x.metric,
            "mode": x.mode,
            "horizon": x.horizon,
            "group": x.group,
            "a": x.value,
            "b": y.value,
            "difference": _difference(x.value, y.value),
            "apart": _apart(x, y),
        }
        for x, y in pairs
    ]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _apart(x: Scalar, y: Scalar) -> bool | None:
    """Whether two intervals have no common point; None where one number has none."""
    if x.low is None or x.high is None or y.low is None or y.high is None:
        return None
    return x.low > y.high or y.low > x.high


def _shared(runs: list[Run], kind: str) -> str | None:
    """Return the parent both runs have, or the first run itself where it is of that kind."""
    names = [run.id if run.kind == kind else run.meta.parents.get(kind) for run in runs]
    return names[0] if names[0] == names[1] else None


def _unlike(chosen: list[Run], found: list[Found], lineages: list[Lineage]) -> list[Notice]:
    """Say what stands in the way of the comparison."""
    notices = []
    if chosen[0].kind != chosen[1].kind:
        notices.append(Notice(f"A is a {chosen[0].kind} run, B a {chosen[1].kind} run: they have no common curves."))
    for run in chosen:
        if run.meta.status != "finished":
            notices.append(Notice(f"{run.id} is {run.meta.status}.", f"rwm runs resume {run.id}"))
    for mine, theirs, run in ((found[0], found[1], chosen[1]), (found[1], found[0], chosen[0])):
        kind = "policy" if run.kind in POLICY_KINDS else "model"
        for name in mine:
            if name not in theirs and chosen[0].kind == chosen[1].kind != "eval":
                notices.append(Notice(f"{run.id} has no {name} evaluation.", f"rwm eval {name} --{kind} {run.id}"))
    for name in [n for n in found[0] if n in found[1]]:
        a, b = (s.model_dump() for s in (found[0][name][1], found[1][name][1]))
        unlike = [f"{key} {a.get(key)} and {b.get(key)}" for key in CONDITIONS if a.get(key) != b.get(key)]
        if unlike:
            notices.append(Notice(f"The {name} evaluations are not alike: {'; '.join(unlike)}."))
    if not any(n in found[1] for n in found[0]):
        notices.append(Notice("No evaluation of both runs: there are no numbers to compare.", "rwm eval --help"))
    return notices + [n for lineage in lineages for n in lineage.notices if "cannot be read" in n.text]


def _page(
    chosen: list[Run],
    lineages: list[Lineage],
    found: list[Found],
    shared: list[str],
    differing: list[tuple[str, Any, Any]],
    notices: list[Notice],
) -> str:
    pairs = [pair_of(found[0][name], found[1][name]) for name in shared]
    curve = curve_of(chosen) if chosen[0].kind == chosen[1].kind else None
    commands = [
        command
        for run, lineage in zip(chosen, lineages, strict=True)
        for command in commands_of(lineage)
        if run.id in command.what
    ]
    rows = [(key, _text(a), _text(b)) for key, a, b in differing]
    return render(
        "compare.html",
        title="Two runs side by side",
        robot=", ".join(dict.fromkeys(filter(None, map(robot_of, lineages)))),
        **about_page(),
        runs=[(name, run) for name, run in zip("AB", chosen, strict=True)],
        notices=notices,
        config=table("", ("Setting", "A", "B"), rows),
        summary=summary_table(*chosen),
        pairs=pairs,
        curve=curve,
        commands=commands,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def pair_of(first: tuple[Run, EvaluationSummary], second: tuple[Run, EvaluationSummary]) -> Pair:
    """Return one evaluation of both runs: numbers beside each other, and the figures both have."""
    (run_a, a), (run_b, b) = first, second
    rows = scalar_pairs(a, b)
    scalars = (
        {(s.metric, s.mode, s.horizon): s for s in a.scalars},
        {(s.metric, s.mode, s.horizon): s for s in b.scalars},
    )
    whole, parts = ([r for r in rows if (r["group"] is None) == plain] for plain in (True, False))
    figures = [{p.title: p for p in section_of(run, s).pictures} for run, s in (first, second)]
    pictures = [
        replace(side[title], title=f"{name}: {title}")
        for title in figures[0]
        if title in figures[1]
        for name, side in zip("AB", figures, strict=True)
    ]
    caption = f"A {run_a.id}, B {run_b.id}; bold where the 95 % intervals lie apart"
    return Pair(
        about_evaluation(a.evaluation).title,
        [pair_table(whole, scalars, caption)] if whole else [],
        [pair_table(parts, scalars, "By part")] if parts else [],
        pictures,
    )


def pair_table(rows: list[dict[str, Any]], scalars: tuple[dict[Any, Scalar], ...], caption: str) -> Table:
    """Return numbers beside each other with their difference; columns of modes and horizons where there are any."""
    names = [n for n in ("metric", "mode", "horizon") if n == "metric" or any(row[n] is not None for row in rows)]
    lines = []
    for row in rows:
        key = (row["metric"], row["mode"], row["horizon"])
        sides = [cell(side[key].value, interval(side[key].low, side[key].high)) for side in scalars]
        difference = cell(row["difference"], _percent(row["a"], row["b"]))
        lines.append((*(row[n] for n in names), *sides, replace(difference, strong=bool(row["apart"]))))
    return table(caption, (*map(str.capitalize, names), "A", "B", "B − A"), lines)


def _percent(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None or a <= 0 else f"{100 * (b - a) / a:+.1f} %".replace("-", "−")


def summary_table(a: Run, b: Run) -> Table | None:
    """Return the key numbers both runs recorded of themselves, None where there are none."""
    left, right = ({current_name(k): v for k, v in run.meta.summary.items()} for run in (a, b))
    rows = [
        (key, value, right[key], Cell(number(right[key] - value), repr(right[key] - value), numeric=True))
        for key, value in left.items()
        if _is_number(value) and _is_number(right.get(key)) and key not in ("summary_version", "seed")
    ]
    return table("", ("What the runs say of themselves", "A", "B", "B − A"), rows) if rows else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
