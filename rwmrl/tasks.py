"""The tasks: the same robot and reward in different circumstances."""

from __future__ import annotations

from rwmdata.config import Frozen
from rwmdata.errors import RwmError


class TaskConfig(Frozen):
    """How a task differs from the plain velocity-tracking environment."""

    name: str
    purpose: str
    noise: bool = True
    """Observation noise."""
    pushes: bool = True
    """Kicks of the base."""
    randomize: bool = True
    """Domain randomisation."""


TASKS = {
    task.name: task
    for task in (
        TaskConfig(name="Init-v0", purpose="train a first policy from nothing, with the robot's weights for it"),
        TaskConfig(name="Pretrain-v0", purpose="collect the data a world model is fitted to"),
        TaskConfig(name="Finetune-v0", purpose="improve a policy on one robot as it is", randomize=False),
        TaskConfig(
            name="Visualize-v0", purpose="look at a policy undisturbed", noise=False, pushes=False, randomize=False
        ),
    )
}


def get_task(name: str, backend: str = "mujoco") -> TaskConfig:
    """Return a task by name; other backends than the embedded simulator may know further names.

    Raises:
        RwmError: There is no such task.
    """
    if name in TASKS:
        return TASKS[name]
    if backend != "mujoco":
        return TaskConfig(name=name, purpose=f"registered with {backend}")
    raise RwmError(f"Unknown task '{name}'; tasks: {', '.join(TASKS)}.", "--task Pretrain-v0")
