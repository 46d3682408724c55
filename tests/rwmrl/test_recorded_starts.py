"""Where imagined episodes begin: which windows, and that the model has read every one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmmodel.data import RowStore
from rwmrl.envs.imagination import ImaginationConfig, ImaginationEnv

HISTORY = 6


def watch_starts(env):
    """Return a list that every drawn start is put into."""
    drawn, draw = [], env.starts.draw
    env.starts.draw = lambda count: (drawn.append(draw(count)), drawn[-1])[1]
    return drawn


def windows_of(env, dataset, start):
    """Return the recorded windows of a drawn start."""
    return RowStore(dataset, env.model.normalizer, env.device).windows(start.index.numpy(), HISTORY)


def test_a_reset_environment_has_read_its_whole_history(make_env, dataset, watch_model):
    """After a reset the carry equals a fresh pass over the history, and other environments keep theirs."""
    env = make_env(noise=False, push_velocity=0.0)
    calls, drawn, ids = watch_model(env), watch_starts(env), torch.tensor([2, 5])
    env.episode_length_buf[ids] = env.max_episode_length - 3
    for action in 0.3 * torch.randn(3, 8, 12):
        env.step(action)
    rows = env.current_rows()
    env.step(torch.zeros(8, 12))
    (start,) = drawn
    windows = windows_of(env, dataset, start)
    assert windows.states.shape == (2, HISTORY, 45)
    fresh = env.model.warm_up(windows.states[:, :-1], windows.actions[:, 1:])
    others = [i for i in range(8) if i not in (2, 5)]
    for now, old, new in zip(calls[3].carry.state, calls[2].after.state, fresh.state, strict=True):
        torch.testing.assert_close(now[ids], new)
        torch.testing.assert_close(now[others], old[others])
    torch.testing.assert_close(calls[3].state[ids], windows.states[:, -1])
    torch.testing.assert_close(rows[ids, 45:57], env.model.normalizer.denorm_action(windows.actions[:, -1]))


def test_the_next_prediction_after_a_reset_is_the_models_forward_on_the_recorded_history(make_env, dataset):
    env = make_env(rollout="mean", push_velocity=0.0, noise=False)
    drawn = watch_starts(env)
    env.reset()
    windows, normalizer = windows_of(env, dataset, drawn[0]), env.model.normalizer
    action = 0.3 * torch.randn(8, 12)
    acts = torch.cat((windows.actions[:, 1:], normalizer.action(action)[:, None]), dim=1)
    expected = env.model(windows.states, acts)
    reached = env.step(action).transition[:, :45]
    torch.testing.assert_close(reached, normalizer.denorm_state(expected.state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ahead", [1, 40])
@pytest.mark.parametrize("kept_bytes", [2**30, 4 * 256])
def test_what_is_remembered_of_beginnings_is_what_reading_them_gives(make_env, dataset, monkeypatch, kept_bytes, ahead):
    """Draw after draw, while ever more beginnings are known, and with room for four of them only (256 bytes each)."""
    monkeypatch.setattr("rwmrl.envs.recorded_starts.KEPT_BYTES", kept_bytes)
    monkeypatch.setattr("rwmrl.envs.recorded_starts.AHEAD", ahead)
    env, read = make_env(init_share=0.7), []
    warm_up = env.model.warm_up
    env.model.warm_up = lambda states, acts: (read.append(len(states)), warm_up(states, acts))[1]
    for _ in range(12):
        start = env.starts.draw(9)
        assert len(start.index) == 9
        windows = windows_of(env, dataset, start)
        fresh = warm_up(windows.states[:, :-1], windows.actions[:, 1:])
        for given, new in zip(
            (*start.carry.state, *start.carry.auxiliary), (*fresh.state, *fresh.auxiliary), strict=True
        ):
            torch.testing.assert_close(given, new)
        torch.testing.assert_close(start.state, windows.states[:, -1])
        torch.testing.assert_close(start.action, windows.actions[:, -1])
        torch.testing.assert_close(start.contact, windows.contact)
    assert 0 < sum(read) < 12 * 9
    # Of beginnings alone nothing is left to read, unless there was no room to keep them.
    env.starts.init_share = 1.0
    env.starts.begin_anew()
    read.clear()
    env.starts.draw(100)
    assert (sum(read) == 0) == (kept_bytes == 2**30)


def test_starts_read_ahead_are_all_different_draws_and_begin_anew(make_env):
    env = make_env(init_share=0.0)
    env.reseed()
    first = [env.starts.draw(5).index for _ in range(60)]  # more than were drawn ahead
    assert len(torch.cat(first).unique()) > 150
    env.reseed()
    assert all(torch.equal(a, env.starts.draw(5).index) for a in first)


def test_starts_are_episode_beginnings_or_any_training_row(make_env, dataset):
    starts = make_env().starts
    first, anywhere = starts.first, starts.anywhere
    train = dataset.split("train")
    assert first.tolist() == dataset.episodes.start[train].tolist()
    assert len(anywhere) == len(train) * (40 - HISTORY + 1)


def test_no_episode_starts_with_a_fall(make_dataset, schema, make_model, robot):
    """Ten rows, the tenth a fall: starts are rows 0 to 3, whose windows of six end at rows 5 to 8."""
    rows = np.zeros((10, 10, schema.width), np.float32)
    rows[:, 9, -1] = 1
    env = ImaginationEnv(make_model(), make_dataset(rows), robot, ImaginationConfig(num_envs=2))
    assert sorted({int(s) % 10 for s in env.starts.anywhere}) == [0, 1, 2, 3]


def test_the_share_of_starts_at_episode_beginnings(make_env):
    """80 % from the init set, and 1 of 35 of the others happens to be a beginning too."""
    env = make_env(num_envs=4000, init_share=0.8)
    drawn = watch_starts(env)
    env.reset()
    share = float((drawn[0].index % 40 == 0).float().mean())
    assert share == pytest.approx(0.8 + 0.2 / 35, abs=0.02)
