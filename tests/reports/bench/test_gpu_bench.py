from __future__ import annotations

import pytest

from reports.bench.gpu import BenchGpuConfig, bench_gpu


def test_whole_trainings_are_counted_from_the_speeds_measured():
    config = BenchGpuConfig(hidden=8, batch=6, robots=16, steps=3, repeats=1, device="cpu")
    found = {r["name"]: r for r in bench_gpu(config)["rows"]}
    fit = found["50,000 updates, float32: beside their products"]
    assert fit["value"] == pytest.approx(50_000 * 6 / found["ours, float32"]["value"] / 60)
    assert 0 < fit["baseline"] < fit["value"]
    speed = found["iteration, 16 environments: ours, float32"]["value"]
    assert found["2,500 iterations, float32"]["value"] == pytest.approx(2500 * 3 * 16 / speed / 60)
