"""How often a processor would wait for a GPU: questions about values, counted as they are asked."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

QUESTIONS = ("nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "_unique2", "equal")


class Questions(TorchDispatchMode):
    """Counts what a processor cannot answer before the device is done.

    ``x[mask]`` is a nonzero, and so is ``x[mask] = values``; ``x[mask] = 0`` is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name == "index" or (name.startswith("index_put") and args[2].numel() > 1)
        masks = masks and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in QUESTIONS or masks:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def asked(work) -> dict[str, int]:
    with Questions() as mode:
        work()
    return dict(mode.count)


def test_questions_are_counted():
    x = torch.ones(3)
    assert asked(lambda: (float(x[0]), x.nonzero(), x[x > 0])) == {"_local_scalar_dense": 1, "nonzero": 1, "index": 1}


def test_an_imagined_step_asks_what_has_ended_and_which_commands_and_pushes_are_due(make_env):
    """Not by member, which a GPU answers otherwise (its path is in the model's own test)."""
    env = make_env(rollout="mean", episode_steps=50, push_interval_steps=(1, 1))
    action = torch.zeros(8, 12)
    env.step(action)
    assert asked(lambda: env.step(action)) == {"nonzero": 3}


def test_ends_of_episodes_cost_no_more_than_a_few_questions(make_env):
    env = make_env(rollout="mean", episode_steps=1, push_velocity=0.0, init_share=1.0)
    env.step(torch.zeros(8, 12))
    counted = asked(lambda: env.step(torch.zeros(8, 12)))
    assert sum(counted.values()) <= 4, counted
