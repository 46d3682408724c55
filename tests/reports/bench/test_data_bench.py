from __future__ import annotations

import pytest

from reports.bench.data import BenchDataConfig, bench_data, rows_of
from rwmdata.errors import RwmError


def test_every_step_is_measured_in_a_process_of_its_own(tmp_path):
    found = bench_data(BenchDataConfig(rows=4000, csv_mb=1), tmp_path)
    values = {r["name"]: r for r in found["rows"]}
    assert values["csv to parquet (baseline: pandas)"]["ratio"] > 0
    assert all(r["value"] > 0 for r in found["rows"]) and len(values) == 11
    assert list(tmp_path.iterdir()) == []


def test_ratios_by_hand():
    found = {
        "write": {"seconds": 2.0, "peak_mib": 1.0},
        "validate": {"seconds": 4.0, "peak_mib": 2.0},
        "fit": {"first_batch_s": 3.0, "peak_mib": 3.0, "windows_per_s": 5.0},
        "sql": {"group_s": 0.5, "runs_s": 0.1},
        "convert": {"mb_per_s": 90.0, "peak_mib": 10.0},
        "pandas": {"mb_per_s": 30.0, "peak_mib": 40.0},
    }
    rows = {r.name: r for r in rows_of(found, BenchDataConfig(rows=4000))}
    assert rows["write a dataset"].value == 2000 and rows["validate"].value == 1000
    assert rows["csv to parquet (baseline: pandas)"].ratio == 3.0 and rows["validate"].ratio is None
    assert rows["csv to parquet, peak memory (baseline: pandas)"].ratio == 0.25


def test_a_step_that_fails_is_named(tmp_path):
    with pytest.raises(RwmError, match="The step 'write' failed: .*Unknown robot 'nobody'"):
        bench_data(BenchDataConfig(rows=2000, csv_mb=1, robot="nobody"), tmp_path)
