"""A home written by an earlier version is read, evaluated, resumed and reported by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from rwmdata.episodes import read_episodes
from rwmdata.home import Home

WRITTEN_BEFORE = Path(__file__).parent / "data" / "before"
MODEL, INTERRUPTED_MODEL = "20261125-083512-e122e9", "20261125-083512-d5e658"
CLONE, POLICY, INTERRUPTED_POLICY = "20261125-083513-0a9329", "20261125-083513-9054e5", "20261125-083513-fd57d8"
INTERRUPTED_TRAINING, EVALUATION = "20261125-083513-d7925b", "20261125-083514-5acae3"
RESUMED_THEN = {
    INTERRUPTED_MODEL: {"val/total": 172.61854553222656, "val/rel_l1_h8": 1.1950781345367432},
    INTERRUPTED_POLICY: {"imagined_reward_after": -0.033661309513263404, "epistemic": 6.68083381652832},
    INTERRUPTED_TRAINING: {"iterations": 4, "steps": 128},
}
"""What the version that wrote the runs ended with when it resumed them itself; but the policy, whose reward was
-0.03387 then, now keeps its normaliser while only the critic learns, and imagined feet begin with their time in the
air."""


@pytest.fixture
def home(home, monkeypatch) -> Home:
    """A copy of the old home; its numbers were computed without CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Home(Path(shutil.copytree(WRITTEN_BEFORE, home.root)))


@pytest.fixture
def rwm(rwm):
    """Run a command with --json and return the object it prints."""
    return lambda *words: json.loads(rwm(*words, "--json"))


def test_the_dataset_is_listed_described_and_valid(rwm):
    assert [d["name"] for d in rwm("data", "ls")["datasets"]] == ["walks"]
    assert rwm("data", "info", "walks")["rows"] == 600
    assert rwm("data", "validate", "walks") == {"dataset": "walks", "valid": True, "faults": []}
    assert rwm("data", "fsck")["troubles"] == []


def test_episodes_hold_what_the_parquet_file_holds(rwm, home):
    table = pl.read_parquet(home.data_dir / "walks" / "shard-00000.parquet").sort("episode", "step")
    dataset = home.dataset("walks")
    names = dataset.schema.csv_names
    episodes = list(read_episodes(dataset))
    assert len(episodes) == table["episode"].n_unique() == 6
    for number, episode in enumerate(episodes):
        rows = table.filter(pl.col("episode") == number)
        np.testing.assert_array_equal(episode.rows, rows.select(pl.col(names).cast(pl.Float32)).to_numpy())
        np.testing.assert_array_equal(episode.reward, rows["reward"].to_numpy())
        assert {episode.behaviour} == set(rows["behaviour"])
        assert episode.truncated == rows["truncated"][-1]


def test_every_run_is_listed_with_its_parents(rwm):
    runs = {r["id"]: r for r in rwm("runs", "ls")["runs"]}
    assert {id: r["status"] for id, r in runs.items()} == {
        MODEL: "finished", INTERRUPTED_MODEL: "interrupted", CLONE: "finished", POLICY: "finished",
        INTERRUPTED_POLICY: "interrupted", INTERRUPTED_TRAINING: "interrupted", EVALUATION: "finished",
    }  # fmt: skip
    assert runs[POLICY]["parents"] == {"dataset": "walks", "model": MODEL, "policy": CLONE}


def test_an_evaluation_gives_the_recorded_numbers(rwm, home):
    recorded = json.loads((home.runs_dir / "eval" / EVALUATION / "summary.json").read_text())["scalars"]
    words = ("--model", MODEL, "--windows", "4", "--steps", "20")
    scalars = rwm("eval", "uncertainty", "walks", *words)["scalars"]
    assert len(recorded) > 20
    assert by_name(scalars) == pytest.approx(by_name(recorded), rel=1e-4, nan_ok=True)


def by_name(scalars):
    """Return the values of a summary; what could not be computed (None) becomes NaN, so that it can be compared."""
    return {
        (s["metric"], s["mode"], s["horizon"], s["group"]): float("nan") if s["value"] is None else s["value"]
        for s in scalars
    }


@pytest.mark.parametrize("run", RESUMED_THEN)
def test_an_interrupted_run_is_resumed_to_what_it_would_have_become(rwm, run):
    summary = rwm("runs", "resume", run)
    assert rwm("runs", "show", run)["status"] == "finished"
    assert {k: summary[k] for k in RESUMED_THEN[run]} == pytest.approx(RESUMED_THEN[run], rel=1e-3)


def test_sql_reads_the_evaluation(rwm):
    query = f"select value from evaluations where run = '{EVALUATION}' and metric = 'final_l1' and mode = 'mean'"
    assert rwm("sql", query)["rows"] == [{"value": pytest.approx(83.1959228515625)}]


def test_the_report_is_built(rwm, tmp_path):
    rwm("report", POLICY, "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert all(name in page for name in ("walks", MODEL, CLONE, POLICY, EVALUATION))
