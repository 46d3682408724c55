"""Merging, filtering, splitting and removing: the same rows under new names, and nothing committed ever changed."""

from __future__ import annotations

import numpy as np
import pytest

from rwmdata.catalog import Dataset, checksum
from rwmdata.edit import filter_episodes, merge, remove, split_anew
from rwmdata.episodes import Episode, read_episodes
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.manifest import split_episodes
from rwmdata.runs import Run
from rwmdata.validate import validate
from rwmdata.views import run_sql
from rwmdata.writer import DatasetWriter


@pytest.fixture
def make(home, schema):
    """Commit episodes of the given lengths, several shards of them; every other one fell."""

    def make(name, lengths, robot="anymal_d", first=0):
        rng = np.random.default_rng(first)
        with DatasetWriter(home.data_dir, name, robot, schema, 50.0, {"source": "test"}, rows_per_shard=50) as writer:
            for k, length in enumerate(lengths):
                rows = rng.normal(size=(length, schema.width)).astype(np.float32)
                rows[:, -1] = 0
                rows[-1, -1] = k % 2
                extra = {"command": np.full((length, 3), 0.5), "reward": np.arange(length)} if k % 3 else {}
                writer.append(Episode(
                    rows, truncated=k % 2 == 0, behaviour=f"b{k % 2}", parameters={"mass": float(k)} if k else {},
                    **extra,
                ))  # fmt: skip
            return writer.commit()

    return make


def test_episodes_come_back_with_everything_known_of_them(make):
    dataset = make("a", [30, 30, 20, 40])
    found = list(read_episodes(dataset))
    assert len(dataset.shard_paths) == 2
    assert np.array_equal(np.concatenate([e.rows for e in found]), dataset.matrix())
    assert [e.truncated for e in found] == [True, False, True, False]
    assert [e.command is None for e in found] == [True, False, False, True]
    assert found[1].reward.tolist() == list(range(30)) and found[2].behaviour == "b0"
    assert [e.parameters for e in found] == [{}, {"mass": 1.0}, {"mass": 2.0}, {"mass": 3.0}]
    assert [e.parameters["mass"] for e in read_episodes(dataset, {1, 3})] == [1.0, 3.0]


def test_merging_keeps_rows_order_and_origin(home, make):
    a, b = make("a", [30, 40]), make("b", [20, 60], first=1)
    both = merge(home, [a, b], "both")
    assert np.array_equal(both.matrix(), np.concatenate((a.matrix(), b.matrix())))
    assert both.scan().collect()["episode"].unique(maintain_order=True).to_list() == [0, 1, 2, 3]
    assert [d["name"] for d in both.manifest.provenance["datasets"]] == ["a", "b"]
    assert both.manifest.episodes.parameters == {"mass": [None, 1.0, None, 1.0]}
    mean = both.matrix()[:, 0].mean()
    assert both.manifest.columns[0].mean == pytest.approx(mean, abs=1e-6)
    assert not [f for f in validate(both) if f.severity == "error" and f.check in ("checksum", "episodes", "schema")]


def test_datasets_that_do_not_fit_together_are_not_merged(home, make):
    a, b = make("a", [30]), make("b", [30], robot="go2")
    with pytest.raises(RwmError, match="'a' and 'b' differ in robot: anymal_d and go2"):
        merge(home, [a, b], "c")
    with pytest.raises(RwmError, match="at least two"):
        merge(home, [a], "c")
    with pytest.raises(RwmError, match="'a' exists already"):
        merge(home, [a, make("d", [10])], "a")


def test_filtering_takes_the_episodes_a_condition_holds_for(home, make):
    source = make("a", [30, 31, 20, 41])
    kept = filter_episodes(home, source, "terminated and length > 35", "falls")
    assert np.array_equal(kept.matrix(), source.matrix()[-41:])
    by_behaviour = filter_episodes(home, source, "behaviour = 'b0' or episode = 1", "some")
    assert by_behaviour.episodes.length.tolist() == [30, 31, 20]
    by_parameter = filter_episodes(home, source, "(parameters->>'mass')::double >= 2", "heavy")
    assert by_parameter.episodes.length.tolist() == [20, 41]


@pytest.mark.parametrize(
    ("where", "message"),
    [("length > 1000", "No episode of 'a' fits"), ("colour = 'red'", "failed: Binder Error"), ("(", "failed: Parser")],
)
def test_a_condition_that_fails_says_why(home, make, where, message):
    with pytest.raises(RwmError, match=message):
        filter_episodes(home, make("a", [30]), where, "b")
    assert [d.name for d in home.datasets()] == ["a"]


def test_a_new_split_shares_the_files(home, make):
    source = make("a", [10] * 10)
    again = split_anew(home, source, "half", {"train": 1, "val": 1}, seed=3)
    assert {k: len(v) for k, v in again.manifest.splits.items()} == {"train": 5, "val": 5}
    assert sorted(sum(again.manifest.splits.values(), [])) == list(range(10))
    for ours, theirs in zip(again.shard_paths, source.shard_paths, strict=True):
        assert ours.stat().st_ino == theirs.stat().st_ino and checksum(ours) == checksum(theirs)
    remove(home, source)
    assert again.matrix().shape == (100, 66)  # the files live on under the other name
    with pytest.raises(RwmError, match="must be positive"):
        split_anew(home, again, "x", {"train": 1.0, "val": 0.0})
    with pytest.raises(RwmError, match="has 10 episodes, fewer than 11"):
        split_anew(home, again, "x", {str(k): 1.0 for k in range(11)})


def test_a_damaged_or_incomplete_dataset_is_not_split(home, make):
    source = make("a", [10] * 4)
    shard = source.shard_paths[0]
    shard.rename(shard.with_suffix(".gone"))
    with pytest.raises(RwmError, match=f"{shard.name} is missing"):
        split_anew(home, source, "x", {"train": 1, "val": 1})
    shard.with_suffix(".gone").rename(shard)
    manifest = source.path / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"rows": 40', '"rows": 41', 1))
    with pytest.raises(RwmError):
        split_anew(home, Dataset.open(source.path), "x", {"train": 1, "val": 1})


def test_a_dataset_from_elsewhere_is_filtered_by_its_own_episodes(home, make, tmp_path):
    elsewhere = Home.resolve(tmp_path / "other")
    moved = elsewhere.data_dir / "a"
    moved.parent.mkdir(parents=True)
    make("a", [10, 20, 30]).path.rename(moved)
    make("a", [30, 30])
    source = Dataset.open(moved)
    kept = filter_episodes(home, source, "length > 15", "long")
    assert kept.episodes.length.tolist() == [20, 30]


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (100, (80, 10, 10))])
def test_default_shares_leave_no_split_empty_where_they_can(count, sizes):
    assert tuple(len(v) for v in split_episodes(count, 0).values()) == sizes


def test_removing_names_the_runs_made_from_it(home, make):
    source = make("a", [10])
    run = Run.create(home, "model", {}, {"dataset": "a"}, 0)
    assert remove(home, source) == [run.id]
    assert home.datasets() == [] and list(home.data_dir.iterdir()) == []
    assert run_sql(home, "select count(*) as n from datasets")["n"].item() == 0
