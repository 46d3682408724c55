"""What a report is about: chosen runs, what they were made from, what was measured of them, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reports.page.captions import EVALUATIONS
from reports.page.reproduce import run_command
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary
from rwmdata.home import POLICY_KINDS, Home
from rwmdata.runs import DIGEST, Run
from rwmdata.shipped import is_shipped
from rwmdata.text import quoted

USUAL = {"model": ("dynamics", "uncertainty", "calibration", "noise"), "policy": ("policy",)}
"""Evaluations every model, and every policy, should have had."""


@dataclass(frozen=True)
class Notice:
    """Something the page lacks, and the command that brings it."""

    text: str
    command: str = ""


@dataclass
class Lineage:
    """Datasets, models, policies and evaluations; each kind in the order it was added."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    models: dict[str, Run] = field(default_factory=dict)
    policies: dict[str, Run] = field(default_factory=dict)
    evaluations: list[Run] = field(default_factory=list)
    """Finished ones with a readable summary; of repetitions the newest."""
    earlier: list[Run] = field(default_factory=list)
    """Older repetitions."""
    summaries: dict[str, EvaluationSummary] = field(default_factory=dict)
    """By evaluation run."""
    notices: list[Notice] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Every run of the page, in the order they were made from each other."""
        return [*self.models.values(), *self.policies.values(), *self.evaluations]

    def of(self, run: Run) -> list[EvaluationSummary]:
        """Return the summaries of a model's or a policy's evaluations, newest first."""
        return [self.summaries[e.id] for e in evaluations_of(run, self.evaluations)]


def choose(home: Home, names: list[str], runs: list[Run]) -> list[Run]:
    """Return the runs a report is about: those named by id, unique prefix or path, else the newest model or policy.

    ``runs`` are the home's readable runs, newest first.

    Raises:
        RwmError: A name fits none or several, or is a report's, or there is no model and no policy.
    """
    if names:
        named = list({run.id: run for run in (home.run(None, name, runs) for name in names)}.values())
        reports = [run.id for run in named if run.kind == "report"]
        if reports:
            raise RwmError(f"{reports[0]} is a report itself.", "rwm runs ls")
        return named
    makes = [r for r in runs if r.kind in ("model", *POLICY_KINDS)]
    newest = next((r for r in makes if r.meta.status == "finished"), makes[0] if makes else None)
    if newest is None:
        raise RwmError(f"No model and no policy yet in {home.runs_dir}.", "rwm demo")
    return [newest]


def lineage_of(home: Home, chosen: list[Run], runs: list[Run]) -> Lineage:
    """Return the chosen runs with what they were made from and what was measured of them; faults become notices."""
    lineage = Lineage()
    for run in chosen:
        _add(lineage, run, runs)
    for run in [r for r in chosen if r.kind == "eval"]:
        _add_evaluation(lineage, run)
    for made in [*lineage.models.values(), *lineage.policies.values()]:
        if not any(r.kind == "eval" for r in chosen):
            for run in evaluations_of(made, runs):
                _add_evaluation(lineage, run)
    for name in dict.fromkeys(name for run in lineage.runs if (name := run.meta.parents.get("dataset"))):
        try:
            lineage.datasets[name] = home.dataset(name)
        except RwmError as exc:
            lineage.notices.append(Notice(f"The dataset '{name}' cannot be read: {exc.message}", exc.hint))
    order = {name: k for k, name in enumerate(EVALUATIONS)}
    lineage.evaluations.sort(key=lambda e: order.get(lineage.summaries[e.id].evaluation, len(order)))
    _say_what_is_missing(lineage, chosen, runs)
    return lineage


def evaluations_of(run: Run, runs: list[Run]) -> list[Run]:
    """Return the evaluations of a model (not those of policies trained in it) or of a policy, newest first."""
    evaluations = [r for r in runs if r.kind == "eval"]
    if run.kind in POLICY_KINDS:
        return [e for e in evaluations if e.meta.parents.get("policy") == run.id]
    return [e for e in evaluations if e.meta.parents.get("model") == run.id and not e.meta.parents.get("policy")]


def _add(lineage: Lineage, run: Run, runs: list[Run]) -> None:
    """Add a model or a policy, or those an evaluation is of, with the model it came from."""
    for kinds, parent in ((("model", "train"), "model"), (POLICY_KINDS, "policy")):
        name = run.meta.parents.get(parent)
        if not name or (parent == "policy" and run.kind != "eval"):
            continue
        source = next((r for r in runs if r.kind in kinds and r.id == name), None)
        if source is not None:
            _add(lineage, source, runs)
        elif DIGEST in name:
            if not is_shipped(Path(name.partition(DIGEST)[0])):
                lineage.notices.append(Notice(f"The {parent} of {run.kind} {run.id} is a file: {name}."))
        elif parent == "model" or run.meta.config.get("policy") != name:
            text = f"The {parent} {name}, which {run.kind} {run.id} was made from, is not in this home any more."
            lineage.notices.append(Notice(text, f"rwm runs ls --kind {parent}"))
    if run.kind == "model":
        lineage.models.setdefault(run.id, run)
    elif run.kind in POLICY_KINDS:
        lineage.policies.setdefault(run.id, run)


def _add_evaluation(lineage: Lineage, run: Run) -> None:
    if run.id in lineage.summaries or run in lineage.earlier:
        return
    try:
        summary = EvaluationSummary.of_run(run)
    except RwmError as exc:
        why = f" ({run.meta.error})" if run.meta.error else ""
        again = f"rwm runs show {quoted(run.id)}" if run.meta.status == "running" else run_command(run)
        lineage.notices.append(Notice(exc.message + why, exc.hint if run.meta.status == "finished" else again))
        return
    about = (summary.evaluation, summary.dataset, summary.model, summary.policy)
    if any((s.evaluation, s.dataset, s.model, s.policy) == about for s in lineage.summaries.values()):
        lineage.earlier.append(run)
    else:
        lineage.evaluations.append(run)
        lineage.summaries[run.id] = summary


def _say_what_is_missing(lineage: Lineage, chosen: list[Run], runs: list[Run]) -> None:
    for run in [*lineage.models.values(), *lineage.policies.values()]:
        kind = "policy" if run.kind in POLICY_KINDS else "model"
        if run.meta.status != "finished":
            why = f": {run.meta.error}" if run.meta.error else ""
            text = f"The {run.kind} {run.id} is not finished but {run.meta.status}{why}."
            lineage.notices.append(Notice(text, f"rwm runs resume {quoted(run.id)}"))
            continue
        had = {s.evaluation for s in lineage.of(run)}
        for name in USUAL[kind] if run in chosen else ():
            if name not in had:
                command = f"rwm eval {quoted(name)} --{kind} {quoted(run.id)}"
                lineage.notices.append(Notice(f"No {name} evaluation of {kind} {run.id} yet.", command))
    if lineage.models and not lineage.policies and any(r.kind == "model" for r in chosen):
        newest = next(reversed(lineage.models))
        others = [r for r in runs if r.kind in POLICY_KINDS and r.meta.parents.get("model") == newest]
        if others:
            text = f"No policy on this page: each of the {len(others)} trained in {newest} has a page of its own."
            lineage.notices.append(Notice(text, f"rwm report {quoted(others[0].id)}"))
            return
        text = "No policy on this page: one is trained inside a model, and then reported on by its own id."
        lineage.notices.append(Notice(text, f"rwm policy --model {quoted(newest)} --lam 1.0"))
