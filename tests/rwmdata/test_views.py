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
    model.log(1, {"loss": 2.5, "val/relative_l1_h8": 0.5})
    with (model.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "met')
    model.finish({})
    evaluate(home, {"dataset": "set", "model": model.id}, SCALARS)
    return home


SCALARS = [
    {"metric": "rel_l1", "mode": "mean", "horizon": 8, "value": 0.25},
    {"metric": "rmse/joint_pos", "mode": "model", "horizon": 8, "value": 0.1, "low": 0.0, "high": 0.2},
]


def evaluate(home, parents, scalars, **changes):
    run = Run.create(home, "eval", {}, parents, seed=1)
    head = {"summary_version": 2, "evaluation": "dynamics", "run": run.id, "robot": "anymal_d", "seed": 7}
    run.finish({**head, **parents, "scalars": scalars, "windows": 4} | changes)
    return run


def test_every_view_answers_on_an_empty_home(home):
    for view in VIEWS:
        assert run_sql(home, f"select * from {view}").height == 0


def test_views_show_what_is_there(filled):
    assert run_sql(filled, "select name, rows, episodes from datasets").rows() == [("set", 120, 4)]
    assert run_sql(filled, "select count(*), sum(terminated::int) from episodes").rows() == [(4, 1)]
    assert run_sql(filled, "select dataset, count(*) from transitions group by 1").rows() == [("set", 120)]
    assert run_sql(filled, "select kind, seed from runs where kind = 'model'").rows() == [("model", 1)]
    assert run_sql(filled, "select kind, step, metric, value from metrics where metric = 'loss'").rows() == [
        ("model", 1, "loss", 2.5)
    ]
    query = "select e.metric, e.horizon, e.value, r.dataset from evaluations e join runs r on r.id = e.model"
    assert run_sql(filled, query).row(0) == ("rel_l1", 8, 0.25, "set")
    columns = 'evaluation, dataset, policy, robot, seed, mode, "group", low, high'
    query = f"select {columns} from evaluations where metric = 'rmse/joint_pos'"
    assert run_sql(filled, query).rows() == [("dynamics", "set", None, "anymal_d", 7, "model", "joint_pos", 0.0, 0.2)]


def test_runs_of_earlier_versions_answer_under_the_names_of_today(filled):
    old = evaluate(filled, {"model": "old"}, [SCALARS[0] | {"metric": "relative_l1"}], summary_version=1)
    query = "select model, horizon, value from evaluations where metric = 'rel_l1' order by run = '{}'"
    assert run_sql(filled, query.format(old.id)).rows()[-1] == ("old", 8, 0.25)
    assert run_sql(filled, "select step, value from metrics where metric = 'val/rel_l1_h8'").rows() == [(1, 0.5)]


def test_an_unfinished_evaluation_has_no_rows_and_a_foreign_one_is_named(filled):
    Run.create(filled, "eval", {"evaluation": "noise"}, {}, seed=1)
    assert run_sql(filled, "select * from evaluations").height == 2
    run = evaluate(filled, {}, [], summary_version=9)
    said = []
    assert run_sql(filled, "select * from evaluations", said.append).height == 2
    assert run.id in said[0] and "newer version of rwm: summary version 9" in said[0]
    assert run_sql(filled, "select * from runs").height == 4


def test_a_fall_rate_by_behaviour_is_one_query(filled):
    query = "select behaviour, avg(terminated::int) as falls from episodes group by 1"
    assert run_sql(filled, query).rows() == [("synthetic", 0.25)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from nothing", "nothing does not exist"),
        ("selec 1", "syntax error"),
        ("select * from read_csv('/etc/passwd')", "Cannot access file"),
        ("copy runs to '/tmp/rwm_should_not_exist.csv'", "COPY is not run"),
        ("set enable_external_access = true", "SET is not run"),
        ("select * from sqlite_scan('a.db', 'b')", "sqlite_scan"),
    ],
)
def test_faults_and_foreign_files_are_refused(filled, query, message):
    with pytest.raises(RwmError) as caught:
        run_sql(filled, query)
    assert message in caught.value.message and "transitions" in caught.value.hint


def test_columns_of_one_name_are_refused_in_a_sentence(filled):
    with pytest.raises(RwmError, match="cannot be held as a table"):
        run_sql(filled, "select a.*, b.* from runs a join runs b using (id)")
