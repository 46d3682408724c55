"""Merge, filter, split, stats, fsck, rm and SQL output, as a user types them."""

from __future__ import annotations

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from cli.main import app
from rwmdata.errors import RwmError
from rwmdata.home import Home


@pytest.fixture
def rwm(rwm):
    """The command line of a home with a dataset."""
    rwm("data", "export", "--transitions", "600", "--num-envs", "8", "--name", "a", "--json")
    return rwm


def test_datasets_are_merged_filtered_split_and_removed(rwm, home):
    rwm("data", "export", "--transitions", "400", "--num-envs", "4", "--name", "b", "--policy", "expert:1,random:1")
    assert json.loads(rwm("data", "merge", "a", "b", "--name", "c", "--json"))["rows"] == 1000
    kept = json.loads(rwm("data", "filter", "behaviour = 'expert' or length < 80", "--name", "d", "--json"))
    assert 0 < kept["rows"] < 1000
    rwm("data", "split", "c", "--name", "e", "--train", "0.5", "--val", "0.25", "--test", "0.25")
    assert "c" in rwm("data", "rm", "c", "--yes")
    assert {d.name for d in Home(home.root).datasets()} == {"a", "b", "d", "e"}
    assert "0 troubles" in rwm("data", "fsck")


def test_stats_and_fsck_speak_json_and_tables(rwm, home, tmp_path):
    found = json.loads(rwm("data", "stats", "--json", "--out", str(tmp_path)))
    assert len(found["columns"]) == 65 and len(found["files"]) == 9
    assert "█" in rwm("data", "stats")
    (home.data_dir / "a" / "shard-00000.parquet").unlink()
    assert json.loads(rwm("data", "fsck", "--json", code=1))["troubles"][0]["what"] == "is missing"


def test_sql_prints_or_writes_every_format(rwm, tmp_path):
    query = "select episode, length from episodes order by episode"
    assert rwm("sql", query, "--format", "csv").splitlines()[0] == "episode,length"
    assert json.loads(rwm("sql", query, "--format", "json"))["rows"][0]["episode"] == 0
    rwm("sql", query, "--format", "parquet", "--out", str(tmp_path / "x.parquet"))
    assert pl.read_parquet(tmp_path / "x.parquet").columns == ["episode", "length"]
    said = json.loads(rwm("sql", query, "--format", "csv", "--out", tmp_path / "x.csv", "--json"))
    assert said == {"file": str(tmp_path / "x.csv"), "rows": pl.read_csv(tmp_path / "x.csv").height}
    for options in (["--format", "parquet"], ["--format", "xml"], ["--out", str(tmp_path / "y")]):
        with pytest.raises(RwmError, match="cannot be"):
            rwm("sql", query, *options)


@pytest.mark.parametrize("bounds", ["4", "4x", "axb", "4x3x2"])
def test_bounds_that_are_not_two_lengths_are_named(rwm, bounds):
    with pytest.raises(RwmError, match=f"'{bounds}' is not LENGTHxWIDTH in metres"):
        rwm("data", "export", "--bounds", bounds)


def test_doctor_and_bench_speak_json(home):
    findings = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["findings"]
    assert {"mujoco", "isaaclab", "mjlab"} <= {f["name"] for f in findings}
    words = ["bench", "export", "--policy", "scripted", "--transitions", "200", "--num-envs", "4", "--repeats", "1"]
    rows = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["rows"]
    assert set(rows[0]) == {"name", "value", "unit", "baseline", "ratio"}
