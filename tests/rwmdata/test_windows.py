from __future__ import annotations

import numpy as np
import pytest

from rwmdata.errors import RwmError
from rwmdata.windows import (
    WindowSampler,
    balanced_weights,
    ending_in_fall,
    falling_rows,
    gather,
    sample_windows,
    split_starts,
    summary_of,
    weights_with_share,
    window_starts,
)

START = np.array([0, 5, 7, 20])
LENGTH = np.array([5, 2, 13, 4])


def slow_starts(window, episodes):
    return [START[e] + i for e in episodes for i in range(LENGTH[e]) if i + window <= LENGTH[e]]


@pytest.mark.parametrize("window", [1, 2, 4, 5, 13, 14])
def test_starts_equal_a_plain_loop(window):
    assert window_starts(START, LENGTH, window).tolist() == slow_starts(window, range(4))
    assert window_starts(START, LENGTH, window, np.array([3, 0])).tolist() == slow_starts(window, [0, 3])


def test_no_window_crosses_an_episode_end():
    episode_of_row = np.repeat(np.arange(4), LENGTH)
    rows = episode_of_row[:, None].astype(np.float32)
    windows = gather(rows, window_starts(START, LENGTH, 4), 4)
    assert (windows == windows[:, :1]).all()


def test_gather_copies_the_right_rows_into_what_it_is_given():
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    starts = np.array([7, 0, 16])
    out = np.empty((3, 4, 3), np.float32)
    assert gather(rows, starts, 4, out) is out
    np.testing.assert_array_equal(out, np.stack([rows[s : s + 4] for s in starts]))
    np.testing.assert_array_equal(out, gather(rows, starts, 4))


def test_gather_beyond_the_end_is_refused():
    with pytest.raises(RwmError, match="row 17 reaches beyond the 20 rows"):
        gather(np.zeros((20, 3), np.float32), np.array([17]), 4)


def test_each_epoch_draws_every_window_once_even_across_batches():
    sampler = WindowSampler(np.arange(100, 110), seed=3)
    drawn = np.concatenate([sampler.draw(step, 4) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(100, 110))
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_draws_are_a_pure_function_of_seed_and_step():
    first, second = WindowSampler(np.arange(1000), 7), WindowSampler(np.arange(1000), 7)
    for step in (5, 0, 900, 5):
        np.testing.assert_array_equal(first.draw(step, 64), second.draw(step, 64))
    assert (first.draw(0, 64) != WindowSampler(np.arange(1000), 8).draw(0, 64)).any()


def test_nothing_to_draw_is_an_error():
    with pytest.raises(RwmError, match="no episode is long enough"):
        WindowSampler(window_starts(START, LENGTH, 50), 0)


def test_processes_share_one_epoch_without_overlap():
    parts = [WindowSampler(np.arange(120), 3, rank=r, world=3) for r in range(3)]
    drawn = np.concatenate([p.draw(step, 10) for step in range(4) for p in parts])
    assert sorted(drawn) == list(range(120))
    np.testing.assert_array_equal(drawn[:30], WindowSampler(np.arange(120), 3).draw(0, 30))


def test_weights_decide_how_often_a_window_is_drawn():
    sampler = WindowSampler(np.array([10, 20, 30]), 0, weights=np.array([3.0, 0.0, 1.0]))
    drawn = np.concatenate([sampler.draw(step, 500) for step in range(20)])
    assert (drawn == 10).mean() == pytest.approx(0.75, abs=0.02) and not (drawn == 20).any()
    np.testing.assert_array_equal(sampler.draw(7, 50), sampler.draw(7, 50))
    other = WindowSampler(np.array([10, 20, 30]), 0, weights=np.array([3.0, 0.0, 1.0]), rank=1, world=2)
    assert (other.draw(7, 50) != sampler.draw(7, 50)).any()


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 1.0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(RwmError, match="Weights must be 3 finite numbers"):
        WindowSampler(np.arange(3), 0, weights=np.array(weights))


def test_balanced_behaviours_are_drawn_equally_often():
    starts = window_starts(START, LENGTH, 3)
    labels = ["a", "b", "a", "b"]
    weights = balanced_weights(starts, START, labels)
    episode = np.searchsorted(START, starts, side="right") - 1
    shares = {k: weights[[labels[e] == k for e in episode]].sum() for k in "ab"}
    assert weights.sum() == pytest.approx(1.0) and shares["a"] == pytest.approx(0.5)
    assert balanced_weights(np.array([0, 1]), np.array([0]), [None]).tolist() == [0.5, 0.5]


def test_marked_windows_get_their_share_and_keep_their_order_among_each_other():
    weights = weights_with_share(np.array([1.0, 3.0, 1.0, 1.0]), np.array([True, True, False, False]), 0.2)
    np.testing.assert_allclose(weights, [0.05, 0.15, 0.4, 0.4])


def test_a_window_ends_in_a_fall_where_its_last_row_is_one(make_dataset, episodes):
    parts = episodes(12, 6)
    for k, part in enumerate(parts):
        part[:, -1] = 0
        part[-1, -1] = k % 2
    dataset = make_dataset(parts)
    rows = dataset.matrix()
    starts = split_starts(dataset, "train", 3)
    expected = [bool(rows[s + 2, -1]) for s in starts]
    assert any(expected) and not all(expected)
    assert ending_in_fall(dataset, starts, 3).tolist() == expected
    assert not any(rows[s : s + 2, -1].any() for s in starts)


def test_rows_before_a_fall_are_falling(make_dataset, episodes):
    """Three episodes of 5 rows; the second ends in a fall, and the first row is as far back as it goes."""
    parts = episodes(3, 5)
    parts[1][-1, -1] = 1
    dataset = make_dataset(parts)
    fallen = int(np.flatnonzero(dataset.matrix()[:, -1])[0])
    for ahead in (0, 2, 4, 9):
        assert np.flatnonzero(falling_rows(dataset, ahead)).tolist() == list(range(fallen - min(ahead, 4), fallen + 1))


def test_a_sample_is_what_a_fit_would_draw(make_dataset, episodes):
    parts = episodes(4, 30)
    parts[0][-1, -1] = 1
    dataset = make_dataset(parts)
    frame = sample_windows(dataset, 5, 10, seed=3)
    ids = dataset.split("train")
    starts = window_starts(dataset.episodes.start, dataset.episodes.length, 10, ids)
    drawn = WindowSampler(starts, 3).draw(0, 5)
    rows = frame.select(dataset.schema.csv_names).to_numpy().reshape(5, 10, -1)
    np.testing.assert_array_equal(rows, gather(dataset.matrix(), drawn, 10))
    first = frame.filter(frame["window"] != frame["window"].shift().fill_null(-1))
    np.testing.assert_array_equal(first["episode"] * 30 + first["step"], drawn)
    about = summary_of(frame)
    assert about["to"].to_list() == (first["step"] + 9).to_list() and about["behaviour"].to_list() == ["synthetic"] * 5
    np.testing.assert_allclose(about["forward (m/s)"], rows[:, :, 0].mean(1), rtol=1e-5)
    assert about["falls"].to_list() == [bool(w[:, -1].any()) for w in rows]
    assert sample_windows(dataset, 10_000, 30).height == 30 * len(ids)
