"""A bag in pieces of time: whose clock it is on, which rows can be made already, and what is said of all pieces."""

from __future__ import annotations

from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rwmdata.errors import RwmError
from rwmdata.formats.rosbag_stream import NS, Stream

APART_S = 1.0
"""Clocks of headers and recorder that differ by more are not mixed. Nor does any message arrive later than this."""


def stamps_of(streams: Map[str, Stream], clock: str, file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the stamps of each topic's messages, ns, ``(n,)``, and whose they are.

    Args:
        streams: By topic.
        clock: ``header``, where messages have one that was set, or ``received``.
        file: The bag, for errors.

    Raises:
        RwmError: Some topics have headers on a clock other than the recorder's, the others none.
    """
    received = {topic: np.asarray(s.received_ns, np.int64) for topic, s in streams.items()}
    if clock == "received":
        return received, ["stamps are those of the recorder"]
    held = {topic: stream for topic, stream in streams.items() if stream.count}
    headers = {topic: np.asarray(s.header_ns, np.int64) for topic, s in held.items()}
    with_header = [t for t, s in held.items() if s.has_header and (headers[t] > 0).all()]
    without = [t for t in held if t not in with_header]
    offsets = {t: float(np.median(received[t] - headers[t])) / NS for t in with_header}
    far = [t for t in with_header if abs(offsets[t]) > APART_S]
    if without and far:
        fault = f"{file}: {', '.join(without)} has no header stamps, and those of {far[0]} are {offsets[far[0]]:.6g} s "
        raise RwmError(f"{fault}behind the recorder's clock.", "stamps: received, in the mapping file")
    notes = [f"stamps are of the headers of {', '.join(with_header)}"] if with_header else []
    if without:
        notes.append(f"{', '.join(without)} has no header stamps; the recorder's were taken")
    return {t: headers[t] if t in with_header else received[t] for t in streams}, notes


def whole_rows(
    streams: Map[str, Stream], stamps: Map[str, np.ndarray], rows_of: str, pause_s: float
) -> tuple[int, dict[str, int]]:
    """Return how far rows can be made although the bag goes on.

    Args:
        streams: As read so far, by topic.
        stamps: Of their messages, ns.
        rows_of: Topic whose messages make the rows.
        pause_s: Longest pause of a topic that is bridged: so far rows depend on messages before and after them.

    Returns:
        How many of its first messages are rows of which nothing can change any more, and how many messages of each
        topic no later row needs.
    """
    received = {topic: np.asarray(stream.received_ns, np.int64) for topic, stream in streams.items()}
    offsets = [float(np.median(received[topic] - stamps[topic])) for topic, stream in streams.items() if stream.count]
    reach = int((APART_S + pause_s) * NS + np.ptp(offsets))
    until = max(int(times.max(initial=0)) for times in received.values()) - reach
    ready = _before(received[rows_of], until)
    return ready, {topic: _before(times, until - reach) for topic, times in received.items()} | {rows_of: ready}


def _before(times: np.ndarray, until: int) -> int:
    """Return how many messages come before the first at or after a time."""
    late = times >= until
    return int(late.argmax()) if late.any() else len(times)


@dataclass
class Gathered:
    """What is said of a bag, over all of its pieces."""

    file: Path
    rows_of: str
    pieces: int = 0
    rows: int = 0
    unusable: int = 0
    """Messages at whose time another topic has no value."""
    clocks: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _ages_ms: dict[str, tuple[str, list[float], list[float]]] = field(default_factory=dict)
    _spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add_clocks(self, notes: list[str], stamps: Map[str, np.ndarray]) -> None:
        """Note whose clock a piece is on, and from when to when its topics have messages."""
        self.clocks += [note for note in notes if note not in self.clocks]
        for topic, times in stamps.items():
            if len(times):
                first, last = self._spans.get(topic, (times[0], times[0]))
                self._spans[topic] = min(first, times.min()), max(last, times.max())

    def add_rows(self, usable: np.ndarray) -> None:
        """Count the rows of a piece, ``(n,)`` bool."""
        self.pieces += 1
        self.rows += int(usable.sum())
        self.unusable += int((~usable).sum())

    def add_ages(self, topic: str, how: str, age_ns: np.ndarray) -> None:
        """Note how old a topic's values are at the rows of a piece, ``(n,)``."""
        if len(age_ns):
            _, medians, largest = self._ages_ms.setdefault(topic, (how, [], []))
            medians.append(float(np.median(age_ns)) / 1e6)
            largest.append(float(age_ns.max()) / 1e6)

    def notes(self) -> list[str]:
        """Return everything, a sentence each.

        Raises:
            RwmError: There is no row.
        """
        if not self.rows:
            spans = [f"{topic} from {a / NS:.3f} to {b / NS:.3f} s" for topic, (a, b) in self._spans.items()]
            fault = f"{self.file}: at no moment of {self.rows_of} do all topics have a value: {', '.join(spans)}."
            raise RwmError(fault, "stamps: received, if their clocks differ; pause_s, if one is sent rarely")
        ages = [
            f"{topic} ({how}; the latest is {np.median(medians):.3g} ms old, {max(largest):.3g} at most)"
            for topic, (how, medians, largest) in self._ages_ms.items()
        ]
        notes = [f"rows are the messages of {self.rows_of}; at them {', '.join(ages)}"] if ages else []
        if self.unusable:
            notes.append(f"{self.unusable} messages of {self.rows_of} were left out: another topic has no value then")
        if self.pieces > 1:
            notes.append(f"the bag is long: it was read in {self.pieces} pieces, and an episode ends with each")
        return [*self.clocks, *notes, *self.skipped, *self.frames]
