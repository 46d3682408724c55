"""``rwm train``: model-free PPO in the simulator."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import BackendOption, Call, RobotOption, SeedOption, SettingsOption
from rwmdata.config import read_settings


def train(
    call: Call,
    task: Annotated[str | None, typer.Option(help="Init-v0: plain PPO in the simulator.")] = None,
    robot: RobotOption = None,
    backend: BackendOption = None,
    iterations: Annotated[int | None, typer.Option(help="PPO iterations.")] = None,
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
        str | None, typer.Option(help="Begin with the networks of this train run or policy file.")
    ] = None,
    settings: SettingsOption = None,
    seed: SeedOption = None,
) -> None:
    """Train a policy by PPO in the simulator."""
    from rwmrl.simulator_training import TrainConfig, train_in_simulator

    weights = read_settings(rewards or [], "--reward action_rate_l2=-0.02")
    config = call.config(TrainConfig, "rewards", over={"rewards": weights})
    run = call.work("train", train_in_simulator, call.home, config)
    call.show_run(run, f"rwm runs show {run.id}")
