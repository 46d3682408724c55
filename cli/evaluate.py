"""``rwm eval``: the evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    Call,
    DeviceOption,
    FittedArgument,
    ModelOption,
    RobotOption,
    SeedOption,
    command,
    imported,
    out,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:  # Help is shown without these.
    from rwmdata.config import Frozen
    from rwmdata.evaluation_summary import Scalar
    from rwmdata.runs import Run

IN_MODEL = "model"
"""Backend of rwm eval policy that is none: a model judges."""

app = typer.Typer(help="Evaluate models and policies.", no_args_is_help=True)

WindowsOption = Annotated[int | None, typer.Option("--windows", help="Held-out trajectories.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Autoregressive steps, where episodes allow.")]
EpisodesOption = Annotated[int | None, typer.Option("--episodes", help="Episodes per policy and scenario.")]
PolicyOption = Annotated[
    str | None,
    typer.Option("--policy", help="Policy run or file, or expert, medium, random, ...; the newest run when left out."),
]


@command(app, "uncertainty", "reports.evaluate.uncertainty:UncertaintyConfig")
def uncertainty(
    call: Call,
    dataset: FittedArgument = None,
    model: ModelOption = None,
    windows: WindowsOption = None,
    steps: StepsOption = None,
    calibrated: Annotated[
        bool | None,
        typer.Option("--calibrated", help="Scale the epistemic uncertainty by the model's factors of each step."),
    ] = None,
    reference_alignment: Annotated[
        bool | None,
        typer.Option("--reference-alignment", help="Also feed actions one row late, like the authors' evaluation."),
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Relate the ensemble's uncertainty to its autoregressive error on held-out episodes (RWM-U Figure 3)."""
    from reports.evaluate.uncertainty import UncertaintyConfig, evaluate_uncertainty

    evaluate_model(call, evaluate_uncertainty, UncertaintyConfig)


def _add_evaluation_of_a_model(name: str, question: str) -> None:
    """Add the command of an evaluation that reads a model and held-out trajectories and has no options of its own."""
    module, config = f"reports.evaluate.{name}", f"reports.evaluate.{name}:{name.capitalize()}Config"

    def body(
        call: Call,
        dataset: FittedArgument = None,
        model: ModelOption = None,
        windows: WindowsOption = None,
        steps: StepsOption = None,
        seed: SeedOption = None,
        device: DeviceOption = None,
    ) -> None:
        evaluate_model(call, imported(f"{module}:evaluate_{name}"), imported(config))

    body.__doc__ = question
    command(app, name, config)(body)


for name, question in {
    "dynamics": "Measure a model's error by horizon and state group, beside holding the last state and a linear model.",
    "calibration": "Measure how true the ensemble's standard deviations are, before and after rwm model calibrate.",
    "noise": "Measure a model's error under growing noise on the states and actions it is given (RWM Figure 3b).",
}.items():
    _add_evaluation_of_a_model(name, question)


@command(app, "policy", "reports.evaluate.policy_score:PolicyScoreConfig")
def policy(
    call: Call,
    policy: PolicyOption = None,
    robot: RobotOption = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="Simulator: auto, mujoco, isaaclab or mjlab; or model: a model judges it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --backend model: one the policy was not trained in.")
    ] = None,
    episodes: EpisodesOption = None,
    film: Annotated[bool | None, typer.Option("--film", help="Also draw how it walks.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Score a policy in the simulator: unpenalised return, tracking errors, falls, with and without disturbances.

    Or, where there is none, in a model (--backend model --model MODEL).
    """
    from reports.evaluate.policy_score import PolicyScoreConfig, evaluate_policy

    named = {"policy": call.policy(policy)}
    if backend == IN_MODEL:
        from reports.evaluate.judgement import JudgementConfig, evaluate_judgement

        judge = call.model(model)
        judging = call.config(JudgementConfig, "backend", "model", over=named)
        show_scalars(call, call.work("policy", evaluate_judgement, call.home, call.fitted(None, judge), judge, judging))
        return
    config = call.config(PolicyScoreConfig, under=call.robot_of(named["policy"]), over=named)
    show_scalars(call, call.work("policy", evaluate_policy, call.home, config))


@command(app, "closed-loop", "reports.evaluate.closed_loop:ClosedLoopConfig")
def closed_loop(
    call: Call,
    policy: PolicyOption = None,
    model: ModelOption = None,
    robots: Annotated[int | None, typer.Option(help="Robots side by side.")] = None,
    settle: Annotated[int | None, typer.Option(help="Control steps before the history begins.")] = None,
    steps: Annotated[int | None, typer.Option(help="Control steps imagined.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Let a policy walk in the simulator and in the model from the same start, and measure how far they part."""
    from reports.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop

    config = call.config(ClosedLoopConfig, "model", over={"policy": call.policy(policy)})
    show_scalars(call, call.work("simulate", evaluate_closed_loop, call.home, call.model(model), config))


@command(app, "falls", "reports.evaluate.falls:FallsConfig")
def falls(
    call: Call,
    policy: PolicyOption = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model run or file; the policy's own, else the newest, when left out.")
    ] = None,
    robots: Annotated[int | None, typer.Option(help="Robots side by side.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Most simulations of a scenario; fewer once there are 100 falls.")
    ] = None,
    action_noise: Annotated[float | None, typer.Option(help="Std of noise on actions, so that it falls.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Ask a model some steps before a policy's simulated falls what will happen, and which error hides a fall."""
    from reports.evaluate.falls import FallsConfig, evaluate_falls
    from reports.evaluate.policy_score import parents_of

    config = call.config(FallsConfig, "model", over={"policy": call.policy(policy)})
    own = parents_of(call.home, config.policy).get("model")
    if model is None and own is not None:
        call.say(f"model {own} (the policy's)")
    result = call.work("falls", evaluate_falls, call.home, call.model(model or own), config)
    show_scalars(call, result)
    if not call.json:
        out.print(result.meta.summary["verdict"])


@command(app, "lambda-sweep", "reports.evaluate.lambda_sweep:LambdaSweepConfig")
def lambda_sweep(
    call: Call,
    model: ModelOption = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Model run that shall rank the policies too, without the simulator.")
    ] = None,
    episodes: EpisodesOption = None,
    seed: SeedOption = None,
) -> None:
    """Score a sweep's policies in the simulator and hold it against what they imagined (RWM-U Figure 4)."""
    from reports.evaluate.lambda_sweep import LambdaSweepConfig, evaluate_lambda_sweep

    config = call.config(LambdaSweepConfig, "model")
    result = call.work("policies", evaluate_lambda_sweep, call.home, call.model(model), config)
    show_scalars(call, result)
    if not call.json:
        out.print(result.meta.summary["verdict"])


@command(app, "learning", "reports.evaluate.learning:LearningConfig")
def learning(
    call: Call,
    runs: Annotated[list[str] | None, typer.Argument(help="Training runs; the newest when left out.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Label of a run, one for each; the same label is one curve.")
    ] = None,
    episodes: Annotated[int | None, typer.Option("--episodes", help="Episodes per stage and scenario.")] = None,
    stages: Annotated[int | None, typer.Option("--stages", help="Stages of a run that are scored.")] = None,
    disturbed: Annotated[bool | None, typer.Option("--disturbed", help="Score disturbed episodes too.")] = None,
    mark: Annotated[
        float | None, typer.Option("--mark", help="Normalised score whose first passing is reported.")
    ] = None,
    seed: SeedOption = None,
) -> None:
    """Relate return, falls and the model's error to simulated steps and to training time, and compare trainings."""
    from reports.evaluate.learning import LearningConfig, evaluate_learning

    names = runs or [call.run("train", None).id]
    config = call.config(LearningConfig, "label", over={"runs": names, "labels": label or []})
    result = call.work("stages", evaluate_learning, call.home, config)
    show_scalars(call, result)
    if not call.json:
        out.print(result.meta.summary["verdict"])


@command(app, "references", "reports.references:ReferenceConfig")
def references(
    call: Call,
    run: Annotated[str | None, typer.Argument(help="Training run; the newest when left out.")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write the policies into.")] = Path("policies"),
    episodes: EpisodesOption = None,
    seed: SeedOption = None,
) -> None:
    """Score a training run's stages; write its robot's random, medium and expert, the stages and the learning curve.

    Put the folder beside your robot's robot.yaml, and --policy expert and normalised scores work for it.
    """
    from reports.references import ReferenceConfig, build_references

    source, config = call.run("train", run), call.config(ReferenceConfig, "run", "out_dir")
    references = call.work("references", build_references, source, out_dir, config)
    if call.json:
        print_json(references)
        return
    rows = [(r["iteration"], r["minutes"], r["return"], r["normalized_score"]) for r in references["curve"]]
    print_table(f"stages of {source.id}", ("iteration", "minutes", "return", "normalised score"), rows)
    out.print(f"wrote {out_dir}")


def evaluate_model(call: Call, evaluate: Callable[..., Run], config: type[Frozen]) -> None:
    """Run an evaluation of a model on the dataset it was fitted on or on a named one, and print its numbers."""
    options = call.config(config, "dataset", "model")
    checkpoint = call.model(call.given.get("model"))
    source = call.fitted(call.given.get("dataset"), checkpoint)
    show_scalars(call, call.work("evaluate", evaluate, call.home, source, checkpoint, options))


def show_scalars(call: Call, run: Run) -> None:
    """Print an evaluation's numbers and where it lies."""
    if call.json:
        print_json(run.meta.summary)
        return
    from rwmdata.evaluation_summary import EvaluationSummary

    summary, key = EvaluationSummary.of_run(run), ("metric", "mode", "horizon")
    whole, parts = split_parts(summary.scalars)
    rows = [(*s.key, s.value, s.low, s.high) for s in whole]
    if rows:
        print_table(f"{summary.evaluation} of {summary.robot}", (*key, "value", "95 % low", "95 % high"), rows)
    for columns, table in parts:
        print_table("by part", (*key, *columns), table)
    for what in run.meta.summary.get("not_computed") or []:
        say(f"not computed: {what}")
    out.print(f"wrote {run.path}")
    say("next: rwm report")


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
