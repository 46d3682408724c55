"""The replay: which windows there are, by hand and against a slow obvious search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmdata.schema import Schema
from rwmmodel.normalizer import Normalizer
from rwmrl.envs.base import Step
from rwmrl.replay import Replay

SCHEMA = Schema.build(["joint"], ["leg"])
CPU = torch.device("cpu")


def rows_of(values) -> torch.Tensor:
    """Return rows whose first column says which they are."""
    rows = torch.zeros(len(values), SCHEMA.width)
    rows[:, 0] = torch.tensor(values, dtype=torch.float32)
    return rows


def step_of(values, done=None, fell=None, unstable=None) -> Step:
    rows = rows_of(values)
    off = torch.zeros(len(values), dtype=torch.bool)
    fell = off if fell is None else torch.tensor(fell)
    rows[:, -1] = fell.float()
    done = fell if done is None else torch.tensor(done)
    log = {} if unstable is None else {"unstable": torch.tensor(unstable, dtype=torch.float32)}
    return Step({}, torch.zeros(len(values)), fell, done & ~fell, rows, log)


def test_windows_lie_within_an_episode_and_not_across_the_newest_row():
    replay = Replay(2, 4, SCHEMA, CPU, held_out=2)
    replay.normalizer = Normalizer(12, 1)
    replay.begin(torch.arange(2), rows_of([0.0, 100.0]))
    for k in (1.0, 2.0, 3.0, 4.0, 5.0):  # the ring of four rows turns over
        replay.add(step_of([k, 100 + k]), rows_of([0, 0]))
    starts = replay.starts(3)
    first = replay.gather(starts, 3)[..., 0]
    assert sorted(first[:, 0].tolist()) == [2.0, 3.0]  # rows 2 to 5 are left
    assert all((row[1:] - row[:-1] == 1).all() for row in first)
    assert sorted(replay.gather(replay.starts(3, held_out=True), 3)[:, 0, 0].tolist()) == [102.0, 103.0]
    assert replay.count == 8


def test_an_end_begins_an_episode_and_a_fall_is_the_last_row_of_one():
    replay = Replay(2, 10, SCHEMA, CPU, held_out=2)
    replay.normalizer = Normalizer(12, 1)
    replay.begin(torch.arange(2), rows_of([0.0, 0.0]))
    replay.add(step_of([1.0, 1.0]), rows_of([0, 0]))
    replay.add(step_of([2.0, 2.0], fell=[True, False]), rows_of([10.0, 2.0]))
    replay.add(step_of([11.0, 3.0]), rows_of([0, 0]))
    assert replay.gather(replay.starts(2), 2)[..., 0].tolist() == [[0, 1], [1, 2], [10, 11]]
    starts = replay.starts(2)
    assert replay.ending_in_fall(starts, 2).tolist() == [False, True, False]


def test_an_episode_whose_simulation_blew_up_is_left_out():
    """As in an export; the robot's episodes before and after it, and those of other robots, stay."""
    replay = Replay(4, 10, SCHEMA, CPU, held_out=4)
    replay.normalizer = Normalizer(12, 1)
    replay.begin(torch.arange(4), rows_of([0.0, 50.0, 60.0, 70.0]))
    replay.add(step_of([1.0, 51.0, 61.0, 71.0], done=[True, False, False, False]), rows_of([10.0, 0, 0, 0]))
    replay.add(step_of([11.0, 52.0, 62.0, 72.0]), rows_of([0] * 4))
    blown = [1, 0, 0, 0]
    replay.add(step_of([9e3, 53.0, 63.0, 73.0], done=[True, False, False, False], unstable=blown), rows_of([20.0] * 4))
    replay.add(step_of([21.0, 54.0, 64.0, 74.0]), rows_of([0] * 4))
    own = [w for w in replay.gather(replay.starts(2), 2)[..., 0].tolist() if w[0] < 50]
    assert own == [[0, 1], [20, 21]]
    assert [v for v in replay.gather(replay.starts(1), 1)[..., 0].flatten().tolist() if v < 50] == [0, 1, 20, 21]
    assert len(replay.starts(5)) == 2


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_windows_are_those_of_an_obvious_search(length):
    rng = np.random.default_rng(0)
    replay, kept = Replay(3, 8, SCHEMA, CPU, held_out=3), [[], [], []]
    replay.normalizer = Normalizer(12, 1)
    replay.begin(torch.arange(3), rows_of([0.0, 0.0, 0.0]))
    episode, number = [0, 0, 0], 1.0
    for k in range(3):
        kept[k].append((0, 0.0))
    for _ in range(40):
        done = (rng.random(3) < 0.2).tolist()
        values = [number, number + 1, number + 2]
        after = [v + 0.5 for v in values]
        replay.add(step_of(values, done=done), rows_of(after))
        for k in range(3):
            kept[k].append((episode[k], values[k]))
            if done[k]:
                episode[k] += 1
                kept[k].append((episode[k], after[k]))
        number += 3
        expected = []
        for k in range(2):
            newest = kept[k][-8:]
            for i in range(len(newest) - length + 1):
                part = newest[i : i + length]
                if len({e for e, _ in part}) == 1:
                    expected.append([v for _, v in part])
        found = replay.gather(replay.starts(length), length)[..., 0].tolist()
        assert sorted(found) == sorted(expected)


def test_windows_are_normalised_and_a_state_is_put_back():
    replay = Replay(2, 5, SCHEMA, CPU, held_out=2)
    replay.normalizer = Normalizer(12, 1, np.full(13, 1.0, np.float32), np.full(13, 2.0, np.float32))
    replay.begin(torch.arange(2), rows_of([3.0, 0.0]))
    assert replay.windows(replay.starts(1), 1).states[0, 0, 0] == 1.0
    state = replay.state()
    replay.add(step_of([4.0, 4.0]), rows_of([0, 0]))
    replay.restore(state)
    assert replay.gather(replay.starts(1), 1)[..., 0].tolist() == [[3.0]]
    with pytest.raises(ValueError, match="shape"):
        Replay(2, 6, SCHEMA, CPU).restore(state)
