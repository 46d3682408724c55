"""ROS bags, read message by message: some fields of some topics, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import inf
from pathlib import Path
from typing import Any

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.formats.rosbag_stream import NS, NUMBER_BYTES, Stream, split_column
from rwmdata.formats.tables import natural
from rwmdata.optional import optional_import

MAGIC = (b"#ROSBAG", b"\x89MCAP", b"SQLite format 3")
"""First bytes of ROS 1 bags, of MCAP and of ROS 2's databases."""
SUFFIXES = (".bag", ".mcap", ".db3")
METADATA = "metadata.yaml"
"""Makes a folder one bag of ROS 2, whatever the number of its files."""
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

        from rwmdata.formats.rosbag_chunks import ChunkReader
    if not bag.exists():
        raise RwmError(f"There is no bag {bag}.", "rwm data convert BAG --mapping FILE.yaml --name NAME")
    types = _types(messages)
    try:
        reader = AnyReader([bag], default_typestore=types)
        if not reader.is2:
            reader.readers = [ChunkReader(bag)]
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
    """Read the numbers of some fields of a bag at once; see :func:`read_pieces`."""
    ((streams, _),) = read_pieces(bag, columns, messages, None, first_s, strict)
    return streams


def read_pieces(
    bag: Path,
    columns: Sequence[str],
    messages: Path | None,
    piece_bytes: int | None,
    first_s: float | None = None,
    strict: bool = True,
) -> Iterator[tuple[dict[str, Stream], bool]]:
    """Read the numbers of some fields of a bag, one message after the other.

    Args:
        bag: File or folder.
        columns: ``/topic.field``.
        messages: See :func:`opened`.
        piece_bytes: The streams are given each time they hold more numbers than this, to be dropped as far as they are
            done with; of what is kept, as much again is read. None for one piece.
        first_s: Read no more than the beginning.
        strict: Refuse messages without a field or finite numbers, and topics without messages, else leave them out.

    Yields:
        The streams by topic, in order of reception, the same ones each time; and whether the bag ends here.

    Raises:
        RwmError: The bag is damaged, lacks a topic, field or definition, or a value is no finite number.
    """
    by_topic: dict[str, list[str]] = {}
    for column in dict.fromkeys(columns):
        by_topic.setdefault(split_column(column)[0], []).append(column)
    streams = {topic: Stream(topic, names) for topic, names in by_topic.items()}
    faults: AbstractContextManager[object] = nullcontext() if strict else suppress(RwmError)
    limit = inf if piece_bytes is None else piece_bytes
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
        grown = 0
        for topic, received_ns, message in messages_of(reader, wanted, bag, stop_ns):
            stream = streams[topic]
            with faults:
                stream.append(message, received_ns, str(bag))
            grown += NUMBER_BYTES * len(stream.columns)
            if grown > limit:
                yield streams, False
                held = NUMBER_BYTES * sum(len(stream.numbers) for stream in streams.values())
                grown, limit = held, max(limit, 2 * held)
    if strict:
        for stream in streams.values():
            _check_read(bag, stream)
    yield streams, True


def _check_read(bag: Path, stream: Stream) -> None:
    """Refuse a topic of which nothing was read."""
    if stream.read:
        return
    if not stream.skipped:
        raise RwmError(f"{bag}: {stream.topic} ({stream.kind}) is in the bag without a message.", "another topic")
    fault = f"{bag}: none of the {stream.skipped} messages of {stream.topic} names what is mapped"
    hint = "the names as the bag has them: /joint_states.position[NAME]"
    raise RwmError(f"{fault}, {', '.join(stream.columns)}; the last names {', '.join(stream.last_names)}.", hint)


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
