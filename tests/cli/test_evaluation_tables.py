from __future__ import annotations

from cli.evaluate import split_parts
from rwmdata.evaluation_summary import Scalar


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
