"""Which rows train, validate and test: whole episodes where they suffice, else parts of long ones, by time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rwmdata.manifest import SPLIT_SHARES, split_episodes
from rwmdata.text import quoted

WINDOW_ROWS = 48
"""Rows of the longest training window of the default fit: 32 of history, and 16 of forecast in its last updates."""
LEAST_WINDOW = 12
"""Rows of the shortest window that is proposed."""
FORECAST_ROWS = 8
"""Of a proposed window at most so many rows are forecast."""
SHOWN_EPISODES = 10


@dataclass(frozen=True)
class Splits:
    """A dataset's splits."""

    episodes: dict[str, list[int]]
    """Episodes of each split; all in the first one where they are divided by time."""
    rows: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Where episodes are divided by time: first row of each part, and the one after its last, by split."""
    notes: list[str] = field(default_factory=list)
    """What differs from dealing all episodes at random."""

    def longest(self, lengths: Sequence[int]) -> dict[str, int]:
        """Return the rows of the longest piece of each split, of episodes of ``lengths``."""
        if any(self.rows.values()):
            return {name: max((end - start for start, end in parts), default=0) for name, parts in self.rows.items()}
        return {name: max((lengths[k] for k in ids), default=0) for name, ids in self.episodes.items()}


def deal(
    lengths: Sequence[int], seed: int, shares: dict[str, float] | None = None, window: int = WINDOW_ROWS
) -> Splits:
    """Assign episodes to splits so that each split has a window, as far as there are any.

    Whole episodes are dealt as :func:`split_episodes` does where that suffices. Else the episodes that hold a window
    are dealt among themselves. Where they are fewer than the splits, the longest are divided by time, in the order of
    the splits, with ``window`` rows between two parts that belong to none. Other episodes go to the first split.

    Args:
        lengths: Rows of each episode, in order.
        seed: Seed of the assignment.
        shares: As in :func:`split_episodes`.
        window: Rows of a window.
    """
    shares = shares or SPLIT_SHARES
    dealt, first = split_episodes(len(lengths), seed, shares), next(iter(shares))
    long = [k for k, length in enumerate(lengths) if length >= window]
    if not long or all(any(lengths[k] >= window for k in ids) for ids in dealt.values()):
        return Splits(dealt)
    short = sorted({*range(len(lengths))} - {*long})
    notes = [f"{_episodes(short)} shorter than a window of {window} rows, in {first} only"] if short else []
    divided = {k: parts for k in long if (parts := _by_time(lengths[k], shares, window))}
    if len(long) >= len(shares) or not divided:
        again = {name: {long[i] for i in ids} for name, ids in split_episodes(len(long), seed, shares).items()}
        again[first] |= {*short}
        return Splits({name: sorted(ids) for name, ids in again.items()}, notes=notes)
    starts = np.cumsum([0, *lengths])
    rows: dict[str, list[tuple[int, int]]] = {name: [] for name in shares}
    for k, length in enumerate(lengths):
        for name, (start, end) in divided.get(k, {first: (0, length)}).items():
            rows[name].append((int(starts[k]) + start, int(starts[k]) + end))
    what = f"too few long episodes for {len(shares)} splits: {_episodes(divided)} divided by time"
    everything = {name: [*range(len(lengths))] if name == first else [] for name in shares}
    return Splits(everything, rows, [f"{what}, {window} rows between the parts are in no split", *notes])


def missing_windows(lengths: Sequence[int], splits: Splits, name: str, seed: int = 0) -> str | None:
    """Return which splits have no window of a fit, and the commands with which they have one; None where all do.

    Args:
        lengths: Rows of each episode, in order.
        splits: How they are dealt.
        name: The dataset's name.
        seed: Seed with which they would be dealt anew.
    """
    pieces = splits.longest(lengths)
    without = [split for split, longest in pieces.items() if longest < WINDOW_ROWS]
    if not without:
        return None
    most = max(lengths, default=0)
    episodes = f"the longest of its {len(lengths)} episodes has" if len(lengths) > 1 else "its episode has"
    fault = f"no training window of {WINDOW_ROWS} rows fits into {', '.join(without)} ({episodes} {most} rows)"
    fault += ", so fit or evaluation refuse it"
    tried = range(min(most, WINDOW_ROWS), LEAST_WINDOW - 1, -1)
    window = next((w for w in tried if min(deal(lengths, seed, window=w).longest(lengths).values()) >= w), 0)
    if not window:
        return f"{fault}; record longer episodes"
    forecast = min(FORECAST_ROWS, window // 3)
    sizes = f" --set history={window - forecast} --set forecast={forecast}" if window < WINDOW_ROWS else ""
    if min(pieces.values()) >= window:
        return f"{fault}; shorter ones do: rwm fit {quoted(name)}{sizes}"
    new = quoted(f"{name}-split")
    again = f"rwm data split {quoted(name)} --name {new} --window {window}"
    return f"{fault}; next: {again}, then rwm fit {new}{sizes}"


def _by_time(length: int, shares: dict[str, float], window: int) -> dict[str, tuple[int, int]] | None:
    """Return the parts of an episode as [start, end), or None where there is no room for a window in each."""
    names, total = list(shares), sum(shares.values())
    sizes = [max(round(length * shares[name] / total), window) for name in names[1:]]
    sizes.insert(0, length - sum(sizes) - window * len(sizes))
    if sizes[0] < window:
        return None
    ends = np.cumsum(sizes) + window * np.arange(len(sizes))
    return {name: (int(end) - size, int(end)) for name, size, end in zip(names, sizes, ends, strict=True)}


def _episodes(numbers: Iterable[int]) -> str:
    """Return numbers of episodes as text with its verb."""
    numbers = list(numbers)
    shown = ", ".join(map(str, numbers[:SHOWN_EPISODES]))
    more = f" and {len(numbers) - SHOWN_EPISODES} more" if len(numbers) > SHOWN_EPISODES else ""
    return f"episode {shown} is" if len(numbers) == 1 else f"episodes {shown}{more} are"
