"""The four tasks of the method, by the names its users know."""

from __future__ import annotations

from rwmdata.errors import RwmError
from rwmdata.robots import Frozen, RobotSpec


class TaskConfig(Frozen):
    """What a task means for the simulator."""

    name: str
    purpose: str


TASKS = {
    task.name: task
    for task in (
        TaskConfig(name="Init-v0", purpose="model-free PPO in the simulator"),
        TaskConfig(name="Pretrain-v0", purpose="data and world-model fit on a policy's rollouts"),
        TaskConfig(name="Finetune-v0", purpose="policy and world model fine-tuned together"),
        TaskConfig(name="Visualize-v0", purpose="real rollouts beside imagined ones"),
    )
}


def get_task(name: str) -> TaskConfig:
    """Return a task by name.

    Raises:
        RwmError: There is no task of that name.
    """
    if name not in TASKS:
        raise RwmError(f"Unknown task '{name}'; tasks: {', '.join(TASKS)}.", "--task Pretrain-v0")
    return TASKS[name]


def reward_weights(task: TaskConfig, robot: RobotSpec) -> dict[str, float]:
    """Return the robot's overrides of its reward weights for a task."""
    return dict(robot.task_reward_weights.get(task.name, {}))
