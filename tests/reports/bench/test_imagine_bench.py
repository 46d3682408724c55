"""The benchmark's obvious way is the same mathematics, and its rows say what they say."""

from __future__ import annotations

import pytest
import torch

from reports.bench.imagine import BenchImagineConfig, ObviousEnsemble, bench_imagine
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig

SIZES = {"state_dim": 5, "action_dim": 2, "contact_dim": 3, "members": 3, "hidden": 8, "head_hidden": 7, "history": 4}


@pytest.mark.parametrize("ids", [None, torch.tensor([2, 0, 1, 2])])
@torch.no_grad()
def test_the_obvious_way_gives_the_same_numbers(ids):
    torch.manual_seed(0)
    ours = DynamicsEnsemble(EnsembleConfig(**SIZES)).double()
    obvious = ObviousEnsemble(EnsembleConfig(**SIZES)).double()
    obvious.load_state_dict(ours.state_dict())
    states, actions = torch.randn(4, 6, 5).double(), torch.randn(4, 6, 2).double()
    carries = [m.warm_up(states[:, :3], actions[:, :3]) for m in (ours, obvious)]
    for t in (3, 4, 5):
        one, carries[0] = ours.step(states[:, t], actions[:, t], carries[0], ids)
        two, carries[1] = obvious.step(states[:, t], actions[:, t], carries[1], ids)
        for name in ("state", "std", "aleatoric", "epistemic", "contact", "termination", "member_mean", "member_std"):
            torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=0, atol=1e-12)


def test_rows():
    found = bench_imagine(BenchImagineConfig(num_envs=(16,), members=2, hidden=8, steps=3, repeats=1, device="cpu"))
    rows = {r["name"]: r for r in found["rows"]}
    assert rows["collection, 16 environments: every head by itself, float32"]["ratio"] == 1.0
    for what in ("collection", "iteration"):
        row = rows[f"{what}, 16 environments: ours, float32"]
        assert row["value"] > 0 and row["ratio"] == row["value"] / row["baseline"]
    assert rows["ours, float32: largest relative difference of the epistemic uncertainty"]["value"] < 0.01
