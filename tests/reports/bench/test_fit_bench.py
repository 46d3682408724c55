from __future__ import annotations

import pytest
import torch

from reports.bench.fit import BenchFitConfig, bench_fit, per_member_loss, random_problem, update_flops
from rwmmodel.loss import LossConfig, ensemble_loss

SMALL = BenchFitConfig(members=3, hidden=8, history=5, forecast=3, batch=6, repeats=1, device="cpu")


def test_the_obvious_way_has_the_same_loss_and_gradient():
    model, windows, noise, drawn, weights = random_problem(SMALL, torch.device("cpu"))
    slow = per_member_loss(model, windows, noise, drawn)
    fast = ensemble_loss(model, windows, LossConfig(), noise, weights).total
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_speeds_are_beside_the_obvious_way():
    rows = {r["name"]: r for r in bench_fit(SMALL)["rows"]}
    assert rows["ours, float32"]["baseline"] == rows["every member by itself, float32"]["value"]
    assert rows["relative difference of the losses"]["value"] < 1e-5
    assert 0 < rows["ours, float32: share of the matrix peak"]["ratio"] < 1


def test_operations_by_hand():
    config = SMALL.model_copy(update={"members": 2, "forecast": 2, "history": 3})
    model, *_ = random_problem(config, torch.device("cpu"))
    layer_1, layer_2 = 2 * 3 * 8 * (57 + 8), 2 * 3 * 8 * (8 + 8)
    heads = 2 * (2 * (8 * 128 + 128 * 45) + (8 * 128 + 128 * 8) + (8 * 128 + 128))
    passes = 3 + 4 + 2 * 1
    assert update_flops(config, model) == 3 * ((layer_1 + layer_2) * passes + heads * 2 * 2)
