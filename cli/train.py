"""``rwm train``: model-free PPO in the simulator."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import HomeOption, JsonOption, SeedOption, home_of, progress_bar, show_run


def train(
    task: Annotated[str, typer.Option("--task", help="Init-v0: plain PPO in the simulator.")] = "Init-v0",
    robot: Annotated[str, typer.Option("--robot", help="Robot name or folder.")] = "anymal_d",
    backend: Annotated[str, typer.Option("--backend", help="auto, mujoco, isaaclab or mjlab.")] = "auto",
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="PPO iterations.")] = 300,
    num_envs: Annotated[int, typer.Option("--num-envs", min=1, help="Robots simulated side by side.")] = 4096,
    symmetry: Annotated[
        bool, typer.Option("--symmetry", help="Learn from every transition's mirror image too; slower, evener gaits.")
    ] = False,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Train a policy by PPO in the simulator."""
    from rwmrl.train import TrainConfig, train_in_simulator

    ppo = TrainConfig().ppo.model_copy(update={"symmetry": symmetry})
    config = TrainConfig(
        task=task, robot=robot, backend=backend, iterations=iterations, num_envs=num_envs, seed=seed, ppo=ppo
    )
    with progress_bar("train", json_output) as progress:
        run = train_in_simulator(home_of(home), config, progress)
    show_run(run, json_output, "rwm runs show " + run.id)
