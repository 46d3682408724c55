"""The parts of a page: sortable tables, embedded pictures, and the templates that combine them.

Templates escape everything (Jinja2's autoescape); a page loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
PNG_HEADER = struct.Struct(">8s8xII")
WIDE_PX = 1500
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Cell:
    """The text of a table cell, its sort key, and a small line below."""

    text: str
    sort: str = ""
    """A number, or the text itself; empty for what is missing, which sorts last."""
    note: str = ""
    numeric: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table of rows of equal length."""

    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers alone; what is missing does not count."""
        present = [row[column] for row in self.rows if row[column].sort]
        return bool(present) and all(each.numeric for each in present)


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, with its size and a caption."""

    title: str
    caption: str
    data: str
    width: int
    height: int

    @property
    def wide(self) -> bool:
        """Whether half a page is too narrow for it."""
        return self.width >= WIDE_PX


def cell(value: object, note: str = "") -> Cell:
    """Return a value as a cell: floats with four significant digits, whole numbers with separators, None as a dash."""
    if isinstance(value, Cell):
        return value
    if value is None or value == "":
        return Cell("–", note=note)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(value), note)
    if isinstance(value, int | float):
        return Cell(number(value), repr(value), note, numeric=True)
    return Cell(str(value), str(value), note)


def number(value: float) -> str:
    """Return a number as text."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("-", "−")


def table(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> Table:
    """Return a table of plain values."""
    return Table(caption, columns, [[cell(value) for value in row] for row in rows])


def interval(low: float | None, high: float | None) -> str:
    """Return a 95 % interval as text; empty where there is none."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def picture(path: Path, title: str, caption: str) -> Picture | None:
    """Return a PNG file as a picture inside the page; None when it is missing or not a PNG."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) < 33 or content[:8] != PNG_SIGNATURE:
        return None
    _, width, height = PNG_HEADER.unpack_from(content)
    return Picture(title, caption, "data:image/png;base64," + base64.b64encode(content).decode(), width, height)


def render(template: str, **content: object) -> str:
    """Return a page as HTML: a file of ``reports/page/templates``, filled with content whose text is escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    style, script = (Markup((TEMPLATES / name).read_text()) for name in ("style.css", "sort.js"))
    return environment.get_template(template).render(style=style, script=script, **content)
