"""Training windows: a window is a start index, not a copy, and never crosses the end of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.text import quoted


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


def split_starts(dataset: Dataset, split: str, window: int) -> np.ndarray:
    """Return the starts of every window of ``window`` rows in a split, ``(n,)`` int64.

    Raises:
        RwmError: No episode of the split is long enough for one.
    """
    start, length = dataset.split_bounds(split)
    starts = window_starts(start, length, window)
    if len(starts) == 0:
        longest = int(length.max(initial=0))
        fault = f"No episode in the {split} split of '{dataset.name}' has the {window} rows one window needs (in a fit "
        fault += f"history + forecast); it has {len(length)} episodes, the longest of {longest} rows."
        hint = "shorter windows, or rwm data export with more transitions"
        if (dataset.episodes.length >= window).any():
            split = f"rwm data split {quoted(dataset.name)} --name NEW --window {window}"
            hint = f"{split}, which divides long episodes by time"
        raise RwmError(fault, hint)
    return starts


def too_short(dataset: Dataset, window: int) -> list[int]:
    """Return the numbers of the episodes that have fewer than ``window`` rows and so no window."""
    return [int(k) for k in (dataset.episodes.length < window).nonzero()[0]]


def sample_windows(
    dataset: Dataset, count: int = 8, length: int = 40, split: str = "train", seed: int = 0
) -> pl.DataFrame:
    """Return random windows of a split as a frame: ``window``, ``episode``, ``step``, ``behaviour``, then the columns.

    Args:
        dataset: The dataset.
        count: Windows; fewer where the split has fewer.
        length: Rows per window.
        split: ``train``, ``val`` or ``test``.
        seed: Seed of the choice, which is the first batch of a fit with that seed.

    Raises:
        RwmError: No episode of the split is long enough.
    """
    starts = split_starts(dataset, split, length)
    count = min(count, len(starts))
    drawn = WindowSampler(starts, seed).draw(0, count)
    rows = gather(dataset.matrix(), drawn, length).reshape(count * length, -1)
    episode = np.searchsorted(dataset.episodes.start, drawn, side="right") - 1
    step = (drawn - dataset.episodes.start[episode])[:, None] + np.arange(length)
    window, episode = np.repeat(np.arange(count), length), np.repeat(episode, length)
    about = pl.DataFrame({"window": window, "episode": episode, "step": step.ravel()})
    names = pl.Series("behaviour", [dataset.episodes.behaviour[e] for e in about["episode"]], pl.String)
    return about.with_columns(names).hstack(pl.DataFrame(rows, schema=list(dataset.schema.csv_names)))


def summary_of(windows: pl.DataFrame) -> pl.DataFrame:
    """Return one row per window of :func:`sample_windows`: its place in the data and how the robot moved in it."""
    feet, actions, step = pl.col("^foot_contact_.*$"), pl.col("^action_.*$"), pl.col("step")
    place = [pl.col("episode", "behaviour").first(), step.min().alias("from"), step.max().alias("to")]
    motion = {"forward (m/s)": pl.mean("base_lin_vel_x"), "turning (rad/s)": pl.mean("base_ang_vel_z")}
    motion |= {"|action|": pl.mean_horizontal(actions.abs()).mean(), "feet down": pl.mean_horizontal(feet).mean()}
    falls = pl.col("terminated").max().cast(pl.Boolean)
    return windows.group_by("window", maintain_order=True).agg(*place, **motion, falls=falls)


class WindowSampler:
    """Draws batches of window starts.

    Without weights: epoch after epoch, each a seeded permutation without replacement. With weights: independent draws
    with replacement, each window as often as its weight says. What a draw returns is a pure function of (starts,
    weights, seed, step, batch, rank, world), so a resumed fit sees the windows an undisturbed one would have seen, and
    of several processes each sees its own part of one common order.

    Args:
        starts: Valid window starts, ``(n,)``.
        seed: Seed of the order.
        weights: Relative weight of each start, ``(n,)``, not negative.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        RwmError: There is no start to draw, or the weights are not weights.
    """

    def __init__(
        self, starts: np.ndarray, seed: int, weights: np.ndarray | None = None, rank: int = 0, world: int = 1
    ) -> None:
        if len(starts) == 0:
            raise RwmError("There is no window to draw: no episode is long enough.", "a shorter history or forecast")
        self.starts = np.asarray(starts, np.int64)
        self.seed, self.rank, self.world = seed, rank, world
        self._cumulative = None if weights is None else _cumulative(np.asarray(weights, np.float64), len(starts))
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.starts))

    def draw(self, step: int, batch: int) -> np.ndarray:
        """Return this process's starts of batch number ``step``, ``(batch,)`` int64."""
        if self._cumulative is not None:
            unit = np.random.default_rng((self.seed, step, self.rank)).random(batch)
            return self.starts[np.searchsorted(self._cumulative, unit, side="right")]
        count = len(self.starts)
        position = (step * self.world + self.rank) * batch + np.arange(batch, dtype=np.int64)
        out = np.empty(batch, np.int64)
        for epoch in np.unique(position // count):
            here = position // count == epoch
            out[here] = self.starts[self._epoch(int(epoch))[position[here] % count]]
        return out


def _cumulative(weights: np.ndarray, count: int) -> np.ndarray:
    if weights.shape != (count,) or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise RwmError(f"Weights must be {count} finite numbers, none negative and not all zero.")
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[-1] = np.inf  # Rounding must not put a draw past the end.
    return cumulative


def balanced_weights(starts: np.ndarray, episode_start: np.ndarray, labels: Sequence[str | None]) -> np.ndarray:
    """Return weights under which every label is drawn equally often.

    Args:
        starts: Window starts, ``(n,)``.
        episode_start: First row of each episode, ascending, ``(K,)``.
        labels: What each episode is balanced by, K of them: its behaviour.

    Returns:
        ``(n,)``, sum 1.
    """
    kinds = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    number = np.array([kinds[label] for label in labels])
    of_window = number[np.searchsorted(episode_start, starts, side="right") - 1]
    counts = np.bincount(of_window, minlength=len(kinds))
    return 1.0 / (counts[of_window] * np.count_nonzero(counts))


def ending_in_fall(dataset: Dataset, starts: np.ndarray, length: int) -> np.ndarray:
    """Return which windows of ``length`` rows at ``starts (n,)`` end with a recorded fall, ``(n,)`` bool."""
    episodes = dataset.episodes
    episode = np.searchsorted(episodes.start, starts, side="right") - 1
    last = episodes.start[episode] + episodes.length[episode]
    return np.asarray(episodes.terminated, bool)[episode] & (starts + length == last)


def falling_rows(dataset: Dataset, ahead: int) -> np.ndarray:
    """Return which rows are a recorded fall or at most ``ahead`` rows before one, ``(R,)`` bool."""
    episodes, falling = dataset.episodes, np.zeros(dataset.rows, bool)
    terminated = np.asarray(episodes.terminated, bool)
    for start, length in zip(episodes.start[terminated], episodes.length[terminated], strict=True):
        falling[start + max(length - 1 - ahead, 0) : start + length] = True
    return falling


def weights_with_share(weights: np.ndarray, marked: np.ndarray, share: float) -> np.ndarray:
    """Return weights that give the marked windows this share of the draws and keep the ratios within each kind.

    Args:
        weights: ``(n,)``.
        marked: ``(n,)`` bool, some of them true and some false.
        share: Share of the draws that are marked, in (0, 1).

    Returns:
        ``(n,)``, sum 1.
    """
    total = np.where(marked, weights[marked].sum(), weights[~marked].sum())
    return np.where(marked, share, 1 - share) * weights / total


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
