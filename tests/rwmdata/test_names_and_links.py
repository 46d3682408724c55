"""A path is a path, a dataset's name is its folder's name, links are followed, and nothing damaged hides the rest."""

from __future__ import annotations

import shutil

import pytest

from rwmdata.catalog import Dataset
from rwmdata.edit import filter_episodes, remove
from rwmdata.errors import RwmError
from rwmdata.fsck import check_home
from rwmdata.home import Home
from rwmdata.runs import Run
from rwmdata.views import open_views, run_sql

BY_DATASET = "select dataset, count(*) from transitions group by 1 order by 1"
ODD = "it's a [1] *copy?*"


@pytest.fixture
def dataset(make_dataset, episodes):
    return make_dataset(episodes(3, 10), "a")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home whose path is full of what could be a pattern or end a string."""
    monkeypatch.setenv("RWM_HOME", str(tmp_path / "home[1] it's*?"))
    return Home.resolve()


def test_a_copied_or_renamed_folder_is_a_dataset_of_its_own_name(home, dataset):
    shutil.copytree(dataset.path, home.data_dir / ODD)
    dataset.path.rename(home.data_dir / "renamed")
    assert sorted(d.name for d in home.datasets()) == [ODD, "renamed"]
    assert home.dataset(ODD).manifest.name == ODD
    assert run_sql(home, BY_DATASET).rows() == [(ODD, 30), ("renamed", 30)]
    with pytest.raises(RwmError, match="No dataset 'a' in"):
        home.dataset("a")


def test_the_folder_one_stands_in_has_a_name(dataset, monkeypatch):
    monkeypatch.chdir(dataset.path)
    assert Dataset.open(".").name == "a"


def test_paths_and_names_are_no_patterns(home, dataset):
    shutil.copytree(dataset.path, home.data_dir / ODD)
    run = Run.create(home, "model", {}, {}, seed=0)
    run.log(1, {"loss": 2.0})
    assert home.dataset(ODD).scan().collect().height == 30
    assert run_sql(home, "select run, kind, value from metrics").rows() == [(run.id, "model", 2.0)]
    assert filter_episodes(home, home.dataset(ODD), "length = 10 -- all", "b").rows == 30


def test_a_condition_sees_its_dataset_only(home, dataset, make_dataset, episodes):
    other = make_dataset(episodes(1, 10), "one")
    assert len(filter_episodes(home, other, "true) or (true", "b").episodes) == 1


def test_datasets_behind_links_are_queried_and_only_their_link_is_removed(home, dataset, tmp_path):
    far = tmp_path / "far"
    dataset.path.rename(far)
    (home.data_dir / "linked").symlink_to(far)
    assert run_sql(home, BY_DATASET).rows() == [("linked", 30)]
    with pytest.raises(RwmError, match="Cannot access file"):
        run_sql(home, f"select * from read_text('{far / 'dataset.json'}')")
    remove(home, home.dataset("linked"))
    assert list(home.data_dir.iterdir()) == [] and Dataset.open(far).rows == 30


def test_a_linked_data_folder_or_home_is_one_too(home, dataset, tmp_path):
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "data").symlink_to(home.data_dir)
    (tmp_path / "third").symlink_to(tmp_path / "second")
    for name in ("second", "third"):
        assert run_sql(Home(tmp_path / name), BY_DATASET).rows() == [("a", 30)]


def test_a_link_that_leads_nowhere_is_named(home, dataset):
    (home.data_dir / "gone").symlink_to("/nowhere")
    with pytest.raises(RwmError, match="gone is a link to /nowhere, which is not there"):
        home.dataset("gone")
    assert [d.name for d in home.datasets()] == ["a"]
    assert [(t.path.name, t.what) for t in check_home(home)] == [("gone", "is a link to /nowhere, which is not there")]


def test_damaged_datasets_and_runs_do_not_hide_the_others(home, dataset, rwm):
    for name in ("cut", "no_shard"):
        shutil.copytree(dataset.path, home.data_dir / name)
    (home.data_dir / "cut" / "dataset.json").write_text("{")
    (home.data_dir / "no_shard" / dataset.shard_paths[0].name).unlink()
    whole, empty = (Run.create(home, "model", {}, {}, seed=0) for _ in range(2))
    (empty.path / "run.json").write_text("")
    said: list[str] = []
    assert run_sql(home, BY_DATASET, said.append).rows() == [("a", 30)]
    assert "cut/dataset.json is not a valid manifest" in said[0] and "'no_shard' are left out" in said[1]
    assert run_sql(home, "select id from runs", said.append).rows() == [(whole.id,)]
    assert "run.json is not a readable run record" in said[2]
    with pytest.warns(UserWarning, match="not a valid manifest"), open_views(home, ("datasets",)):
        pass
    assert [r.id for r in home.runs()] == [whole.id]
    with pytest.raises(RwmError, match="not a readable run record"):
        home.run("model", empty.id)
    assert '"name": "a"' in rwm("data", "ls", "--json")
    assert "removed cut" in rwm("data", "rm", "cut", "--yes")
    assert not (home.data_dir / "cut").exists()


@pytest.mark.parametrize(
    "query",
    [
        "copy runs to '{}'",
        "explain analyze copy runs to '{}'",
        "attach '{}' as x",
        "prepare p as copy (select 1) to '{}'; execute p",
        "select 1; select 2",
        "create table t as select 1",
        "",
    ],
)
def test_a_query_writes_nothing_not_even_into_its_home(home, dataset, query):
    file = home.root / "new"
    with pytest.raises(RwmError, match="queries read, they do not write"):
        run_sql(home, query.format(str(file).replace("'", "''")))
    assert not file.exists()


def test_a_condition_is_no_second_statement(home, dataset):
    file = home.root / "new"
    written = "'" + str(file).replace("'", "''") + "'"
    with pytest.raises(RwmError, match="queries read, they do not write|failed"):
        filter_episodes(home, dataset, f"true); copy (select 1) to {written}; select 1 where ($1 = $1", "b")
    assert not file.exists()
