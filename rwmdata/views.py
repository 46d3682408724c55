"""DuckDB views over the files of a home: the query surface. No server, no lock, built on open."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import duckdb
import polars as pl

from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import RENAMED, EvaluationSummary
from rwmdata.home import Home
from rwmdata.runs import Run

PARENTS = ("dataset", "model", "policy")
VIEWS = ("datasets", "episodes", "transitions", "runs", "metrics", "evaluations")
DATASETS = {"name": pl.String, "robot": pl.String, "rows": pl.Int64, "episodes": pl.Int64, "control_hz": pl.Float64,
            "created": pl.String, "path": pl.String}  # fmt: skip
EPISODES = {"dataset": pl.String, "episode": pl.Int64, "start": pl.Int64, "length": pl.Int64,
            "terminated": pl.Boolean, "behaviour": pl.String, "split": pl.String,
            "parameters": pl.String}  # fmt: skip
RUNS = {"id": pl.String, "kind": pl.String, "status": pl.String, "created": pl.String, "finished": pl.String,
        "seed": pl.Int64, "dataset": pl.String, "model": pl.String, "policy": pl.String, "path": pl.String,
        "config": pl.String, "summary": pl.String}  # fmt: skip
EVALUATIONS = {"run": pl.String, "evaluation": pl.String, "dataset": pl.String, "model": pl.String,
               "policy": pl.String, "robot": pl.String, "seed": pl.Int64, "metric": pl.String, "mode": pl.String,
               "horizon": pl.Int64, "group": pl.String, "value": pl.Float64, "low": pl.Float64,
               "high": pl.Float64}  # fmt: skip


def open_views(home: Home, names: Collection[str] = VIEWS) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with views over the files of ``home``.

    Small things (datasets, episodes, runs, evaluations) are read from their manifests; ``transitions`` and
    ``metrics`` are scanned where they lie. The connection can read files of this home only.

    Args:
        home: The folder.
        names: Views to make; the fewer, the less has to be read.
    """
    connection = duckdb.connect()
    datasets = home.datasets() if {"datasets", "episodes", "transitions"} & {*names} else []
    runs = home.runs() if {"runs", "metrics", "evaluations"} & {*names} else []
    tables: dict[str, tuple[dict[str, Any], Callable[[], list[tuple[Any, ...]]]]] = {
        "datasets": (DATASETS, lambda: [_dataset_row(d) for d in datasets]),
        "episodes": (EPISODES, lambda: [row for d in datasets for row in _episode_rows(d)]),
        "runs": (RUNS, lambda: [_run_row(r) for r in runs]),
        "evaluations": (EVALUATIONS, lambda: [row for r in runs for row in _evaluation_rows(r)]),
    }
    for name, (schema, rows) in tables.items():
        if name in names:
            _register(connection, name, schema, rows())
    if "transitions" in names:
        _create_transitions(connection, datasets)
    if "metrics" in names:
        _create_metrics(connection, runs)
    connection.execute(f"set allowed_directories = [{_literal(str(home.root.resolve()) + '/')}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def run_sql(home: Home, query: str) -> pl.DataFrame:
    """Run one query over the views; only those it names are made, all where it names none.

    Raises:
        RwmError: DuckDB refuses it; the error names the views.
    """
    named = [name for name in VIEWS if name in query.lower()]
    with open_views(home, named or VIEWS) as connection:
        try:
            relation = connection.sql(query)
            if relation is None:
                raise RwmError("That statement returns no rows; ask for some with select.")
            return pl.DataFrame(pl.from_arrow(relation.to_arrow_table()))
        except duckdb.Error as exc:
            raise RwmError(f"The query failed: {one_line(exc)}.", f"the views are {', '.join(VIEWS)}") from exc


def _register(
    connection: duckdb.DuckDBPyConnection, name: str, schema: dict[str, Any], rows: list[tuple[Any, ...]]
) -> None:
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    connection.register(f"{name}_frame", frame.to_arrow())
    connection.execute(f"create view {name} as select * from {name}_frame")


def _dataset_row(dataset: Dataset) -> tuple[Any, ...]:
    made, path = dataset.manifest.created, str(dataset.path)
    return dataset.name, dataset.robot, dataset.rows, len(dataset.episodes), dataset.control_hz, made, path


def _episode_rows(dataset: Dataset) -> list[tuple[Any, ...]]:
    split = {e: name for name, ids in dataset.manifest.splits.items() for e in ids}
    t = dataset.manifest.episodes
    columns = zip(t.start, t.length, t.terminated, t.behaviour, strict=True)
    return [
        (dataset.name, e, *row, split.get(e), json.dumps({k: v[e] for k, v in t.parameters.items()}))
        for e, row in enumerate(columns)
    ]


def _run_row(run: Run) -> tuple[Any, ...]:
    m, parents = run.meta, run.meta.parents
    return (m.id, m.kind, m.status, m.created, m.finished, m.seed, *(parents.get(k) for k in PARENTS), str(run.path),
            json.dumps(m.config), json.dumps(m.summary))  # fmt: skip


def _evaluation_rows(run: Run) -> list[tuple[Any, ...]]:
    """Return a finished evaluation's scalars, the fields of the summary and of the scalar beside each other."""
    if (run.kind, run.meta.status) != ("eval", "finished"):
        return []
    summary = EvaluationSummary.of_run(run)
    return [tuple((vars(summary) | vars(scalar))[column] for column in EVALUATIONS) for scalar in summary.scalars]


def _create_transitions(connection: duckdb.DuckDBPyConnection, datasets: list[Dataset]) -> None:
    """Scan the shards of every dataset where they lie; columns a robot does not have are null."""
    parts = [
        f"select {_literal(d.name)} as dataset, * from read_parquet([{', '.join(_literal(p) for p in d.shard_paths)}])"
        for d in datasets
    ]
    empty = "select null::varchar as dataset, null::integer as episode, null::integer as step where false"
    connection.execute("create view transitions as " + " union all by name ".join(parts or [empty]))


def _create_metrics(connection: duckdb.DuckDBPyConnection, runs: list[Run]) -> None:
    """Scan every run's rows under the metrics' names of today; a line torn by a crash is skipped."""
    files = [run.path / "metrics.jsonl" for run in runs if (run.path / "metrics.jsonl").exists()]
    empty = "select null::varchar as run, null::varchar as kind, null::bigint as step, null::varchar as metric, "
    query = empty + "null::double as value where false"
    if files:
        before, now = RENAMED
        query = (
            "select parse_path(filename)[-2] as run, parse_path(filename)[-3] as kind, step, "
            f"replace(metric, {_literal(before)}, {_literal(now)}) as metric, value "
            f"from read_json([{', '.join(_literal(f) for f in files)}], format = 'newline_delimited', "
            "columns = {step: 'bigint', metric: 'varchar', value: 'double'}, ignore_errors = true, filename = true) "
            "where metric is not null"
        )
    connection.execute(f"create view metrics as {query}")


def _literal(value: object) -> str:
    """Quote a string for SQL."""
    return "'" + str(value).replace("'", "''") + "'"
