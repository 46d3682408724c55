"""Training windows: a window is a start index, not a copy, and never crosses the end of an episode."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from rwmdata.errors import RwmError


def window_starts(start: np.ndarray, length: np.ndarray, window: int, episodes: np.ndarray | None = None) -> np.ndarray:
    """Return the global row of every valid window start, ascending, ``(n,)`` int64.

    Args:
        start: First row of each episode, ``(K,)``.
        length: Rows of each episode, ``(K,)``.
        window: Rows per window.
        episodes: Episode ids to take windows from; all when absent.
    """
    if window < 1:
        raise RwmError(f"A window has at least one row, not {window}.")
    if episodes is not None:
        start, length = start[np.sort(episodes)], length[np.sort(episodes)]
    count = np.maximum(length - window + 1, 0)
    before = np.cumsum(count) - count
    return np.repeat(start - before, count) + np.arange(count.sum(), dtype=np.int64)


class WindowSampler:
    """Draws batches of window starts: epoch after epoch, each a seeded permutation without replacement.

    What a draw returns is a pure function of (starts, seed, step, batch), so a resumed fit sees the windows an
    undisturbed one would have seen.

    Args:
        starts: Valid window starts, ``(n,)``.
        seed: Seed of the order.

    Raises:
        RwmError: There is no start to draw.
    """

    def __init__(self, starts: np.ndarray, seed: int) -> None:
        if len(starts) == 0:
            raise RwmError("There is no window to draw: no episode is long enough.", "a shorter history or forecast")
        self.starts = np.asarray(starts, np.int64)
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.starts))

    def draw(self, step: int, batch: int) -> np.ndarray:
        """Return the starts of batch number ``step``, ``(batch,)`` int64."""
        count = len(self.starts)
        position = step * batch + np.arange(batch, dtype=np.int64)
        out = np.empty(batch, np.int64)
        for epoch in np.unique(position // count):
            here = position // count == epoch
            out[here] = self.starts[self._epoch(int(epoch))[position[here] % count]]
        return out


def gather(rows: np.ndarray, starts: np.ndarray, window: int, out: np.ndarray | None = None) -> np.ndarray:
    """Copy windows out of a row matrix.

    Args:
        rows: ``(R, width)``, C-contiguous.
        starts: First row of each window, ``(B,)``.
        window: Rows per window.
        out: ``(B, window, width)`` to fill; a new array when absent.

    Returns:
        The windows, ``(B, window, width)``.

    Raises:
        RwmError: A window would reach beyond the rows.
    """
    width = rows.shape[1]
    if len(starts) and (starts.min() < 0 or starts.max() + window > len(rows)):
        raise RwmError(f"A window of {window} rows at row {starts.max()} reaches beyond the {len(rows)} rows.")
    if out is None:
        out = np.empty((len(starts), window, width), rows.dtype)
    index = (starts[:, None] + np.arange(window)).ravel()
    np.take(rows, index, axis=0, out=out.reshape(len(index), width), mode="clip")
    return out
