"""DuckDB views over the files of a home, for queries: no server and no lock, built when opened."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

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
READING = ("SELECT", "EXPLAIN")
"""Kinds of statements that are run; describe, show, summarize and values are the first for DuckDB."""
WRITING = {"COPY", "EXPORT", "IMPORT", "ATTACH", "LOAD", "INSTALL", "EXECUTE"}
"""Words of statements that write files or open others, which ``explain analyze`` would run."""
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
METRICS = {"step": pl.Int64, "metric": pl.String, "value": pl.Float64, "filename": pl.String}
"""Of metrics that are read before they are queried."""
Report = Callable[[str], object]
"""Told in a sentence what is left out because it is damaged."""


def open_views(
    home: Home,
    names: Collection[str] = VIEWS,
    report: Report = warnings.warn,
    only: Sequence[Dataset] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with views over the files of ``home``.

    Datasets, episodes, runs and evaluations are read from their manifests; ``transitions`` and ``metrics`` are scanned
    in place. The connection can read files of this home only, and of datasets that are linked into it. What cannot be
    read is left out and reported.

    Args:
        home: The folder.
        names: Views to create; the fewer, the less has to be read.
        report: Told what is left out.
        only: Datasets to show, wherever they are; all of the home when None.
    """
    connection = duckdb.connect()
    of_datasets, of_runs = ({*VIEWS[:3]} & {*names}, {*VIEWS[3:]} & {*names})
    datasets, broken = home.readable_datasets() if of_datasets and only is None else (list(only or ()), [])
    runs, broken_runs = home.readable_runs() if of_runs else ([], [])
    for fault in (*broken, *broken_runs):
        report(fault.message)
    tables: dict[str, tuple[Types, Callable[[], list[Row]]]] = {
        "datasets": (DATASETS, lambda: [_dataset_row(d) for d in datasets]),
        "episodes": (EPISODES, lambda: [row for d in datasets for row in _episode_rows(d)]),
        "runs": (RUNS, lambda: [_run_row(r) for r in runs]),
        "evaluations": (EVALUATIONS, lambda: [row for r in runs for row in _evaluation_rows(r, report)]),
    }
    for name, (types, rows) in tables.items():
        if name in names:
            frame = pl.DataFrame(rows(), schema=types, orient="row")
            connection.register(f"{name}_frame", frame.to_arrow())
            connection.execute(f"create view {name} as select * from {name}_frame")
    files: list[Path] = []
    if "transitions" in names:
        files += _create_transitions(connection, datasets, report)
    if "metrics" in names:
        files += _create_metrics(connection, runs, report)
    # Both spellings: DuckDB checks the pattern that a view names, then the file that it finds.
    spellings = dict.fromkeys(text for file in files for text in (str(file), _without_patterns(file)))
    connection.execute(f"set allowed_paths = [{', '.join(map(_literal, spellings))}]")
    connection.execute(f"set allowed_directories = [{_literal(str(home.root.resolve()) + '/')}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set autoinstall_known_extensions = false")
    connection.execute("set autoload_known_extensions = false")
    connection.execute("set lock_configuration = true")
    return connection


def run_sql(home: Home, query: str, report: Report = warnings.warn) -> pl.DataFrame:
    """Run one query; only the views it names are created, all if it names none.

    Args:
        home: The folder.
        query: The query.
        report: Told what is left out because it is damaged.

    Raises:
        RwmError: DuckDB rejects it, or it would write; the error lists the views.
    """
    named = [name for name in VIEWS if name in query.lower()]
    with open_views(home, named or VIEWS, report) as connection:
        try:
            refuse_writing(connection, query)
            relation = connection.sql(query)
            if relation is None:
                raise RwmError("That statement returns no rows; ask for some with select.")
            return pl.DataFrame(pl.from_arrow(relation.to_arrow_table()))
        except duckdb.Error as exc:
            raise RwmError(f"The query failed: {one_line(exc)}.", f"the views are {', '.join(VIEWS)}") from exc
        except pl.exceptions.PolarsError as exc:
            fault = f"What the query returns cannot be held as a table: {one_line(exc)}."
            raise RwmError(fault, "a name of its own (as ...) and a plain type for every column") from exc


def _dataset_row(dataset: Dataset) -> Row:
    created, path = dataset.manifest.created, str(dataset.path)
    return dataset.name, dataset.robot, dataset.rows, len(dataset.episodes), dataset.control_hz, created, path


def _episode_rows(dataset: Dataset) -> Iterator[Row]:
    split: dict[int, str] = {}
    for name in dataset.manifest.splits:
        for k in dataset.split(name).tolist():
            split[k] = f"{split[k]}, {name}" if k in split else name
    table = dataset.manifest.episodes
    columns = zip(table.start, table.length, table.terminated, table.behaviour, strict=True)
    for k, row in enumerate(columns):
        yield dataset.name, k, *row, split.get(k), json.dumps({key: v[k] for key, v in table.parameters.items()})


def _run_row(run: Run) -> Row:
    m, parents = run.meta, run.meta.parents
    return (m.id, m.kind, run.status, m.created, m.finished, m.seed, *(parents.get(k) for k in PARENTS), str(run.path),
            json.dumps(m.config), json.dumps(m.summary))  # fmt: skip


def _evaluation_rows(run: Run, report: Report) -> list[Row]:
    """Return a finished evaluation's scalars, each with the fields of its summary; one that is none is reported."""
    if (run.kind, run.meta.status) != ("eval", "finished"):
        return []
    try:
        summary = EvaluationSummary.of_run(run)
    except RwmError as exc:
        report(exc.message)
        return []
    return [tuple((vars(summary) | vars(scalar))[column] for column in EVALUATIONS) for scalar in summary.scalars]


def _create_transitions(connection: duckdb.DuckDBPyConnection, datasets: list[Dataset], report: Report) -> list[Path]:
    """Scan the shards of every dataset in place and return them; columns that a robot lacks are null."""
    parts: list[str] = []
    files: list[Path] = []
    for dataset in datasets:
        if fault := _damage(dataset):
            report(f"{fault}; the transitions of '{dataset.name}' are left out.")
            continue
        shards = [path.resolve() for path in dataset.shard_paths]
        files += shards
        parts.append(f"select {_literal(dataset.name)} as dataset, * from read_parquet({_scanned(shards)})")
    empty = "select null::varchar as dataset, null::integer as episode, null::integer as step where false"
    connection.execute("create view transitions as " + " union all by name ".join(parts or [empty]))
    return files


def _damage(dataset: Dataset) -> str | None:
    """Return which shard cannot be read, if one cannot."""
    for path in dataset.shard_paths:
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError) as exc:
            return f"Shard {path} is missing or damaged: {one_line(exc)}"
    return None


def _create_metrics(connection: duckdb.DuckDBPyConnection, runs: list[Run], report: Report) -> list[Path]:
    """Scan every run's metrics under their current names and return the files; a line cut off by a crash is skipped.

    Of a file with damaged lines the others are read beforehand.
    """
    found = {r.metrics_file.path.resolve(): r for r in runs if r.metrics_file.path.exists()}
    whole = [path for path, run in found.items() if run.metrics_file.is_whole()]
    rows = pl.DataFrame([], schema=METRICS)
    for path in found.keys() - {*whole}:
        report(f"{path} has damaged lines, which are left out; rwm data fsck names them.")
        rows.extend(pl.DataFrame(found[path].metrics(), schema=METRICS).with_columns(filename=pl.lit(str(path))))
    of_file = {
        "file": [*map(str, found)],
        "run": [r.id for r in found.values()],
        "kind": [r.kind for r in found.values()],
    }
    connection.register("metrics_frame", pl.DataFrame(of_file, schema=dict.fromkeys(of_file, pl.String)).to_arrow())
    connection.register("metrics_rows", rows.to_arrow())
    parts, (before, now) = ["select * from metrics_rows"], RENAMED
    if whole:
        parts.append(
            f"select step, metric, value, filename from read_json({_scanned(whole)}, format = 'newline_delimited', "
            "columns = {step: 'bigint', metric: 'varchar', value: 'double'}, ignore_errors = true, filename = true)"
        )
    connection.execute(
        f"create view metrics as select run, kind, step, replace(metric, {_literal(before)}, {_literal(now)}) as "
        f"metric, value from ({' union all by name '.join(parts)}) join metrics_frame on filename = file "
        "where metric is not null"
    )
    return [*found]


def refuse_writing(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what is not one statement that only reads.

    Raises:
        RwmError: It is another.
        duckdb.Error: It is no SQL.
    """
    statements = connection.extract_statements(query)
    kinds = [statement.type.name for statement in statements]
    other = [kind for kind in kinds if kind not in READING]
    if kinds == ["EXPLAIN"]:
        other = sorted({word.upper() for word in re.findall(r"\w+", query)} & WRITING)
    if other or len(kinds) != 1:
        what = f"{other[0]} is not run" if other else f"it holds {len(kinds)} statements"
        fault = f"The query failed: {what}; queries read, they do not write."
        views = f"the views are {', '.join(VIEWS)}"
        raise RwmError(fault, f"one select, describe, show or explain; --out FILE writes what it returns; {views}")


def _scanned(files: Sequence[Path]) -> str:
    """Return files as an SQL list for a table function."""
    return f"[{', '.join(_literal(_without_patterns(file)) for file in files)}]"


def _without_patterns(file: Path) -> str:
    """Return a path as DuckDB's file functions take it: each character that could be a pattern stands for itself."""
    return re.sub(r"[\[*?]", r"[\g<0>]", os.fspath(file))


def _literal(value: object) -> str:
    """Return a value as an SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"
