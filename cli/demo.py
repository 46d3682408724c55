"""``rwm demo``: the whole chain at laptop size, then one table that says what was made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli.common import (
    DeviceOption,
    HomeOption,
    JsonOption,
    SeedOption,
    home_of,
    print_json,
    print_table,
    progress_bar,
    say,
)
from rwmdata.errors import RwmError
from rwmdata.progress import Progress
from rwmdata.runs import Run


@dataclass(frozen=True)
class Size:
    """How much of everything one demo does."""

    transitions: int
    preset: str
    windows: int
    steps: int


SIZES = {"laptop": Size(200_000, "demo", 32, 200), "smoke": Size(20_000, "smoke", 8, 50)}


@dataclass
class Stage:
    """One finished stage: what it made, where, how long it took, its key number."""

    name: str
    made: str
    key: str
    seconds: float
    path: str


def demo(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny version that only shows that everything runs.")
    ] = False,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Export, validate, fit, train a policy in imagination and evaluate, at laptop size."""
    from reports.uncertainty import UncertaintyConfig, evaluate_uncertainty
    from rwmdata.validate import validate
    from rwmmodel.fit import fit_model
    from rwmmodel.fit_config import fit_preset
    from rwmrl.export import ExportConfig, export_dataset
    from rwmrl.offline import PolicyConfig, train_policy

    where, size = home_of(home), SIZES["smoke" if smoke else "laptop"]
    stages: list[Stage] = []

    def stage(name: str, work: Callable[[Progress], Any], describe: Callable[[Any], tuple[str, str, Any]]) -> Any:
        started = time.perf_counter()
        with progress_bar(f"{len(stages) + 1}/5 {name:<12}", json_output) as progress:
            result = work(progress)
        made, key, path = describe(result)
        stages.append(Stage(name, made, key, time.perf_counter() - started, str(path)))
        return result

    export = ExportConfig(transitions=size.transitions, seed=seed)
    dataset = stage("export", lambda p: export_dataset(where, export, p), lambda d: (
        f"{d.rows:,} rows", f"{len(d.episodes)} episodes, {int(d.episodes.terminated.sum())} falls", d.path
    ))  # fmt: skip
    faults = stage("validate", lambda p: validate(dataset), lambda f: (
        "a verdict", f"{sum(x.severity == 'error' for x in f)} errors, {len(f)} faults", dataset.path
    ))  # fmt: skip
    errors = [f for f in faults if f.severity == "error"]
    if errors:
        raise RwmError(f"The exported dataset is not valid: {errors[0].message}", f"rwm data validate {dataset.name}")
    fit = fit_preset(size.preset, seed=seed, device=device)
    model = stage("fit", lambda p: fit_model(where, dataset, fit, p), lambda r: (
        f"model {r.id}", f"held-out relative L1 at h = 32: {r.meta.summary['val/relative_l1_h32']:.3f}", r.path
    ))  # fmt: skip
    train = PolicyConfig.preset(size.preset, lam=1.0, seed=seed, device=device)
    stage("policy", lambda p: train_policy(where, dataset, model, train, p), describe_policy)
    evaluation = UncertaintyConfig(windows=size.windows, steps=size.steps, seed=seed, device=device)
    stage("uncertainty", lambda p: evaluate_uncertainty(where, dataset, model, evaluation, p), describe_uncertainty)
    if json_output:
        print_json({"seconds": sum(s.seconds for s in stages), "stages": [vars(s) for s in stages]})
        return
    rows = [(s.name, s.made, s.key, f"{s.seconds:.0f} s", s.path) for s in stages]
    total = sum(s.seconds for s in stages)
    print_table(f"made in {total:.0f} s", ("stage", "made", "key number", "time", "where"), rows)
    say('next: rwm runs ls, rwm sql "select * from runs", rwm policy --lam 0')


def describe_policy(run: Run) -> tuple[str, str, Any]:
    """Return the policy stage's line of the table."""
    first, last = run.meta.summary["first_mean_reward"], run.meta.summary["mean_reward"]
    return f"policy {run.id}", f"imagined reward per step {first:.4f} -> {last:.4f}", run.path


def describe_uncertainty(run: Run) -> tuple[str, str, Any]:
    """Return the evaluation stage's line of the table."""
    found = {(s["metric"], s["mode"]): s["value"] for s in run.meta.summary["scalars"]}
    pooled = found[("pearson_pooled", "mean")]
    return f"evaluation {run.id}", f"Pearson uncertainty-error {'-' if pooled is None else f'{pooled:.2f}'}", run.path
