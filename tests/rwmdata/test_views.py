from __future__ import annotations

import pytest

from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmdata.views import VIEWS, run_sql


@pytest.fixture
def filled(home, make_dataset, episodes):
    parts = episodes(4, 30)
    parts[1][-1, -1] = 1
    make_dataset(parts)
    model = Run.create(home, "model", {"lr": 0.1}, {"dataset": "set"}, seed=1)
    model.log(1, {"loss": 2.5})
    with (model.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "met')
    model.finish({})
    scalars = [{"metric": "rel_l1", "mode": "mean", "horizon": 8, "value": 0.25}]
    evaluation = Run.create(home, "eval", {}, {"dataset": "set", "model": model.id}, seed=1)
    evaluation.finish({"evaluation": "uncertainty", "scalars": scalars})
    return home


def test_every_view_answers_on_an_empty_home(home):
    for view in VIEWS:
        assert run_sql(home, f"select * from {view}").height == 0


def test_views_show_what_is_there(filled):
    assert run_sql(filled, "select name, rows, episodes from datasets").rows() == [("set", 120, 4)]
    assert run_sql(filled, "select count(*), sum(terminated::int) from episodes").rows() == [(4, 1)]
    assert run_sql(filled, "select dataset, count(*) from transitions group by 1").rows() == [("set", 120)]
    assert run_sql(filled, "select kind, seed from runs where kind = 'model'").rows() == [("model", 1)]
    assert run_sql(filled, "select kind, step, metric, value from metrics").rows() == [("model", 1, "loss", 2.5)]
    query = "select e.metric, e.horizon, e.value, r.dataset from evaluations e join runs r on r.id = e.model"
    assert run_sql(filled, query).rows() == [("rel_l1", 8, 0.25, "set")]


def test_a_fall_rate_by_behaviour_is_one_query(filled):
    query = "select behaviour, avg(terminated::int) as falls from episodes group by 1"
    assert run_sql(filled, query).rows() == [("synthetic", 0.25)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from nothing", "nothing does not exist"),
        ("selec 1", "syntax error"),
        ("select * from read_csv('/etc/passwd')", "Cannot access file"),
        ("copy runs to '/tmp/rwm_should_not_exist.csv'", "Cannot access file"),
        ("set enable_external_access = true", "enable_external_access"),
    ],
)
def test_faults_and_foreign_files_are_refused(filled, query, message):
    with pytest.raises(RwmError) as caught:
        run_sql(filled, query)
    assert message in caught.value.message and "transitions" in caught.value.hint
