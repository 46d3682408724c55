"""``rwm train``: model-free PPO in the simulator."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import HomeOption, JsonOption, SeedOption, given, home_of, progress_bar, show_run
from rwmdata.errors import RwmError


def train(
    task: Annotated[str, typer.Option("--task", help="Init-v0: plain PPO in the simulator.")] = "Init-v0",
    robot: Annotated[str, typer.Option("--robot", help="Robot name or folder.")] = "anymal_d",
    backend: Annotated[str, typer.Option("--backend", help="auto, mujoco, isaaclab or mjlab.")] = "auto",
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="PPO iterations.")] = 300,
    num_envs: Annotated[int, typer.Option("--num-envs", min=1, help="Robots simulated side by side.")] = 4096,
    symmetry: Annotated[
        bool, typer.Option("--symmetry", help="Learn from every transition's mirror image too; slower, evener gaits.")
    ] = False,
    rewards: Annotated[
        list[str] | None, typer.Option("--reward", help="Weight of a reward term, TERM=WEIGHT; may be repeated.")
    ] = None,
    exploration: Annotated[
        float | None, typer.Option("--exploration", min=0.001, help="Noise on the joint targets at the start, rad.")
    ] = None,
    entropy: Annotated[
        float | None, typer.Option("--entropy", min=0, help="Weight of the entropy bonus; 0 lets exploration die down.")
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option("--warm-start", help="Begin with the networks of this train run or policy file.")
    ] = None,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Train a policy by PPO in the simulator."""
    from rwmrl.simulator_training import TrainConfig, train_in_simulator

    ppo = TrainConfig().ppo.model_copy(update={"symmetry": symmetry, **given(entropy_coef=entropy)})
    config = TrainConfig(
        task=task,
        robot=robot,
        backend=backend,
        iterations=iterations,
        num_envs=num_envs,
        seed=seed,
        ppo=ppo,
        rewards=weights_of(rewards or []),
        warm_start=warm_start,
        **given(exploration_rad=exploration),
    )
    with progress_bar("train", json_output) as progress:
        run = train_in_simulator(home_of(home), config, progress)
    show_run(run, json_output, "rwm runs show " + run.id)


def weights_of(texts: list[str]) -> dict[str, float]:
    """Read ``TERM=WEIGHT`` texts.

    Raises:
        RwmError: One of them is something else.
    """
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise RwmError(f"'{text}' is not TERM=WEIGHT.", "--reward action_rate_l2=-0.02") from None
    return found
