"""Check which row's action leads to the next state: the next row's by the schema, another in a faulty import."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwmdata.catalog import Dataset
from rwmdata.windows import window_starts

SHIFTS = (-1, 0, 1)
"""Row of the action relative to the predicted state's row; 0 is the schema's alignment."""
MAX_SAMPLES = 20_000
RIDGE = 1e-3
MARGIN = 0.02
"""Another shift counts as better when it explains this much more of the variance."""


@dataclass(frozen=True)
class Alignment:
    """Result of :func:`check_alignment`: held-out explained variance per shift, and the best shift."""

    explained: dict[int, float]
    best: int

    @property
    def aligned(self) -> bool:
        """The schema's own alignment is the best, or no other is clearly better."""
        return self.explained[self.best] - self.explained[0] < MARGIN


def check_alignment(dataset: Dataset, matrix: np.ndarray) -> Alignment | None:
    """Predict the change of joint velocity from state and action by ridge regression, once per shift.

    Args:
        dataset: Gives episodes and schema.
        matrix: Its rows, ``(R, width)``.

    Returns:
        None when actions never change or there are too few rows to tell.
    """
    starts = window_starts(dataset.episodes.start, dataset.episodes.length, 4)
    if len(starts) < 200 or matrix[:, dataset.schema.action].std(axis=0).max() < 1e-6:
        return None
    rows = np.random.default_rng(0).permutation(starts)[:MAX_SAMPLES] + 1
    state, action = matrix[:, dataset.schema.state], matrix[:, dataset.schema.action]
    velocity = dataset.schema.group("joint_vel")
    target = state[rows + 1, velocity] - state[rows, velocity]
    explained = {s: explained_variance(np.hstack((state[rows], action[rows + 1 + s])), target) for s in SHIFTS}
    return Alignment(explained, max(explained, key=lambda s: (explained[s], -abs(s))))


def explained_variance(inputs: np.ndarray, target: np.ndarray) -> float:
    """Return 1 - held-out error / variance of a ridge regression fitted on the first half.

    Args:
        inputs: ``(n, k)``, in random order.
        target: ``(n, m)``.
    """
    inputs, target = inputs.astype(np.float64), target.astype(np.float64)
    half = len(inputs) // 2
    mean, std = inputs[:half].mean(axis=0), inputs[:half].std(axis=0)
    inputs = np.hstack(((inputs - mean) / np.where(std > 1e-9, std, 1.0), np.ones((len(inputs), 1))))
    gram = inputs[:half].T @ inputs[:half] + RIDGE * half * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs[:half].T @ target[:half])
    error = ((inputs[half:] @ weights - target[half:]) ** 2).sum()
    spread = ((target[half:] - target[:half].mean(axis=0)) ** 2).sum()
    return float(1 - error / spread) if spread > 0 else 0.0
