"""Transitions equal those of a slow, obvious loop; their rewards are those the simulator paid."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from rwmdata.episodes import Episode
from rwmrl.export import ExportConfig, export_dataset
from rwmrl.observations import policy_observation
from rwmrl.rewards import RewardModel
from rwmrl.transitions import Transitions

LENGTHS = {"falls": (17, True), "times out": (25, False), "falls at once": (2, True), "is short": (9, False)}


@pytest.fixture
def uneven(make_dataset, schema):
    """Episodes of several lengths, some of which end in a fall."""
    rng = np.random.default_rng(0)

    def episode(length, falls):
        rows = rng.normal(0, 0.3, (length, schema.width)).astype(np.float32)
        rows[:, schema.contact] = rng.random((length, 8)) < 0.5
        rows[:, -1] = 0
        rows[-1, -1] = falls
        return Episode(rows, truncated=not falls, command=rng.uniform(-1, 1, (length, 3)).astype(np.float32))

    return make_dataset(episode(*ends) for ends in (*LENGTHS.values(), (1, False)))


def obvious_transitions(dataset, robot):
    """Every transition as (o, a, r, o', terminal), one step of one robot at a time."""
    s, rows = dataset.schema, torch.from_numpy(dataset.matrix())
    names = [c for c in dataset.scan().collect_schema().names() if c.startswith("command_")]
    command = torch.from_numpy(dataset.scan().select(names).collect().to_numpy()).float()

    def saw(t, told):
        return policy_observation(rows[t : t + 1, s.state], told[None], rows[t : t + 1, s.action], s)[0]

    found = []
    for start, length in zip(dataset.episodes.start.tolist(), dataset.episodes.length.tolist(), strict=True):
        rewards = RewardModel(robot, s, 1, torch.device("cpu"))
        rewards.reset(torch.tensor([0]), rows[start : start + 1, s.state], rows[start : start + 1, s.action])
        for t in range(start, start + length - 1):
            row = rows[t + 1 : t + 2]
            told = command[t + 1]
            earned, _ = rewards.compute(row[:, s.state], row[:, s.contact], row[:, s.action], told[None])
            told_next = command[t + 2] if t + 2 < start + length else told
            found.append((t, saw(t, told), row[0, s.action], earned[0], saw(t + 1, told_next), bool(row[0, -1] > 0.5)))
    return found


def test_transitions_equal_those_of_an_obvious_loop(uneven, robot):
    expected = obvious_transitions(uneven, robot)
    assert len(expected) == uneven.rows - len(LENGTHS) - 1
    first = np.array([t for t, *_ in expected])
    assert not set(first.tolist()) & set((uneven.episodes.start + uneven.episodes.length - 1).tolist())
    got = Transitions(uneven, "recorded", torch.device("cpu")).batch(first)
    columns = (got.observation, got.action, got.reward, got.next_observation)
    for column, values in zip(columns, list(zip(*expected, strict=True))[1:5], strict=True):
        torch.testing.assert_close(column, torch.stack(values), rtol=0, atol=1e-6)
    assert got.terminal.tolist() == [terminal for *_, terminal in expected]
    assert got.terminal.sum() == 2  # The ends by time are none.
    torch.testing.assert_close(got.next_action[:15], got.action[1:16])


def test_rewards_are_those_the_simulator_paid(home):
    """Falls included; what a foot's air time adds depends on everything before in its episode."""
    dataset = export_dataset(home, ExportConfig(transitions=1500, num_envs=8, name="walk", policy="medium", seed=3))
    paid = dataset.scan().select(pl.col("reward").cast(pl.Float32)).collect()["reward"].to_torch()
    found = Transitions(dataset, "recorded", torch.device("cpu")).reward
    assert paid.std() > 1e-3
    torch.testing.assert_close(found, paid, rtol=0, atol=1e-6)
