"""Held-out scores by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmdata.episodes import Episode
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter
from rwmmodel import validation
from rwmmodel.data import RowStore
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.fit_config import FitConfig
from rwmmodel.normalizer import Normalizer
from rwmmodel.validation import Validator, forecast_logits

CONFIG = FitConfig(hidden=4, head_hidden=4, members=2, history=3, forecast=2, batch=4, val_windows=50, device="cpu")


@pytest.fixture
def dataset(tmp_path):
    schema = Schema.build(["joint"], ["leg"])
    with DatasetWriter(tmp_path, "set", "toy", schema, 50.0, {}) as writer:
        for k in range(10):
            rows = np.random.default_rng(k).normal(size=(5, 16)).astype(np.float32)
            rows[:, 13:15] = (1, 0)
            rows[:, 15] = 0
            rows[-1, 15] = 1
            writer.append(Episode(rows, truncated=False))
        return writer.commit()


@pytest.mark.parametrize(
    ("contact", "fall", "f1", "recall"), [((3, -3), 3, 1.0, 1.0), ((3, 3), -3, 2 / 3, 0.0), ((-3, -3), -3, 0.0, 0.0)]
)
def test_contacts_and_falls_are_counted(dataset, monkeypatch, contact, fall, f1, recall):
    def constant(model, states, actions, forecast):
        ones = torch.ones(len(states), forecast, 1)
        return {"contact": ones * torch.tensor(contact), "termination": ones * fall}

    monkeypatch.setattr(validation, "forecast_logits", constant)
    store = RowStore(dataset, Normalizer(12, 1), torch.device("cpu"))
    found = Validator.of_dataset(dataset, store, CONFIG)(DynamicsEnsemble(CONFIG.ensemble(dataset.schema)))
    assert found["val/contact_f1"] == pytest.approx(f1)
    assert found["val/termination_recall"] == recall
    assert found["val/false_falls"] == recall  # told everywhere or nowhere


def test_all_falls_are_told_of_where_few_windows_are_looked_at(dataset, monkeypatch):
    """Windows of three rows: two of them end before the fall, one in it."""

    def falling(model, states, actions, forecast):
        told.append(len(states))
        return {"contact": torch.zeros(len(states), forecast, 2), "termination": torch.ones(len(states), forecast, 1)}

    told: list[int] = []
    monkeypatch.setattr(validation, "forecast_logits", falling)
    store = RowStore(dataset, Normalizer(12, 1), torch.device("cpu"))
    config = CONFIG.model_copy(update={"history": 2, "forecast": 1, "val_windows": 1})
    scorer = Validator.of_dataset(dataset, store, config)
    episodes = dataset.split("val")
    assert sorted(scorer.falls) == [5 * k + 2 for k in episodes] and len(scorer.starts) == 1
    assert scorer(DynamicsEnsemble(config.ensemble(dataset.schema)))["val/termination_recall"] == 1.0
    assert told[-1] == len(episodes)


def test_logits_are_those_of_single_steps(make_model, make_windows):
    model, windows = make_model(), make_windows(4, 9)
    found = forecast_logits(model, windows.states, windows.actions, 3)
    for k in range(3):
        row = 6 + k
        expected = model(windows.states[:, :row], windows.actions[:, 1 : row + 1])
        torch.testing.assert_close(found["contact"][:, k], expected.contact)
        torch.testing.assert_close(found["termination"][:, k], expected.termination)
