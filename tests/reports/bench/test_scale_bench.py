from __future__ import annotations

import pytest

from reports.bench import scale
from reports.bench.scale import AXES, BenchScaleConfig, Point, bench_scale, rows_of

SMALL = {"rows": (2000, 4000), "members": (1, 2), "forecast": (1,), "batch": (2, 4), "robots": (4, 8), "hidden": 8}


def test_growth_by_hand():
    found = [{"seconds": 2.0, "peak_mib": 100.0}, {"seconds": 16.0, "peak_mib": 200.0}]
    rows = {r.name: r for r in rows_of(AXES["rows"], (1000, 4000), found)}
    assert rows["open to first batch, 4,000 rows"].ratio == 8.0
    assert rows["open to first batch: grows with the power"].value == pytest.approx(1.5)
    assert rows["open to first batch, peak memory: grows with the power"].value == pytest.approx(0.5)
    ahead = rows["open to first batch, peak memory, 1,000,000,000 rows at the last two's slope"].value
    assert ahead == pytest.approx(200.0 + 100.0 / 3000 * (1e9 - 4000))


def test_every_axis_is_measured(tmp_path, monkeypatch):
    asked = []

    def here(_module, step, folder, point, processes=1):
        asked.append((step, point.axis, point.value, processes))
        return {"peak_mib": 1.0} | (scale._point if step == "point" else scale._rank)(folder, point)

    monkeypatch.setattr(scale, "in_child", here)
    found = bench_scale(BenchScaleConfig(processes=(1, 2), **SMALL), tmp_path)
    values = {r["name"]: r["value"] for r in found["rows"]}
    assert ("rank", "processes", 2, 2) in asked and ("point", "rows", 4000, 1) in asked
    assert values["update of a fit, 2 processes"] > 0 and values["imagined step, 8 robots"] > 0
    assert all(v > 0 for name, v in values.items() if "power" not in name)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_share_a_fit_and_have_their_own_memory(tmp_path):
    point = Point(axis="processes", value=2, config=BenchScaleConfig(processes=(2,), **SMALL))
    found = scale.in_child("reports.bench.scale", "point", tmp_path, point)
    assert found["seconds"] > 0 and found["peak_mib"] > 100
