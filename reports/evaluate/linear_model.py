"""The simplest model with any dynamics in it: ridge regression from a state and an action to the next state."""

from __future__ import annotations

import numpy as np

from rwmdata.catalog import Dataset
from rwmdata.windows import window_starts

RIDGE = 1e-3
"""Of the mean squared input."""
MAX_ROWS = 100_000


class RidgeModel:
    """``s' = s + W [s, a, 1]``, fitted on rows of a dataset's train split.

    ``mean`` and ``std``, state then action, ``(S + A,)``, normalise them.
    """

    def __init__(self, dataset: Dataset, mean: np.ndarray, std: np.ndarray, seed: int = 0) -> None:
        state, action = dataset.schema.state, dataset.schema.action
        starts = window_starts(*dataset.split_bounds("train"), 2)
        chosen = np.random.default_rng(seed).permutation(starts)[:MAX_ROWS]
        rows = dataset.matrix()
        size = state.stop - state.start
        steps = (rows[chosen + k, state].astype(np.float64) for k in (0, 1))
        before, after = ((states - mean[:size]) / std[:size] for states in steps)
        acted = (rows[chosen + 1, action].astype(np.float64) - mean[size:]) / std[size:]
        self.weights = ridge(np.hstack((before, acted)), after - before)

    def roll_out(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Predict ``(W, steps, S)`` from start states ``(W, S)`` and actions ``(W, steps, A)``, all normalised.

        A linear model may grow without bound; it is held within 100 standard deviations.
        """
        states, ones = [], np.ones((len(state), 1))
        for k in range(actions.shape[1]):
            step = np.hstack((state, actions[:, k], ones)) @ self.weights
            state = np.clip(state + step, -100, 100)
            states.append(state)
        return np.stack(states, axis=1)


def ridge(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the weights ``(I + 1, S)`` of a ridge regression with a free offset, its row last."""
    inputs = np.hstack((inputs, np.ones((len(inputs), 1))))
    penalty = RIDGE * len(inputs) * np.eye(inputs.shape[1])
    penalty[-1, -1] = 0.0
    return np.asarray(np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets))
