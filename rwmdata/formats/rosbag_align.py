"""Streams of a bag on one clock: their values at the moments of one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SLACK_PERIODS, SLACK_STEPS = 0.25, 0.1
"""A message that is later by less than this share of its stream's period, and of a control step, is of the moment."""


@dataclass(frozen=True)
class Aligned:
    """A stream at the moments of the rows."""

    values: np.ndarray
    """``(m, k)``"""
    usable: np.ndarray
    """False before the stream's first message, after its last, and in its pauses; ``(m,)`` bool."""
    age_ns: np.ndarray
    """Time since the message that was taken; negative where it is a little later than the row; ``(m,)``."""


def align(
    moments_ns: np.ndarray,
    stamps_ns: np.ndarray,
    values: np.ndarray,
    linear: np.ndarray,
    dt_s: float,
    pause_s: float,
) -> Aligned:
    """Return a stream's values at given moments.

    Args:
        moments_ns: ``(m,)``.
        stamps_ns: Of the stream's messages, any order, ``(n,)``.
        values: ``(n, k)``.
        linear: Columns between whose messages values are interpolated; others have that of the latest message,
            ``(k,)`` bool.
        dt_s: Control step.
        pause_s: Pauses of the stream that are longer are not bridged.
    """
    count = len(moments_ns)
    if not len(stamps_ns):
        return Aligned(np.zeros((count, values.shape[1])), np.zeros(count, bool), np.zeros(count, np.int64))
    stamps = stamps_ns
    if (np.diff(stamps) < 0).any():
        order = np.argsort(stamps, kind="stable")
        stamps, values = stamps[order], values[order]
    latest = np.searchsorted(stamps, moments_ns + slack_ns(stamps, dt_s), side="right") - 1
    held = latest.clip(min=0)
    before = np.searchsorted(stamps, moments_ns, side="right") - 1
    after = (before + 1).clip(max=len(stamps) - 1)
    start = before.clip(min=0)
    gap = np.where(moments_ns == stamps[start], 0, stamps[after] - stamps[start])
    pause_ns = pause_s * 1e9
    usable = (latest >= 0) & (gap <= pause_ns) & (moments_ns - stamps[held] <= pause_ns)
    taken = values[held]
    if linear.any():
        share = np.where(gap > 0, (moments_ns - stamps[start]) / np.maximum(gap, 1), 0.0).clip(0.0, 1.0)[:, None]
        between = values[start] + share * (values[after] - values[start])
        taken[:, linear] = between[:, linear]
    return Aligned(taken, usable, moments_ns - stamps[held])


def slack_ns(stamps_ns: np.ndarray, dt_s: float) -> int:
    """Return how much later than a row a message of this stream may be; zero for a single one."""
    steps = np.diff(stamps_ns)
    period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return int(min(SLACK_PERIODS * period, SLACK_STEPS * dt_s * 1e9))


def without_sign_changes(quaternions: np.ndarray) -> np.ndarray:
    """Return quaternions ``(n, 4)`` each with the sign that is nearer to the one before."""
    turned = (quaternions[1:] * quaternions[:-1]).sum(axis=1) < 0
    return quaternions * np.concatenate(([1.0], np.cumprod(np.where(turned, -1.0, 1.0))))[:, None]
