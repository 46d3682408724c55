"""``rwm eval``: the evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    DatasetArgument,
    DeviceOption,
    HomeOption,
    JsonOption,
    ModelOption,
    SeedOption,
    home_of,
    out,
    pick_fitted,
    pick_model,
    pick_policy,
    pick_run,
    print_json,
    print_table,
    progress_bar,
    say,
)
from rwmdata.evaluation_summary import EvaluationSummary, Scalar
from rwmdata.runs import Run

app = typer.Typer(help="Evaluate models and policies.", no_args_is_help=True)

PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="As in rwm data export, or a run; the newest policy run when left out.")
]


@app.command("uncertainty")
def uncertainty(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Held-out trajectories.")] = 32,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Autoregressive steps.")] = 200,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Scale the epistemic uncertainty by the model's factors of each step.")
    ] = False,
    reference_alignment: Annotated[
        bool,
        typer.Option("--reference-alignment", help="Also feed actions one row late, like the authors' evaluation."),
    ] = False,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Relate the ensemble's uncertainty to its autoregressive error on held-out episodes (RWM-U Figure 3)."""
    from reports.evaluate.uncertainty import UncertaintyConfig, evaluate_uncertainty

    config = UncertaintyConfig(
        windows=windows,
        steps=steps,
        calibrated=calibrated,
        reference_alignment=reference_alignment,
        seed=seed,
        device=device,
    )
    evaluate_model(evaluate_uncertainty, config, home, dataset, model, json_output)


@app.command("dynamics")
def dynamics(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Held-out trajectories.")] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Autoregressive steps, where episodes allow.")] = 368,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Measure a model's error by horizon and state group, beside holding the last state and a linear model."""
    from reports.evaluate.dynamics import DynamicsConfig, evaluate_dynamics

    config = DynamicsConfig(windows=windows, steps=steps, seed=seed, device=device)
    evaluate_model(evaluate_dynamics, config, home, dataset, model, json_output)


@app.command("calibration")
def calibration(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Held-out trajectories.")] = 256,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Autoregressive steps, where episodes allow.")] = 200,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Measure how true the ensemble's standard deviations are, before and after rwm model calibrate."""
    from reports.evaluate.calibration import CalibrationConfig, evaluate_calibration

    config = CalibrationConfig(windows=windows, steps=steps, seed=seed, device=device)
    evaluate_model(evaluate_calibration, config, home, dataset, model, json_output)


@app.command("noise")
def noise(
    dataset: DatasetArgument = None,
    model: ModelOption = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Held-out trajectories.")] = 100,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Autoregressive steps, where episodes allow.")] = 400,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Measure a model's error under noise on the states and actions it is fed, of growing scale (RWM Figure 3b)."""
    from reports.evaluate.noise import NoiseConfig, evaluate_noise

    config = NoiseConfig(windows=windows, steps=steps, seed=seed, device=device)
    evaluate_model(evaluate_noise, config, home, dataset, model, json_output)


@app.command("policy")
def policy(
    policy: PolicyOption = None,
    robot: Annotated[str, typer.Option("--robot", help="Robot name or folder.")] = "anymal_d",
    episodes: Annotated[int, typer.Option("--episodes", min=2, help="Episodes per scenario.")] = 128,
    film: Annotated[bool, typer.Option("--film", help="Also draw how it walks.")] = False,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Score a policy in the simulator: unpenalised return, tracking errors, falls, with and without disturbances."""
    from reports.evaluate.policy_score import PolicyScoreConfig, evaluate_policy

    chosen = pick_policy(home_of(home), policy, json_output)
    config = PolicyScoreConfig(policy=chosen, robot=robot, episodes=episodes, seed=seed, film=film)
    with progress_bar("policy", json_output) as progress:
        result = evaluate_policy(home_of(home), config, progress)
    show_scalars(result, json_output)


@app.command("closed-loop")
def closed_loop(
    policy: PolicyOption = None,
    model: ModelOption = None,
    robots: Annotated[int, typer.Option("--robots", min=2, help="Robots side by side.")] = 64,
    settle: Annotated[int, typer.Option("--settle", min=0, help="Control steps before the history begins.")] = 50,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Control steps imagined.")] = 200,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Let a policy walk in the simulator and in the model from the same start, and measure how far they part."""
    from reports.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop

    where = home_of(home)
    chosen, checkpoint = pick_policy(where, policy, json_output), pick_model(where, model, json_output)
    config = ClosedLoopConfig(policy=chosen, robots=robots, settle=settle, steps=steps, seed=seed, device=device)
    with progress_bar("simulate", json_output) as progress:
        result = evaluate_closed_loop(where, checkpoint, config, progress)
    show_scalars(result, json_output)


@app.command("lambda-sweep")
def lambda_sweep(
    model: ModelOption = None,
    episodes: Annotated[int, typer.Option("--episodes", min=2, help="Episodes per policy and scenario.")] = 128,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Score a sweep's policies in the simulator and hold it against what they imagined (RWM-U Figure 4)."""
    from reports.evaluate.lambda_sweep import LambdaSweepConfig, evaluate_lambda_sweep

    where = home_of(home)
    checkpoint = pick_model(where, model, json_output)
    with progress_bar("policies", json_output) as progress:
        result = evaluate_lambda_sweep(where, checkpoint, LambdaSweepConfig(episodes=episodes, seed=seed), progress)
    show_scalars(result, json_output)
    if not json_output:
        out.print(result.meta.summary["verdict"], highlight=False)


@app.command("references")
def references(
    run: Annotated[str | None, typer.Argument(help="Training run; the newest when left out.")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write the policies into.")] = Path("policies"),
    episodes: Annotated[int, typer.Option("--episodes", min=2, help="Episodes per scenario.")] = 512,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Score a training run's stages; write its robot's random, medium and expert, the stages and the learning curve.

    Put the folder beside your robot's robot.yaml, and --policy expert and normalised scores work for it.
    """
    from reports.references import ReferenceConfig, build_references

    source = pick_run(home_of(home), "train", run, json_output)
    with progress_bar("references", json_output) as progress:
        found = build_references(source, out_dir, ReferenceConfig(episodes=episodes, seed=seed), progress)
    if json_output:
        print_json(found)
        return
    rows = [(r["iteration"], r["minutes"], r["return"], r["normalized_score"]) for r in found["curve"]]
    print_table(f"stages of {source.id}", ("iteration", "minutes", "return", "normalised score"), rows)
    out.print(f"wrote {out_dir}", highlight=False)


def evaluate_model(
    evaluate: Callable[..., Run], config: Any, home: str, dataset: str | None, model: str | None, json_output: bool
) -> None:
    """Run an evaluation of a model on the dataset it was fitted on or on a named one, and print its numbers."""
    where = home_of(home)
    checkpoint = pick_model(where, model, json_output)
    source = pick_fitted(where, dataset, checkpoint, json_output)
    with progress_bar("evaluate", json_output) as progress:
        result = evaluate(where, source, checkpoint, config, progress)
    show_scalars(result, json_output)


def show_scalars(run: Run, json_output: bool) -> None:
    """Print an evaluation's numbers and where it lies."""
    if json_output:
        print_json(run.meta.summary)
        return
    summary, key = EvaluationSummary.of_run(run), ("metric", "mode", "horizon")
    whole, parts = split_parts(summary.scalars)
    rows = [(*s.key, s.value, s.low, s.high) for s in whole]
    print_table(f"{summary.evaluation} of {summary.robot}", (*key, "value", "95 % low", "95 % high"), rows)
    for columns, table in parts:
        print_table("by part", (*key, *columns), table)
    for what in run.meta.summary.get("not_computed") or []:
        say(f"not computed: {what}")
    out.print(f"wrote {run.path}", highlight=False)


def split_parts(scalars: list[Scalar]) -> tuple[list[Scalar], list[tuple[list[str], list[tuple]]]]:
    """Return the numbers of the whole, and tables of those of parts (``metric/part``) with a column for each part.

    Metrics with the same parts share a table.
    """
    whole = [s for s in scalars if "/" not in s.metric]
    value = {s.key: s.value for s in scalars}
    names: dict[tuple[str, str | None, int | None], list[str]] = {}
    for metric, mode, horizon in value:
        if "/" in metric:
            base, _, part = metric.partition("/")
            names.setdefault((base, mode, horizon), []).append(part)
    tables: dict[tuple[str, ...], list[tuple]] = {}
    for (base, mode, horizon), parts in names.items():
        numbers = (value[f"{base}/{part}", mode, horizon] for part in parts)
        tables.setdefault(tuple(parts), []).append((base, mode, horizon, *numbers))
    return whole, [(list(columns), rows) for columns, rows in tables.items()]
