"""Whether a log's action was taken in the state of its row or led to it, by which of the two explains the motion."""

from __future__ import annotations

import numpy as np

from rwmdata.alignment import MARGIN, explained_variance

FEWEST_ROWS = 200
"""Fewer do not tell."""
MOST_ROWS = 20_000


def action_index_lines(
    position: np.ndarray, velocity: np.ndarray, action: np.ndarray, rate_hz: float, dt_s: float
) -> list[str]:
    """Return the proposed ``action_index`` with what tells it.

    Args:
        position: Joint positions as recorded, ``(T, J)``; ``T`` is 0 where they are not.
        velocity: Joint velocities, ``(T, J)``.
        action: Actions or targets, ``(T, J)``.
        rate_hz: Rows per second.
        dt_s: Control step.
    """
    lines = ["# next: the target in a row was sent in answer to its state; previous: it was sent before and led to it"]
    step = max(round(dt_s * rate_hz), 1)
    rows = np.arange(min(len(position), len(velocity), len(action), MOST_ROWS) - step)
    known = len(rows) >= FEWEST_ROWS and all(np.isfinite(part).all() for part in (position, velocity, action))
    if known and action[rows].std(axis=0).max() > 0:
        rows = np.random.default_rng(0).permutation(rows)
        state, change = np.hstack((position, velocity))[rows], velocity[rows + step] - velocity[rows]
        share = {
            "next": explained_variance(np.hstack((state, action[rows])), change),
            "previous": explained_variance(np.hstack((state, action[rows + step])), change),
        }
        if abs(share["next"] - share["previous"]) > MARGIN:
            best = max(share, key=lambda index: share[index])
            other = min(share, key=lambda index: share[index])
            lines.append(f"# {best} explains {share[best]:.2f} of how joints accelerate, {other} {share[other]:.2f}")
            return [*lines, f"action_index: {best}"]
    return [*lines, "action_index: next"]
