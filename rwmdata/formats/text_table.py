"""Tables in text files: encoding, separator, decimal mark, comments and units told from the text itself."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.formats.files import DAMAGED, UNPACKED

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "blanks"}
LOOKED_AT = 60
"""Lines in which the layout is looked for; comments and names stand above the rows."""
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
COMMA = re.compile(r"[+-]?(\d*,\d+)([eE][+-]?\d+)?")
UNIT = re.compile(
    r"[\[(]?(-|1|%|s|sec|ms|us|µs|ns|hz|rad|deg|°|m|mm|cm|n|nm|n\*m|n\.m|n m|kg|c|°c|v|a|w|g|k|bool|int|float|double)"
    r"((/|\*|\.|·| per )(s|sec|min|m|rad))?(\^?2|²)?[\])]?|",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layout:
    """How a text holds its table."""

    separator: str
    names: list[str]
    first: int
    """Line of the first row."""
    comma: bool
    """Numbers have decimal commas."""


def read_text_table(file: Path, data: bytes) -> tuple[pl.DataFrame, list[str]]:
    """Read a table with a row of names.

    Args:
        file: Names the table in errors.
        data: Content of the file.

    Returns:
        The columns, texts where they are not all numbers, and what was left out, one sentence each.

    Raises:
        RwmError: Encoding, separator or names are not clear, or a row has more or fewer cells than there are names.
    """
    text = _decoded(file, data)
    lines = (text if "\n" in text else text.replace("\r", "\n")).split("\n")  # Old Macs end lines with "\r" alone.
    ended = not lines[-1].strip()
    lines = [line.rstrip("\r") for line in lines]
    layout = _layout(file, lines)
    rows = [line for line in lines[layout.first :] if line.strip() and not _is_comment(line, layout)]
    notes = []
    if rows and _is_cut(rows[-1], ended, layout):
        rows.pop()
        notes.append(f"{file.name}: the last line is cut off and was left out")
    _check_widths(file, rows, layout)
    if not rows:
        raise RwmError(f"{file} has names of columns but no rows.", "leave it out")
    return _parsed(file, rows, layout), notes


def _decoded(file: Path, data: bytes) -> str:
    if unpack := next((unpack for start, unpack in UNPACKED.items() if data.startswith(start)), None):
        try:
            data = unpack(data)
        except DAMAGED as exc:
            raise RwmError(f"{file} cannot be decompressed: {one_line(exc)}.") from exc
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    head = data[:200]
    if encoding == "utf-8" and head.count(0) * 3 > len(head):
        encoding = "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        if encoding == "utf-8" and b"\0" not in data:
            return data.decode("latin-1")  # Only names and comments can differ, numbers cannot.
        fault = f"{file} is no text in {encoding.upper().removesuffix('-SIG')}: byte {exc.start} does not belong there."
        raise RwmError(fault, "save it as UTF-8") from exc


def _layout(file: Path, lines: list[str]) -> Layout:
    """Find the separator with which names and the rows below them have the same number of cells."""
    head = [(k, line) for k, line in enumerate(lines) if line.strip()][:LOOKED_AT]
    if not head:
        raise RwmError(f"{file} is empty.", "leave it out")
    found = [layout for separator in list(SEPARATORS)[:-1] if (layout := _layout_with(file, head, separator))]
    if not found and (by_blanks := _layout_with(file, head, " ")):
        found = [by_blanks]
    if not found:
        names, cells = (len(_cells(line, ",")) for line in (head[0][1], head[-1][1]))
        if cells > names > 1:
            fault = f"{file} has {cells} cells for {names} names where commas separate; are there decimal commas too?"
            raise RwmError(fault, "save it with semicolons or tabs between cells")
        words, shown = ", ".join(SEPARATORS.values()), head[0][1][:60]
        fault = f"{file} has no row of names above rows of as many numbers, separated by {words}; it begins '{shown}'."
        raise RwmError(fault, "add a first line with the names of the columns; rows without names need no --mapping")
    widest = max(found, key=lambda layout: len(layout.names))
    if sum(len(layout.names) == len(widest.names) for layout in found) > 1:
        either = " or ".join(SEPARATORS[layout.separator] for layout in found)
        raise RwmError(f"{file}: the cells could be separated by {either}.", "save it with one separator")
    return widest


def _layout_with(file: Path, head: list[tuple[int, str]], separator: str) -> Layout | None:
    split = [(k, _cells(line, separator)) for k, line in head]
    numeric = [sum(map(_is_number, cells)) * 2 > sum(cell != "" for cell in cells) for _, cells in split]
    if True not in numeric:
        return None
    start = numeric.index(True)
    first, width = split[start][0], Counter(len(cells) for _, cells in split[start:]).most_common(1)[0][0]
    above = [_names(cells) for _, cells in split[:start]]
    plain = [cells for cells in above if not cells[0].startswith("#")]
    # numpy writes the names as a comment, "# t x y".
    commented = [[cells[0].lstrip("# "), *cells[1:]] if cells[0] != "#" else cells[1:] for cells in above[-1:]]
    titles = [cells for cells in plain if _fits(cells, width)] or [c for c in commented if _fits(c, width)]
    if len(titles) > 1 and all(UNIT.fullmatch(cell) for cell in titles[-1]):
        titles.pop()
    twice = [name for cells in titles for name in dict.fromkeys(cells) if name and cells.count(name) > 1]
    titles = [cells for cells in titles if len(set(cells)) == len(cells)]
    if width > 1 and twice and not titles:
        raise RwmError(f"{file} has two columns called '{twice[0]}'.", "give every column a name of its own")
    if width < 2 or not titles:
        return None
    if len(titles) > 1:
        shown = "' and '".join(separator.join(cells)[:40] for cells in titles[-2:])
        raise RwmError(f"{file}: the names of the columns could be '{shown}'.", "leave one row of names")
    names = titles[0] + [""] * (width - len(titles[0]))
    rows = [cells for _, cells in split[start:]]
    return Layout(separator, names, first, _has_decimal_commas(file, rows, separator))


def _fits(names: list[str], width: int) -> bool:
    """Return whether there is a name for each cell; a separator behind the last cell makes one more, an empty one."""
    return len(names) == width or (len(names) == width - 1 and "" not in names)


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in cells]


def _cells(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    if '"' in line:
        line = re.sub(r'"([^"]*)"', lambda m: m[0].replace(separator, "\0"), line)
    return [cell.strip().replace("\0", separator) for cell in line.split(separator)]


def _is_number(cell: str) -> bool:
    cell = cell.strip().strip('"')
    return bool(POINT.fullmatch(cell) or COMMA.fullmatch(cell))


def _has_decimal_commas(file: Path, rows: list[list[str]], separator: str) -> bool:
    cells = [cell.strip('"') for row in rows for cell in row]
    commas = [cell for cell in cells if COMMA.fullmatch(cell) and "," in cell]
    points = [cell for cell in cells if "." in cell and POINT.fullmatch(cell)]
    if commas and points:
        fault = f"{file}: numbers have decimal commas, as '{commas[0]}', and points, as '{points[0]}'."
        raise RwmError(fault, "write all of them with a decimal point")
    return bool(commas)


def _is_comment(line: str, layout: Layout) -> bool:
    return line.lstrip().startswith(("#", "%", "//"))


def _is_cut(line: str, ended: bool, layout: Layout) -> bool:
    cells = _cells(line, layout.separator)
    return len(cells) < len(layout.names) or (not ended and layout.names[-1] != "" and cells[-1] in ("", "-", "."))


def _width(line: str, layout: Layout) -> int:
    if layout.separator != " " and '"' not in line:
        return line.count(layout.separator) + 1
    return len(_cells(line, layout.separator))


def _check_widths(file: Path, rows: list[str], layout: Layout) -> None:
    for k, line in enumerate(rows):
        if (width := _width(line, layout)) != len(layout.names):
            fault = f"{file}, row {k + 1} has {width} cells separated by {SEPARATORS[layout.separator]}"
            raise RwmError(f"{fault}, expected {len(layout.names)} as there are names.", "correct or remove that row")


def _parsed(file: Path, rows: list[str], layout: Layout) -> pl.DataFrame:
    if layout.separator == " ":
        rows = ["\t".join(line.split()) for line in rows]
    separator = "\t" if layout.separator == " " else layout.separator
    keep = [k for k, name in enumerate(layout.names) if name]
    columns = {f"{k}": pl.String for k in range(len(layout.names))}
    try:
        frame = pl.read_csv("\n".join(rows).encode(), separator=separator, has_header=False, schema=columns)
    except pl.exceptions.PolarsError as exc:
        raise RwmError(f"{file} is no table separated by {SEPARATORS[layout.separator]}: {one_line(exc)}.") from exc
    texts = pl.all().str.strip_chars()
    frame = frame.select(frame.columns[k] for k in keep).with_columns(texts)
    if layout.comma:
        frame = frame.with_columns(pl.all().str.replace(",", ".", literal=True))
    frame.columns = [layout.names[k] for k in keep]
    whole = {name: frame[name].cast(pl.Float64, strict=False) for name in frame.columns}
    return frame.with_columns(v for name, v in whole.items() if not v.is_null().any() and not _is_whole(frame[name]))


def _is_whole(column: pl.Series) -> bool:
    """Return whether a column is of integers, which are kept as they are: nanoseconds do not fit a double."""
    return not column.cast(pl.Int64, strict=False).is_null().any()
