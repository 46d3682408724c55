"""``rwm sql``: DuckDB over datasets and runs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import HomeOption, JsonOption, home_of, print_json, print_table

MAX_ROWS = 50


def sql(
    query: Annotated[str, typer.Argument(help="A query over datasets, episodes, transitions, runs, metrics, ...")],
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Query datasets and runs with SQL, for example: rwm sql "select * from runs"."""
    from rwmdata.views import run_sql

    frame = run_sql(home_of(home), query)
    if json_output:
        print_json({"rows": frame.to_dicts()})
        return
    title = f"{frame.height} rows" + (f", the first {MAX_ROWS} shown" if frame.height > MAX_ROWS else "")
    print_table(title, frame.columns, frame.head(MAX_ROWS).rows())
