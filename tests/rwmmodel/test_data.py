from __future__ import annotations

import numpy as np
import torch

from rwmmodel import data
from rwmmodel.data import RowStore
from rwmmodel.normalizer import Normalizer

MEAN = np.arange(13, dtype=np.float32)
STD = np.arange(1, 14, dtype=np.float32)


def test_windows_are_normalised_rows_in_order(linear_dataset):
    rows = linear_dataset.matrix()
    store = RowStore(linear_dataset, Normalizer(12, 1, MEAN, STD), torch.device("cpu"))
    windows = store.windows(np.array([70, 3]), 5)
    for got, start in ((0, 70), (1, 3)):
        expected = rows[start : start + 5]
        np.testing.assert_allclose(windows.states[got], (expected[:, :12] - MEAN[:12]) / STD[:12], atol=1e-6)
        np.testing.assert_allclose(windows.actions[got], (expected[:, 12:13] - MEAN[12]) / STD[12], atol=1e-6)
        np.testing.assert_array_equal(windows.contact[got], expected[:, 13:15])
        np.testing.assert_array_equal(windows.termination[got], expected[:, 15:])
    assert windows.extension.shape == (2, 5, 0)


def test_the_last_window_ends_with_the_last_row(linear_dataset):
    store = RowStore(linear_dataset, Normalizer(12, 1), torch.device("cpu"))
    windows = store.windows(np.array([linear_dataset.rows - 4]), 4)
    np.testing.assert_array_equal(windows.contact[0], linear_dataset.matrix()[-4:, 13:15])


def test_mapped_rows_give_the_same_windows_and_the_file_is_made_once(linear_dataset):
    kept = RowStore(linear_dataset, Normalizer(12, 1, MEAN, STD), torch.device("cpu"), "memory")
    mapped = RowStore(linear_dataset, Normalizer(12, 1, MEAN, STD), torch.device("cpu"), "mapped")
    made = (linear_dataset.path / "rows.f32").stat()
    again = RowStore(linear_dataset, Normalizer(12, 1, MEAN, STD), torch.device("cpu"), "mapped")
    assert (linear_dataset.path / "rows.f32").stat().st_mtime_ns == made.st_mtime_ns
    starts = np.array([70, 3, 0])
    for store in (mapped, again):
        assert store.mapped and not kept.mapped
        ours, theirs = vars(store.windows(starts, 5)), vars(kept.windows(starts, 5))
        assert all(torch.equal(ours[part], theirs[part]) for part in theirs)


def test_rows_that_would_fill_the_memory_are_mapped(linear_dataset, monkeypatch):
    size = 4 * linear_dataset.rows * linear_dataset.schema.width
    for free, mapped in ((2 * size - 8, True), (2 * size, False)):
        monkeypatch.setattr(data, "available_memory", lambda free=free: free)
        assert RowStore(linear_dataset, Normalizer(12, 1), torch.device("cpu")).mapped == mapped


def test_windows_of_one_shape_share_a_buffer(linear_dataset):
    store = RowStore(linear_dataset, Normalizer(12, 1), torch.device("cpu"))
    first = store.windows(np.array([0, 1]), 4).states.data_ptr()
    assert store.windows(np.array([5, 6]), 4).states.data_ptr() == first


def test_rows_before_a_fall_may_be_labelled_too(make_dataset, schema):
    """The fall is row 9 of the only episode of 10; nothing else of a window changes."""
    rows = np.random.default_rng(0).normal(size=(10, schema.width)).astype(np.float32)
    rows[:, -1] = 0
    rows[-1, -1] = 1
    dataset = make_dataset([rows])
    normalizer = Normalizer(schema.dims["state"], schema.dims["action"])
    for where in ("memory", "mapped"):
        plain = RowStore(dataset, normalizer, torch.device("cpu"), where).windows(np.array([0, 4]), 6)
        ahead = RowStore(dataset, normalizer, torch.device("cpu"), where, 3).windows(np.array([0, 4]), 6)
        assert plain.termination[..., 0].tolist() == [[0] * 6, [0] * 5 + [1]]
        assert ahead.termination[..., 0].tolist() == [[0] * 6, [0, 0, 1, 1, 1, 1]]
        assert torch.equal(plain.states, ahead.states) and torch.equal(plain.contact, ahead.contact)
