"""Metrics of a run: a line of JSON for each number, with a checksum of what the line says before it."""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwmdata.atomic import sync_file, sync_folder, write_text

METRICS_FILE = "metrics.jsonl"
CRC = "crc"
"""Key of a line's CRC-32; lines that were written before there was one have none."""
BEFORE_CRC = f', "{CRC}": '
KEYS = {"step", "metric", "value"}
LOG = logging.getLogger(__name__)
"""Says which damaged lines are lost when a file is written anew."""
Row = dict[str, Any]
"""``step``, ``metric`` and ``value``, which is None where it was not finite."""


@dataclass(frozen=True)
class MetricsFile:
    """The metrics of one run, appended to by the process that runs it.

    Attributes:
        path: The file; there is none before the first number.
    """

    path: Path

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row per metric, durable after :meth:`sync`; non-finite values become null."""
        rows = [{"step": step, "metric": k, "value": v if math.isfinite(v) else None} for k, v in values.items()]
        with self.path.open("a") as file:
            file.write("".join(map(_line_of, rows)))

    def sync(self) -> None:
        """Make the rows appended so far durable."""
        if self.path.exists():
            sync_file(self.path)
            sync_folder(self.path.parent)

    def lines(self) -> Iterator[Row | None]:
        """Give what each line holds, one at a time; None where it is no metric row or not as it was written.

        Raises:
            OSError: It cannot be read.
        """
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            for line in file:
                yield _row_of(line.decode(errors="replace").removesuffix("\n"))

    def rows(self) -> Iterator[Row]:
        """Give the rows; a line that is none (torn by a crash, damaged) is left out."""
        return (row for row in self.lines() if row is not None)

    def damaged(self, finished: bool) -> list[int]:
        """Return the numbers of the lines that are left out, from 1.

        Args:
            finished: Whether all of it was written; else a crash may have cut off the last line.

        Raises:
            OSError: It cannot be read.
        """
        odd, last = [], 0
        for last, row in enumerate(self.lines(), 1):
            if row is None:
                odd.append(last)
        return [number for number in odd if finished or number < last]

    def is_whole(self) -> bool:
        """Return whether every line is as it was written; the last one may be cut off. Far cheaper than the rows.

        Raises:
            OSError: It cannot be read.
        """
        with self.path.open("rb") as file:
            return all(_is_whole(line) for line in file)

    def keep_until(self, step: int) -> None:
        """Drop the rows after ``step``, and damaged lines."""
        if odd := ", ".join(map(str, self.damaged(finished=False))):
            LOG.warning("Lines %s of %s are damaged and left out.", odd, self.path)
        write_text(self.path, "".join(_line_of(row) for row in self.rows() if row["step"] <= step))


def _line_of(row: Row) -> str:
    text = json.dumps(row)[:-1]
    return f"{text}{BEFORE_CRC}{zlib.crc32(text.encode())}}}\n"


def _is_whole(line: bytes) -> bool:
    head, marked, tail = line.rpartition(BEFORE_CRC.encode())
    if marked:
        return tail == b"%d}\n" % zlib.crc32(head) or not line.endswith(b"\n")
    return not line.endswith(b"\n") or _row_of(line.decode(errors="replace")[:-1]) is not None


def _row_of(line: str) -> Row | None:
    """Return a metric row; None for a line that is none, or says something else than its checksum."""
    head, marked, tail = line.rpartition(BEFORE_CRC)
    if marked and tail != f"{zlib.crc32(head.encode())}}}":
        return None
    try:
        row = json.loads(f"{head}}}" if marked else line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.keys() != KEYS or not isinstance(row["metric"], str):
        return None
    number = type(row["step"]) is int and isinstance(row["value"], float | int | None)
    return row if number and "\ufffd" not in row["metric"] else None
