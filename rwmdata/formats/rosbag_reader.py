"""ROS bags, read message by message: the numbers of some fields as arrays, one stream a topic."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.formats.tables import natural
from rwmdata.optional import optional_import

MAGIC = (b"#ROSBAG", b"\x89MCAP", b"SQLite format 3")
"""First bytes of ROS 1 bags, of MCAP and of ROS 2's databases."""
SUFFIXES = (".bag", ".mcap", ".db3")
METADATA = "metadata.yaml"
"""Makes a folder one bag of ROS 2, whatever the number of its files."""
NAMES = ("name", "names", "joint_names")
"""Fields that name the elements of the arrays beside or below them."""
STEP = re.compile(r"\.([A-Za-z_]\w*)|\[([^\[\]]+)\]")
NS = 1_000_000_000
SHOWN = 20


def is_bag(source: Path) -> bool:
    """Return whether a file is a bag by its first bytes, or a folder is one or holds some."""
    if source.is_dir():
        return bool(bags_in(source))
    try:
        with source.open("rb") as stream:
            return stream.read(16).startswith(MAGIC)
    except OSError:
        return False


def bags_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is one bag, else the bags in it in the order of their names."""
    if (folder / METADATA).is_file() and any(folder.glob("*.mcap*")) | any(folder.glob("*.db3*")):
        return [folder]
    found = [path for path in folder.iterdir() if not path.name.startswith((".", "_"))]
    inside = [b for path in found if path.is_dir() for b in bags_in(path)]
    return sorted(
        [p for p in found if p.suffix in SUFFIXES and p.is_file() and is_bag(p)] + inside,
        key=lambda p: natural(p.relative_to(folder).as_posix()),
    )


@dataclass(frozen=True)
class Part:
    """Elements of one array of a message, or one number of it."""

    text: str
    """As the mapping names it: ``position``, ``twist.twist.linear.x``."""
    steps: tuple[str | int, ...]
    slots: list[int]
    """Their places among the stream's columns."""
    selectors: list[str]
    """Their names or numbers; empty for one number."""


@dataclass
class Stream:
    """What is read of a topic."""

    topic: str
    columns: list[str]
    kind: str = ""
    """Type of its messages."""
    has_header: bool = False
    frame_id: str = ""
    child_frame_id: str = ""
    skipped: int = 0
    """Messages with none of the joints that are read."""
    last_names: list[str] = field(default_factory=list)
    """Of the last of these."""
    header_ns: array[int] = field(default_factory=lambda: array("q"))
    received_ns: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    _indices: dict[tuple[str, ...], list[int] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts: dict[tuple[str | int, ...], Part] = {}
        for slot, column in enumerate(self.columns):
            steps = split_column(column)[1]
            selector = [steps[-1][1:]] if steps[-1].startswith("[") else []
            path = steps[: len(steps) - len(selector)]
            key: tuple[str | int, ...] = tuple(int(s[1:]) if s.startswith("[") else s for s in path)
            marked = (*key, "[]") if selector else key
            text = column[len(self.topic) + 1 :].removesuffix(f"[{selector[0]}]" if selector else "")
            part = self._parts.setdefault(marked, Part(text, key, [], []))
            part.slots.append(slot)
            part.selectors.extend(selector)

    @property
    def values(self) -> np.ndarray:
        """The numbers, ``(n, columns)``."""
        return np.frombuffer(self.numbers).reshape(-1, len(self.columns))

    @property
    def count(self) -> int:
        """Messages so far."""
        return len(self.received_ns)

    def append(self, message: Any, received_ns: int, where: str) -> None:
        """Read a message.

        Raises:
            RwmError: It lacks a field or an element, or a value is no finite number.
        """
        place = f"{where}, message {self.count + self.skipped + 1} of {self.topic}"
        row = np.empty(len(self.columns))
        for part in self._parts.values():
            found, names = self._walk(message, part, place)
            if not part.selectors:
                row[part.slots] = _number(found, part, place)
                continue
            index = self._index(part, names, place)
            if index is None:
                self.skipped, self.last_names = self.skipped + 1, names
                return
            if not hasattr(found, "__len__") or max(index) >= len(found):
                size = f"{len(found)} values" if hasattr(found, "__len__") else "one value"
                fault = f"{place}: '{part.text}' has {size}, {part.selectors[int(np.argmax(index))]} is not among them."
                raise RwmError(fault, "another field, or the group under 'missing'")
            numeric = isinstance(found, np.ndarray) and found.dtype.kind in "fiub"
            row[part.slots] = found[index] if numeric else [_number(found[k], part, place) for k in index]
        bad = np.flatnonzero(~np.isfinite(row))
        if len(bad):
            fault = f"{place}: {self.columns[bad[0]]} is {row[bad[0]]}, expected a finite number."
            raise RwmError(fault, "cut the bag, or record the topic again")
        self.numbers.frombytes(row.tobytes())
        self.received_ns.append(received_ns)
        header = getattr(message, "header", None)
        stamp = getattr(header, "stamp", None)
        self.header_ns.append(stamp.sec * NS + stamp.nanosec if stamp is not None else 0)
        if self.count == 1:
            self.has_header = stamp is not None
            self.frame_id = getattr(header, "frame_id", "")
            self.child_frame_id = getattr(message, "child_frame_id", "")

    def _walk(self, message: Any, part: Part, place: str) -> tuple[Any, list[str]]:
        """Return what a part's steps lead to, and the names that the message gives to an array's elements."""
        by_name = not all(selector.isdigit() for selector in part.selectors)
        found, names = message, names_in(message) if by_name else []
        for step in part.steps:
            if isinstance(step, int):
                if not hasattr(found, "__len__") or step >= len(found):
                    raise RwmError(f"{place}: '{part.text}' has no element {step}.", "the mapping file")
                found = found[step]
            elif not hasattr(found, step):
                known = ", ".join(getattr(found, "__dataclass_fields__", {})) or "none"
                raise RwmError(f"{place} has no field '{part.text}'; fields there are {known}.", "the mapping file")
            else:
                found = getattr(found, step)
            names = (names_in(found) if by_name else []) or names
        return found, names

    def _index(self, part: Part, names: list[str], place: str) -> list[int] | None:
        """Return the places of a part's elements; None in a message of other joints."""
        if all(selector.isdigit() for selector in part.selectors):
            return [int(selector) for selector in part.selectors]
        key = (part.text, *names)
        if key not in self._indices:
            there = [selector for selector in part.selectors if selector in names]
            ours = any(s in names for p in self._parts.values() for s in p.selectors)
            if len(there) < len(part.selectors) and (ours or not names):
                lacking = ", ".join(s for s in part.selectors if s not in names)
                fault = f"{place} does not name {lacking}; it names {', '.join(names) or 'nothing'}."
                raise RwmError(fault, "the names as the bag has them, [NAME], or numbers, [0]")
            self._indices[key] = [names.index(selector) for selector in there] if there else None
        return self._indices[key]


def names_in(message: Any) -> list[str]:
    """Return the names that a message gives to elements of its arrays."""
    for attribute in NAMES:
        names = getattr(message, attribute, None)
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
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


@contextmanager
def opened(bag: Path, messages: Path | None) -> Iterator[Any]:
    """Open a bag with the library's reader, ``rosbags.highlevel.AnyReader``.

    Args:
        bag: File, or folder of ROS 2.
        messages: Folder of ``.msg`` files, for a bag without definitions.

    Raises:
        RwmError: It is missing, damaged, of an unknown version or compression, or the library is missing.
    """
    with optional_import("Reading a ROS bag needs the package rosbags", "rosbags"):
        from rosbags.highlevel import AnyReader
    if not bag.exists():
        raise RwmError(f"There is no bag {bag}.", "rwm data convert BAG --mapping FILE.yaml --name NAME")
    types = _types(messages)
    try:
        reader = AnyReader([bag], default_typestore=types)
        reader.open()
    except Exception as exc:  # The library lets errors of its parsers and decompressors through.
        raise RwmError(f"{bag} cannot be read as a bag: {_reason(exc)}.", _repair(bag)) from exc
    try:
        if messages:
            _add_types(reader.typestore, types)
        yield reader
    finally:
        reader.close()


def _types(messages: Path | None) -> Any:
    """Return the usual types of ROS 2 and those of a folder.

    Raises:
        RwmError: The folder holds none, or one cannot be read.
    """
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    if messages is None:
        return store
    files = sorted(messages.rglob("*.msg"))
    if not files:
        raise RwmError(f"There is no .msg file in {messages}.", "messages: FOLDER with PACKAGE/msg/NAME.msg in it")
    found: dict[str, Any] = {}
    for file in files:
        package = file.parent.parent.name if file.parent.name == "msg" else file.parent.name
        try:
            found |= get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}")
        except Exception as exc:
            raise RwmError(f"{file} cannot be read as a message definition: {_reason(exc)}.") from exc
    store.register({name: fields for name, fields in found.items() if name not in store.fielddefs})
    return store


def _add_types(store: Any, more: Any) -> None:
    store.register({name: fields for name, fields in more.fielddefs.items() if name not in store.fielddefs})


def read_streams(
    bag: Path, columns: Sequence[str], messages: Path | None, first_s: float | None = None, strict: bool = True
) -> dict[str, Stream]:
    """Read the numbers of some fields of a bag, one message after the other.

    Args:
        bag: File or folder.
        columns: ``/topic.field``.
        messages: See :func:`opened`.
        first_s: Read no more than the beginning.
        strict: Refuse messages without a field or finite numbers, and topics without messages, else leave them out.

    Returns:
        The streams by topic, in order of reception.

    Raises:
        RwmError: The bag is damaged, lacks a topic, field or definition, or a value is no finite number.
    """
    by_topic: dict[str, list[str]] = {}
    for column in dict.fromkeys(columns):
        by_topic.setdefault(split_column(column)[0], []).append(column)
    streams = {topic: Stream(topic, names) for topic, names in by_topic.items()}
    with opened(bag, messages) as reader:
        topics = reader.topics
        lacking = [topic for topic in streams if topic not in topics]
        if lacking:
            there = [f"{name} ({info.msgtype})" for name, info in list(topics.items())[:SHOWN]]
            more = f" and {len(topics) - SHOWN} more" if len(topics) > SHOWN else ""
            fault = f"{bag} has no topic {', '.join(lacking)}; it has {', '.join(there) or 'none'}{more}."
            raise RwmError(fault, "rwm data convert BAG --infer proposes a mapping")
        for topic, stream in streams.items():
            stream.kind = _one_type(bag, topic, topics[topic], reader)
        wanted = [c for c in reader.connections if c.topic in streams]
        stop_ns = None if first_s is None else reader.start_time + int(first_s * NS)
        for topic, received_ns, message in messages_of(reader, wanted, bag, stop_ns):
            with nullcontext() if strict else suppress(RwmError):
                streams[topic].append(message, received_ns, str(bag))
    for stream in streams.values():
        if strict and not stream.count:
            if not stream.skipped:
                raise RwmError(
                    f"{bag}: {stream.topic} ({stream.kind}) is in the bag without a message.", "another topic"
                )
            fault = f"{bag}: none of the {stream.skipped} messages of {stream.topic} names what is mapped"
            hint = "the names as the bag has them: /joint_states.position[NAME]"
            raise RwmError(
                f"{fault}, {', '.join(stream.columns)}; the last names {', '.join(stream.last_names)}.", hint
            )
    return streams


def _one_type(bag: Path, topic: str, info: Any, reader: Any) -> str:
    if info.msgtype is None:
        kinds = ", ".join(sorted({c.msgtype for c in info.connections}))
        raise RwmError(f"{bag}: {topic} carries messages of several types, {kinds}.", "another topic")
    if info.msgtype not in reader.typestore.fielddefs:
        fault = f"{bag}: {topic} is of {info.msgtype}, whose definition is not in the bag."
        raise RwmError(fault, "messages: FOLDER of .msg files, in the mapping file")
    return str(info.msgtype)


def messages_of(
    reader: Any, connections: Sequence[Any], bag: Path, stop_ns: int | None = None
) -> Iterator[tuple[str, int, Any]]:
    """Yield topic, time of reception and message.

    Raises:
        RwmError: The bag is damaged; after how many messages is said.
    """
    count = 0
    raw = reader.messages(connections=list(connections), stop=stop_ns)
    while connections:
        try:
            connection, received_ns, data = next(raw)
            message = reader.deserialize(data, connection.msgtype)
        except StopIteration:
            return
        except Exception as exc:
            fault = f"{bag} is damaged after {count} messages: {_reason(exc)}."
            raise RwmError(fault, _repair(bag)) from exc
        count += 1
        yield connection.topic, received_ns, message


def _reason(exc: Exception) -> str:
    return one_line(exc).rstrip(".") or type(exc).__name__


def _repair(bag: Path) -> str:
    """Return the tool of ROS that repairs a bag."""
    if bag.suffix == ".bag":
        return f"rosbag reindex {bag.name}"
    if bag.suffix == ".mcap" or (bag.is_dir() and any(bag.glob("*.mcap"))):
        return "mcap recover FILE.mcap -o REPAIRED.mcap"
    return f"ros2 bag reindex {bag.name}"
