"""One topic of a ROS bag: the numbers of some fields of its messages as arrays."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from operator import attrgetter
from typing import Any

import numpy as np

from rwmdata.errors import RwmError

NAMES = ("name", "names", "joint_names")
"""Fields that name the elements of the arrays beside or below them."""
STEP = re.compile(r"\.([A-Za-z_]\w*)|\[([^\[\]]+)\]")
NS = 1_000_000_000
NUMBER_BYTES = 8


@dataclass(frozen=True)
class Part:
    """Elements of one array of a message, or one number of it."""

    text: str
    """As the mapping names it: ``position``, ``twist.twist.linear.x``."""
    steps: tuple[str | int, ...]
    selectors: list[str]
    """Names or numbers of the elements; empty for one number."""


@dataclass
class Stream:
    """What is read of a topic, and not dropped yet."""

    topic: str
    columns: list[str]
    """In the order of :attr:`values`; elements of an array stand together."""
    kind: str = ""
    """Type of its messages."""
    has_header: bool = False
    frame_id: str = ""
    child_frame_id: str = ""
    read: int = 0
    """Messages whose numbers were read, those dropped included."""
    skipped: int = 0
    """Messages with none of the joints that are read."""
    last_names: list[str] = field(default_factory=list)
    """Of the last of these."""
    header_ns: array[int] = field(default_factory=lambda: array("q"))
    received_ns: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        parts: dict[tuple[str | int, ...], Part] = {}
        columns: dict[tuple[str | int, ...], list[str]] = {}
        for column in self.columns:
            steps = split_column(column)[1]
            selector = [steps[-1][1:]] if steps[-1].startswith("[") else []
            path = steps[: len(steps) - len(selector)]
            key: tuple[str | int, ...] = tuple(int(s[1:]) if s.startswith("[") else s for s in path)
            marked = (*key, "[]") if selector else key
            text = column[len(self.topic) + 1 :].removesuffix(f"[{selector[0]}]" if selector else "")
            parts.setdefault(marked, Part(text, key, [])).selectors.extend(selector)
            columns.setdefault(marked, []).append(column)
        self._parts = list(parts.values())
        self.columns = [column for part in columns.values() for column in part]
        self._places: Places | None = None

    @property
    def values(self) -> np.ndarray:
        """The numbers, ``(n, columns)``; valid until the next message is read."""
        return np.asarray(self.numbers).reshape(-1, len(self.columns))

    @property
    def count(self) -> int:
        """Messages that are held."""
        return len(self.received_ns)

    def drop(self, count: int) -> None:
        """Forget the first messages."""
        self.header_ns, self.received_ns = self.header_ns[count:], self.received_ns[count:]
        self.numbers = self.numbers[count * len(self.columns) :]

    def append(self, message: Any, received_ns: int, where: str) -> None:
        """Read a message.

        Raises:
            RwmError: It lacks a field or an element, or a value is no finite number.
        """
        row = self._places.numbers(message) if self._places else None
        if row is None:  # The first message, or one unlike the one before.
            place = f"{where}, message {self.read + self.skipped + 1} of {self.topic}"
            row, self._places = self._searched(message, place)
        if row is None:
            return
        self.numbers.extend(row)
        self.received_ns.append(received_ns)
        header = getattr(message, "header", None)
        stamp = getattr(header, "stamp", None)
        self.header_ns.append(stamp.sec * NS + stamp.nanosec if stamp is not None else 0)
        self.read += 1
        if self.read == 1:
            self.has_header = stamp is not None
            self.frame_id = getattr(header, "frame_id", "")
            self.child_frame_id = getattr(message, "child_frame_id", "")

    def _searched(self, message: Any, place: str) -> tuple[list[float] | None, Places | None]:
        """Return the numbers of a message, and where they were; None for a message of other joints.

        Raises:
            RwmError: See :meth:`append`.
        """
        row: list[float] = []
        places = Places()
        for part in self._parts:
            found, names, named_at = self._walk(message, part, place)
            if not part.selectors:
                row.append(_number(found, part, place))
                places.add(part.steps, None)
                continue
            index = self._index(part, names, place)
            if index is None:
                self.skipped, self.last_names = self.skipped + 1, names
                return None, self._places
            if not hasattr(found, "__len__") or max(index) >= len(found):
                size = f"{len(found)} values" if hasattr(found, "__len__") else "one value"
                fault = f"{place}: '{part.text}' has {size}, {part.selectors[int(np.argmax(index))]} is not among them."
                raise RwmError(fault, "another field, or the group under 'missing'")
            row += [_number(found[k], part, place) for k in index]
            places.add(part.steps, index)
            if named_at is not None:
                places.add_names(named_at, names)
        bad = np.flatnonzero(~np.isfinite(row))
        if len(bad):
            fault = f"{place}: {self.columns[bad[0]]} is {row[bad[0]]}, expected a finite number."
            raise RwmError(fault, "cut the bag, or record the topic again")
        return row, places

    def _walk(self, message: Any, part: Part, place: str) -> tuple[Any, list[str], tuple[str | int, ...] | None]:
        """Return what a part's steps lead to, the names that the message gives to its elements, and whose they are."""
        by_name = not all(selector.isdigit() for selector in part.selectors)
        found, names = message, names_in(message) if by_name else []
        named_at: tuple[str | int, ...] | None = () if names else None
        for k, step in enumerate(part.steps):
            if isinstance(step, int):
                if not hasattr(found, "__len__") or step >= len(found):
                    raise RwmError(f"{place}: '{part.text}' has no element {step}.", "the mapping file")
                found = found[step]
            elif not hasattr(found, step):
                known = ", ".join(getattr(found, "__dataclass_fields__", {})) or "none"
                raise RwmError(f"{place} has no field '{part.text}'; fields there are {known}.", "the mapping file")
            else:
                found = getattr(found, step)
            if nearer := names_in(found) if by_name else []:
                names, named_at = nearer, part.steps[: k + 1]
        return found, names, named_at

    def _index(self, part: Part, names: list[str], place: str) -> list[int] | None:
        """Return the places of a part's elements; None in a message of other joints."""
        if all(selector.isdigit() for selector in part.selectors):
            return [int(selector) for selector in part.selectors]
        there = [selector for selector in part.selectors if selector in names]
        ours = any(s in names for p in self._parts for s in p.selectors)
        if len(there) < len(part.selectors) and (ours or not names):
            lacking = ", ".join(s for s in part.selectors if s not in names)
            fault = f"{place} does not name {lacking}; it names {', '.join(names) or 'nothing'}."
            raise RwmError(fault, "the names as the bag has them, [NAME], or numbers, [0]")
        return [names.index(selector) for selector in there] if there else None


class Places:
    """Where the numbers of a stream stand in a message, so that the next ones need no search."""

    def __init__(self) -> None:
        self._numbers: list[tuple[Callable[[Any], Any], np.ndarray | None]] = []
        self._names: list[tuple[Callable[[Any], Any], list[str]]] = []
        self._known: set[tuple[str | int, ...]] = set()

    def add(self, steps: tuple[str | int, ...], index: list[int] | None) -> None:
        """Note one number, or elements of an array."""
        self._numbers.append((_getter(steps), None if index is None else np.array(index)))

    def add_names(self, steps: tuple[str | int, ...], names: list[str]) -> None:
        """Note that elements were found by the names of the message there."""
        if steps not in self._known:
            self._names.append((_getter(steps), names))
            self._known.add(steps)

    def numbers(self, message: Any) -> list[float] | None:
        """Return the numbers of a message; None where it is not as the one before, or not all are finite."""
        row: list[float] = []
        try:
            for owner, names in self._names:
                if names_in(owner(message)) != names:
                    return None
            for value, index in self._numbers:
                if index is None:
                    row.append(value(message))
                else:
                    row += value(message)[index].tolist()
            return row if isfinite(sum(row)) else None
        except (AttributeError, IndexError, TypeError):
            return None


def _getter(steps: tuple[str | int, ...]) -> Callable[[Any], Any]:
    if steps and all(isinstance(step, str) for step in steps):
        return attrgetter(".".join(map(str, steps)))

    def walked(message: Any) -> Any:
        for step in steps:
            message = message[step] if isinstance(step, int) else getattr(message, step)
        return message

    return walked


def names_in(message: Any) -> list[str]:
    """Return the names that a message gives to elements of its arrays."""
    for attribute in NAMES:
        names = getattr(message, attribute, None)
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names
    return []


def split_column(column: str) -> tuple[str, list[str]]:
    """Return the topic and the steps below it of ``/topic.field[element].field``.

    Raises:
        RwmError: It is not of that form.
    """
    topic, dot, rest = column.partition(".")
    steps = [match[1] or f"[{match[2]}" for match in STEP.finditer(dot + rest)]
    written = "".join(f"{s}]" if s.startswith("[") else f".{s}" for s in steps)
    middle = [s[1:] for s in steps[:-1] if s.startswith("[")]
    if not topic or not steps or written != dot + rest or not all(s.isdigit() for s in middle):
        raise RwmError(
            f"The mapping's '{column}' is no field of a topic.", "/joint_states.position[NAME], /imu.field.x"
        )
    return topic, steps


def _number(value: Any, part: Part, place: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as exc:
        fields = ", ".join(getattr(value, "__dataclass_fields__", {}))
        what = f"has the fields {fields}" if fields else "is no number"
        raise RwmError(
            f"{place}: '{part.text}' {what}.", "the mapping file names numbers, as /imu.orientation.x"
        ) from exc
