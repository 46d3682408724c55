"""Parquet and Arrow (Feather) files as named columns of numbers."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(file: Path, data: bytes) -> tuple[pl.DataFrame, list[str]]:
    """Read a Parquet file; vectors and structures become columns of their own."""
    return flat(pq.ParquetFile(io.BytesIO(data)).read()), []


def read_arrow(file: Path, data: bytes) -> tuple[pl.DataFrame, list[str]]:
    """Read an Arrow file or stream, such as a Feather file."""
    opened = pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream
    return flat(opened(io.BytesIO(data)).read_all()), []


def flat(table: pa.Table) -> pl.DataFrame:
    """Return a table with ``name.field`` for the fields of a structure and ``name_0``, ... for a vector's elements."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    frame = pl.DataFrame(pl.from_arrow(table))
    columns: list[pl.Series] = []
    for column in frame.get_columns():
        if isinstance(column.dtype, pl.List):
            lengths = column.list.len().unique()
            if len(lengths) != 1:
                raise ValueError(f"the lists of '{column.name}' have different lengths, {lengths.sort().to_list()[:5]}")
            column = column.list.to_array(int(lengths[0]))
        if isinstance(column.dtype, pl.Array):
            count = column.dtype.shape[0]
            columns += [column.arr.get(k).alias(f"{column.name}_{k}") for k in range(count)]
        else:
            columns.append(column)
    return pl.DataFrame(columns)
