"""``rwm sql``: DuckDB over datasets and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, out, print_json, print_table, say, write_out
from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError

MAX_ROWS = 50
FORMATS = ("table", "csv", "json", "parquet")


def sql(
    call: Call,
    query: Annotated[
        str, typer.Argument(help="Query over the views datasets, episodes, transitions, runs, metrics and evaluations.")
    ],
    form: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
    out_file: Annotated[Path | None, typer.Option("--out", help="Write there instead of printing.")] = None,
) -> None:
    """Query datasets and runs with SQL, for example: rwm sql "select * from runs"."""
    from rwmdata.views import run_sql

    if call.json and (form == "table" or not out_file):
        form = "json"
    if form not in FORMATS or (form == "parquet" and not out_file) or (form == "table" and out_file):
        raise RwmError(
            f"Format '{form}' {'cannot be printed' if form == 'parquet' else 'cannot be used here'}.",
            f"--format {', '.join(FORMATS)}; parquet needs --out FILE, a table goes to the screen",
        )
    frame = run_sql(call.home, query, report=say)
    if form == "table":
        title = f"{frame.height} rows" + (f", the first {MAX_ROWS} shown" if frame.height > MAX_ROWS else "")
        print_table(title, frame.columns, frame.head(MAX_ROWS).rows())
    elif out_file:
        commit_file(out_file, lambda path: getattr(frame, f"write_{form}")(path))
        if call.json:
            print_json({"file": str(out_file), "rows": frame.height})
        else:
            out.print(f"wrote {out_file}, {frame.height} rows")
    elif form == "csv":
        write_out(frame.write_csv())
    else:
        print_json({"rows": frame.to_dicts()})
