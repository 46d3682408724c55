"""Scores of a predicted mean and standard deviation against the truth: coverage, ENCE, likelihood, CRPS."""

from __future__ import annotations

import math

import numpy as np
import torch

BINS = 10
"""Of the expected normalised calibration error, equally filled."""


def gaussian_nll(error: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each error under N(0, std^2), in nats; infinite where ``std`` is 0.

    log(std) + (error / std)^2 / 2 + log(2 pi) / 2.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = np.log(std) + 0.5 * (error / std) ** 2 + 0.5 * math.log(2 * math.pi)
    return np.where(std > 0, value, np.inf)


def gaussian_crps(error: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the continuous ranked probability score of each error under N(0, std^2), in the error's unit.

    std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) with z = error / std (Gneiting and Raftery 2007, Equation 21);
    |error| where ``std`` is 0, which is its limit.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = error / std
        inside = torch.erf(torch.from_numpy(np.asarray(z / math.sqrt(2)))).numpy()  # 2 Phi(z) - 1
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        value = std * (z * inside + 2 * density - 1 / math.sqrt(math.pi))
    return np.where(std > 0, value, np.abs(error))


def ence(error: np.ndarray, std: np.ndarray, bins: int = BINS) -> float:
    """Return the expected normalised calibration error (Levi et al. 2022, Equation 8); infinite where stds are 0.

    Points are sorted by ``std`` into equally filled bins, one a point where there are fewer points than bins; of each,
    RMV is the root mean predicted variance and RMSE the root mean squared error; the mean over bins of
    |RMV - RMSE| / RMV. True standard deviations give 0 but for sampling: with n points a bin about 0.56 / sqrt(n).
    ``error`` and ``std`` have the same shape.
    """
    error, std = np.asarray(error, np.float64).ravel(), np.asarray(std, np.float64).ravel()
    order = np.argsort(std)
    bins = min(bins, len(order))
    edges = (np.arange(bins) * len(order)) // bins
    count = np.diff([*edges, len(order)])
    rmv = np.sqrt(np.add.reduceat(std[order] ** 2, edges) / count)
    rmse = np.sqrt(np.add.reduceat(error[order] ** 2, edges) / count)
    return float(np.mean(np.abs(rmv - rmse) / rmv)) if rmv.min() > 0 else math.inf


def interval_coverage(error: np.ndarray, std: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the share of errors within the central interval of N(0, std^2) of each level, ``(levels,)``."""
    z = math.sqrt(2) * torch.erfinv(torch.from_numpy(np.asarray(levels, np.float64))).numpy()
    with np.errstate(over="ignore"):  # No interval of a standard deviation of 0 holds an error.
        ratio = np.sort((np.abs(error) / np.maximum(std, np.finfo(np.float64).tiny)).ravel())
    return np.searchsorted(ratio, z, side="right") / len(ratio)
