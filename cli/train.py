"""``rwm train``: policies trained in a simulator, alone or together with a model."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import BackendOption, Call, DeviceOption, RobotOption, SeedOption, SettingsOption
from rwmdata.text import quoted


def train(
    call: Call,
    task: Annotated[
        str | None,
        typer.Option(
            help="Init-v0: plain PPO; Pretrain-v0: a model is fitted on the replay at the same time; Finetune-v0: PPO "
            "learns from simulated and imagined steps together."
        ),
    ] = None,
    robot: RobotOption = None,
    backend: BackendOption = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Pretrain-v0, Finetune-v0: smoke, laptop or reference (the authors')."),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="PPO iterations; the other tasks have their preset's.")] = None,
    num_envs: Annotated[int | None, typer.Option(help="Robots simulated side by side.")] = None,
    symmetry: Annotated[
        bool | None,
        typer.Option("--symmetry", help="Learn from every transition's mirror image too; slower, evener gaits."),
    ] = None,
    rewards: Annotated[
        list[str] | None, typer.Option("--reward", help="Weight of a reward term, TERM=WEIGHT; may be repeated.")
    ] = None,
    exploration_rad: Annotated[
        float | None, typer.Option("--exploration", help="Noise on the joint targets at the start, rad.")
    ] = None,
    entropy_coef: Annotated[
        float | None, typer.Option("--entropy", help="Weight of the entropy bonus; 0 lets exploration die down.")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            "--warm-start", "--policy", help="Begin with the networks of this train run, policy file or shipped policy."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model run or file to go on from; Finetune-v0 needs one.")] = None,
    members: Annotated[int | None, typer.Option(help="Pretrain-v0: members of the model, 1, or 5 for RWM-U.")] = None,
    export: Annotated[str | None, typer.Option(help="Write the replay to a dataset of this name.")] = None,
    settings: SettingsOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Train a policy by PPO in the simulator, alone or together with a model (online RWM)."""
    from rwmdata.config import read_settings
    from rwmrl.online_config import configuration_of
    from rwmrl.simulator_training import train_in_simulator
    from rwmrl.train_config import TrainConfig

    kind = configuration_of(task) if task else TrainConfig
    weights = read_settings(rewards or [], "--reward action_rate_l2=-0.02")
    config = call.config(kind, "rewards", over={"rewards": weights})
    run = call.work("train", train_in_simulator, call.home, config)
    call.show_run(run, f"rwm runs show {quoted(run.id)}")
