from __future__ import annotations

from cli.common import Call
from cli.evaluate import show_scalars, split_parts
from reports.evaluate.summary import finish_evaluation
from rwmdata.evaluation_summary import Scalar
from rwmdata.runs import Run


def test_parts_of_a_metric_become_columns_and_the_whole_stays_apart():
    def row(metric, horizon, value):
        return Scalar(metric=metric, mode="m", horizon=horizon, value=value)

    scalars = [row("a", 1, 0.5), row("a/x", 1, 1.0), row("b/x", 1, 2.0), row("a/y", 1, 3.0), row("b/y", 1, None)]
    whole, tables = split_parts([*scalars, row("c/z", None, 4.0)])
    assert whole == [scalars[0]]
    assert tables == [
        (["x", "y"], [("a", "m", 1, 1.0, 3.0), ("b", "m", 1, 2.0, None)]),
        (["z"], [("c", "m", None, 4.0)]),
    ]


def test_an_evaluation_without_numbers_prints_no_table(home, capsys):
    run = Run.create(home, "eval", {"evaluation": "visualize"}, {}, 0)
    finish_evaluation(run, "go2", [], not_computed=["twin: shown without a model"])
    show_scalars(Call(home, False, {}, {}), run)
    said = capsys.readouterr()
    assert said.out == f"wrote {run.path}\n"
    assert said.err == "not computed: twin: shown without a model\nnext: rwm report\n"
