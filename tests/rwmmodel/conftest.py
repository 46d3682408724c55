"""Small models and a linear system in the shape of a one-jointed robot's dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmdata.episodes import Episode
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter
from rwmmodel.data import Windows
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig

NOISE_STD = 0.3


@pytest.fixture
def make_model():
    """Build a small float64 ensemble: M = 6, S = 5, A = 2, C = 3, X = 2, with heads that differ from their start."""

    def build(base: str = "gru", members: int = 3, **options) -> DynamicsEnsemble:
        sizes = {"history": 6, "hidden": 8, "mlp_hidden": (9, 8), "head_hidden": 7, "latent": 3} | options
        sizes = {"extension_dim": 2} | sizes
        config = EnsembleConfig(base=base, members=members, state_dim=5, action_dim=2, contact_dim=3, **sizes)
        torch.manual_seed(3)
        model = DynamicsEnsemble(config).double().eval()
        with torch.no_grad():
            model.state_head.min_log_std.uniform_(-3, -2)
            model.state_head.log_delta.uniform_(-0.5, 0.5)
        return model

    return build


@pytest.fixture
def make_windows():
    """Build random float64 windows that fit ``make_model``."""

    def build(batch: int, rows: int, extension_dim: int = 2) -> Windows:
        g = torch.Generator().manual_seed(5)

        def normal(width: int) -> torch.Tensor:
            return torch.randn(batch, rows, width, generator=g, dtype=torch.float64)

        return Windows(normal(5), normal(2), normal(extension_dim), (normal(3) > 0).double(), (normal(1) > 1).double())

    return build


def linear_episode(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Roll out ``x' = A x + b a + noise`` and return rows ``(steps, 16)``; contact is the sign of two states."""
    fixed = np.random.default_rng(0)
    mixing, _ = np.linalg.qr(fixed.normal(size=(12, 12)))
    push = fixed.normal(size=12) / 2
    x, rows = rng.normal(size=12), np.zeros((steps, 16), np.float32)
    for row in rows:
        action = rng.normal()
        x = 0.8 * mixing @ x + push * action + NOISE_STD * rng.normal(size=12)
        row[:12], row[12], row[13:15] = x, action, x[:2] > 0
    return rows


@pytest.fixture(scope="session")
def linear_dataset(tmp_path_factory):
    """A dataset of 200 episodes of 60 rows of the linear system."""
    rng, schema = np.random.default_rng(1), Schema.build(["joint"], ["leg"])
    with DatasetWriter(tmp_path_factory.mktemp("data"), "linear", "toy", schema, 50.0, {}) as writer:
        for _ in range(200):
            writer.append(Episode(linear_episode(rng, 60), truncated=True))
        return writer.commit()
