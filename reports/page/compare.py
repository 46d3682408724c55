"""Two runs side by side: what their configurations differ in, their numbers with the difference, their curves."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from reports.page.captions import about_evaluation
from reports.page.evaluation_section import section_of
from reports.page.html import Cell, Picture, Table, cell, interval, number, render, table
from reports.page.lineage import Lineage, Notice, choose, lineage_of
from reports.page.report import about_page, commands_of, curve_of, robot_of, write_page
from reports.page.reproduce import evaluation_command
from rwmdata.config import flat
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary, Scalar, current_name
from rwmdata.home import POLICY_KINDS, Home
from rwmdata.runs import Run
from rwmdata.text import quoted

CONDITIONS = ("dataset", "split", "windows", "steps", "episodes", "seed", "units")
"""What two evaluations must share for their numbers to be the same quantity."""
Evaluated = dict[str, tuple[Run, EvaluationSummary]]
"""The newest evaluation of each name."""


class Difference(NamedTuple):
    """A setting in which two runs differ; None where one does not have it."""

    key: str
    a: object
    b: object


@dataclass(frozen=True)
class ScalarPair:
    """One number of an evaluation in both runs."""

    evaluation: str
    a: Scalar
    b: Scalar

    @property
    def difference(self) -> float | None:
        """B - A."""
        return None if self.a.value is None or self.b.value is None else self.b.value - self.a.value

    @property
    def apart(self) -> bool | None:
        """Whether the 95 % intervals have no common point; None where one number has none."""
        a, b = self.a, self.b
        if a.low is None or a.high is None or b.low is None or b.high is None:
            return None
        return a.low > b.high or b.low > a.high

    @property
    def percent(self) -> str:
        """B - A in percent of A; empty where that says nothing."""
        if self.difference is None or self.a.value is None or self.a.value <= 0:
            return ""
        return f"{100 * self.difference / self.a.value:+.1f} %".replace("-", "−")

    def content(self) -> dict[str, object]:
        """Return it as JSON content."""
        name = {"evaluation": self.evaluation, **self.a.model_dump(include={"metric", "mode", "horizon", "group"})}
        return {**name, "a": self.a.value, "b": self.b.value, "difference": self.difference, "apart": self.apart}


@dataclass(frozen=True)
class ComparedEvaluation:
    """What the page shows of one evaluation of both runs."""

    title: str
    tables: list[Table]
    parts: list[Table]
    pictures: list[Picture]


def build_comparison(home: Home, first: str, second: str, out: Path | None = None) -> dict[str, Any]:
    """Write the page that compares two runs, A and B, given by id, unique prefix or path.

    It goes to the file ``out``; without one, to ``report.html`` of a new ``report`` run.

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
    sides = list(zip(chosen, lineages, strict=True))
    evaluated = [newest_of(*side) for side in sides]
    notices = [Notice(exc.message, exc.hint) for exc in broken] + _unlike(chosen, evaluated, lineages)
    shared = [(mine, evaluated[1][name]) for name, mine in evaluated[0].items() if name in evaluated[1]]
    curve = curve_of(chosen) if chosen[0].kind == chosen[1].kind else None
    commands = [command for run, lineage in sides for command in commands_of(lineage) if run.id in command.what]
    differences = config_differences(*chosen)
    settings = [(d.key, *(None if value is None else str(value) for value in (d.a, d.b))) for d in differences]
    html = render(
        "compare.html",
        title="Two runs side by side",
        robot=", ".join(dict.fromkeys(filter(None, map(robot_of, lineages)))),
        **about_page(),
        runs=list(zip("AB", chosen, strict=True)),
        notices=notices,
        config=table("", ("Setting", "A", "B"), settings),
        summary=summary_table(*chosen),
        pairs=[compared(*pair) for pair in shared],
        curve=curve,
        commands=commands,
    )
    config = {"runs": [run.id for run in chosen], "compare": True}
    content = {
        "compared": config["runs"],
        "differences": [difference._asdict() for difference in differences],
        "scalars": [pair.content() for (_, a), (_, b) in shared for pair in scalar_pairs(a, b)],
        "missing": [vars(notice) for notice in notices],
    }
    parents = {kind: _shared_parent(chosen, kind) for kind in ("dataset", "model", "policy")}
    return write_page(home, config, parents, out, html, content)


def newest_of(run: Run, lineage: Lineage) -> Evaluated:
    """Return a run's newest evaluation of each name; an evaluation run is its own."""
    summaries = [(e, lineage.summaries[e.id]) for e in lineage.evaluations]
    of_run = {s.run for s in lineage.of(run)} if run.kind != "eval" else {run.id}
    return {s.evaluation: (e, s) for e, s in reversed(summaries) if e.id in of_run or s.run in of_run}


def config_differences(a: Run, b: Run) -> list[Difference]:
    """Return the settings, parents included, in which two runs differ."""
    left, right = (flat({**run.meta.parents, **run.meta.config}) for run in (a, b))
    keys = dict.fromkeys([*left, *right])
    return [Difference(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def scalar_pairs(a: EvaluationSummary, b: EvaluationSummary) -> list[ScalarPair]:
    """Return the numbers two evaluations both have."""
    other = {s.key: s for s in b.scalars}
    return [ScalarPair(a.evaluation, s, other[s.key]) for s in a.scalars if s.key in other]


def _shared_parent(runs: list[Run], kind: str) -> str | None:
    """Return the parent both runs have, or the first run itself where it is of that kind."""
    names = [run.id if run.kind == kind else run.meta.parents.get(kind) for run in runs]
    return names[0] if names[0] == names[1] else None


def _unlike(chosen: list[Run], evaluated: list[Evaluated], lineages: list[Lineage]) -> list[Notice]:
    """Return what stands in the way of the comparison."""
    notices, alike = [], chosen[0].kind == chosen[1].kind
    if not alike:
        notices.append(Notice(f"A is a {chosen[0].kind} run, B a {chosen[1].kind} run: they have no common curves."))
    for run in chosen:
        if run.meta.status != "finished":
            notices.append(Notice(f"{run.id} is {run.meta.status}.", f"rwm runs resume {quoted(run.id)}"))
    for mine, theirs, run in zip(evaluated, reversed(evaluated), reversed(chosen), strict=True):
        kind = "policy" if run.kind in POLICY_KINDS else "model"
        for name in mine if alike and run.kind != "eval" else ():
            if name not in theirs:
                command = shlex.join([*evaluation_command(name), f"--{kind}", run.id])
                notices.append(Notice(f"{run.id} has no {name} evaluation.", command))
    shared = [name for name in evaluated[0] if name in evaluated[1]]
    for name in shared:
        a, b = (each[name][1].model_dump() for each in evaluated)
        # In the simulator a policy is asked nothing about the dataset it comes from.
        asked = [key for key in CONDITIONS if (name, key) != ("policy", "dataset")]
        unlike = [f"{key} {a.get(key)} and {b.get(key)}" for key in asked if a.get(key) != b.get(key)]
        if unlike:
            notices.append(Notice(f"The {name} evaluations are not alike: {'; '.join(unlike)}."))
    if not shared:
        notices.append(Notice("No evaluation of both runs: there are no numbers to compare.", "rwm eval --help"))
    return notices + [n for lineage in lineages for n in lineage.notices if "cannot be read" in n.text]


def compared(first: tuple[Run, EvaluationSummary], second: tuple[Run, EvaluationSummary]) -> ComparedEvaluation:
    """Return one evaluation of both runs: numbers beside each other, and the figures both have."""
    (run_a, a), (run_b, b) = first, second
    pairs = scalar_pairs(a, b)
    whole, parts = ([p for p in pairs if (p.a.group is None) == plain] for plain in (True, False))
    figures = [{p.title: p for p in section_of(run, s).pictures} for run, s in (first, second)]
    pictures = [
        replace(side[title], title=f"{name}: {title}")
        for title in figures[0]
        if title in figures[1]
        for name, side in zip("AB", figures, strict=True)
    ]
    caption = f"A {run_a.id}, B {run_b.id}; bold where the 95 % intervals lie apart"
    tables = [pair_table(whole, caption)] if whole else []
    by_part = [pair_table(parts, "By part")] if parts else []
    return ComparedEvaluation(about_evaluation(a.evaluation).title, tables, by_part, pictures)


def pair_table(pairs: list[ScalarPair], caption: str) -> Table:
    """Return numbers beside each other with their difference; columns of modes and horizons where there are any."""
    columns = [n for k, n in enumerate(("Metric", "Mode", "Horizon")) if any(p.a.key[k] is not None for p in pairs)]
    lines = []
    for pair in pairs:
        names = [getattr(pair.a, column.lower()) for column in columns]
        sides = [cell(side.value, interval(side.low, side.high)) for side in (pair.a, pair.b)]
        difference = replace(cell(pair.difference, pair.percent), strong=bool(pair.apart))
        lines.append((*names, *sides, difference))
    return table(caption, (*columns, "A", "B", "B − A"), lines)


def summary_table(a: Run, b: Run) -> Table | None:
    """Return the key numbers both runs recorded of themselves, None where there are none."""
    left, right = ({current_name(k): v for k, v in run.meta.summary.items()} for run in (a, b))
    rows = [
        (key, value, right[key], Cell(number(right[key] - value), repr(right[key] - value), numeric=True))
        for key, value in left.items()
        if _is_number(value) and _is_number(right.get(key)) and key not in ("summary_version", "seed")
    ]
    return table("", ("What the runs say of themselves", "A", "B", "B − A"), rows) if rows else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
