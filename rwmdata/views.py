"""DuckDB views over the files of a home, for queries: no server and no lock, built when opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping

import duckdb
import polars as pl

from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import RENAMED, EvaluationSummary
from rwmdata.home import Home
from rwmdata.runs import Run

Types = Mapping[str, type[pl.DataType]]
"""Columns of a view and their types."""
Row = tuple[object, ...]
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

    Datasets, episodes, runs and evaluations are read from their manifests; ``transitions`` and ``metrics`` are scanned
    in place. The connection can read files of this home only.

    Args:
        home: The folder.
        names: Views to create; the fewer, the less has to be read.
    """
    connection = duckdb.connect()
    datasets = home.datasets() if {"datasets", "episodes", "transitions"} & {*names} else []
    runs = home.runs() if {"runs", "metrics", "evaluations"} & {*names} else []
    tables: dict[str, tuple[Types, Callable[[], list[Row]]]] = {
        "datasets": (DATASETS, lambda: [_dataset_row(d) for d in datasets]),
        "episodes": (EPISODES, lambda: [row for d in datasets for row in _episode_rows(d)]),
        "runs": (RUNS, lambda: [_run_row(r) for r in runs]),
        "evaluations": (EVALUATIONS, lambda: [row for r in runs for row in _evaluation_rows(r)]),
    }
    for name, (types, rows) in tables.items():
        if name in names:
            frame = pl.DataFrame(rows(), schema=types, orient="row")
            connection.register(f"{name}_frame", frame.to_arrow())
            connection.execute(f"create view {name} as select * from {name}_frame")
    if "transitions" in names:
        _create_transitions(connection, datasets)
    if "metrics" in names:
        _create_metrics(connection, runs)
    connection.execute(f"set allowed_directories = [{_literal(str(home.root.resolve()) + '/')}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def run_sql(home: Home, query: str) -> pl.DataFrame:
    """Run one query; only the views it names are created, all if it names none.

    Raises:
        RwmError: DuckDB rejects it; the error lists the views.
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


def _dataset_row(dataset: Dataset) -> Row:
    created, path = dataset.manifest.created, str(dataset.path)
    return dataset.name, dataset.robot, dataset.rows, len(dataset.episodes), dataset.control_hz, created, path


def _episode_rows(dataset: Dataset) -> Iterator[Row]:
    split = {k: name for name, ids in dataset.manifest.splits.items() for k in ids}
    table = dataset.manifest.episodes
    columns = zip(table.start, table.length, table.terminated, table.behaviour, strict=True)
    for k, row in enumerate(columns):
        yield dataset.name, k, *row, split.get(k), json.dumps({key: v[k] for key, v in table.parameters.items()})


def _run_row(run: Run) -> Row:
    m, parents = run.meta, run.meta.parents
    return (m.id, m.kind, run.status, m.created, m.finished, m.seed, *(parents.get(k) for k in PARENTS), str(run.path),
            json.dumps(m.config), json.dumps(m.summary))  # fmt: skip


def _evaluation_rows(run: Run) -> list[Row]:
    """Return a finished evaluation's scalars, each with the fields of its summary."""
    if (run.kind, run.meta.status) != ("eval", "finished"):
        return []
    summary = EvaluationSummary.of_run(run)
    return [tuple((vars(summary) | vars(scalar))[column] for column in EVALUATIONS) for scalar in summary.scalars]


def _create_transitions(connection: duckdb.DuckDBPyConnection, datasets: list[Dataset]) -> None:
    """Scan the shards of every dataset in place; columns that a robot lacks are null."""
    parts = [
        f"select {_literal(d.name)} as dataset, * from read_parquet([{', '.join(_literal(p) for p in d.shard_paths)}])"
        for d in datasets
    ]
    empty = "select null::varchar as dataset, null::integer as episode, null::integer as step where false"
    connection.execute("create view transitions as " + " union all by name ".join(parts or [empty]))


def _create_metrics(connection: duckdb.DuckDBPyConnection, runs: list[Run]) -> None:
    """Scan every run's metrics under their current names; a line cut off by a crash is skipped."""
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
    """Return a value as an SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"
