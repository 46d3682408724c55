"""ROS bags, read through a mapping: topics brought to the moments of one of them, then treated as any log."""

from __future__ import annotations

from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from rwmdata.errors import RwmError
from rwmdata.formats.base import Request
from rwmdata.formats.logs import LogFormat
from rwmdata.formats.mapping import Mapping, Source
from rwmdata.formats.resample import HELD_GROUPS
from rwmdata.formats.rosbag_align import align, without_sign_changes
from rwmdata.formats.rosbag_reader import Stream, bags_in, is_bag, read_streams, split_column
from rwmdata.formats.stamps import PAUSE_STEPS

STAMP = "stamp"
"""Column of the rows' moments, ns."""
BASE_GROUPS = ("base_lin_vel", "base_ang_vel", "projected_gravity")
ODOMETRY = ".twist.twist."
"""In a column's name: by the convention of nav_msgs/Odometry in the child frame, which is the base."""
APART_S = 1.0
"""Clocks of headers and recorder that differ by more are not mixed."""


class RosbagFormat(LogFormat):
    """Bags of ROS 1, and of ROS 2 as sqlite3 or MCAP.

    The messages of one topic, that of the joint positions, make the rows; of the other topics each row has the latest
    value, or measurements between the messages before and after it (``align: linear``).

    Raises:
        RwmError: There is no mapping, or it does not fit the robot or a bag.
    """

    label = "ROS bag"

    def __init__(self, request: Request) -> None:
        mapping = request.mapping
        if mapping is None:
            raise RwmError("A ROS bag needs a mapping.", "rwm data convert BAG --infer > mapping.yaml proposes one")
        if mapping.time or mapping.rate_hz:
            raise RwmError(
                "The rows of a bag have the stamps of their messages, the mapping gives time or rate_hz.",
                "leave both out; stamps: received takes the recorder's clock",
            )
        self._frame_said = {group for group, source in mapping.groups.items() if source.frame}
        super().__init__(replace(request, mapping=_in_bags(mapping)))
        self.mapping = self.mapping.model_copy(update={"time": STAMP, "time_unit": "ns"})

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether a file is a bag, or a folder one or full of them."""
        return is_bag(source)

    def _find(self, sources: Sequence[Path]) -> list[Path]:
        return [bag for source in sources for bag in (bags_in(source) if source.is_dir() else [source])]

    def _load(self, file: Path, names: list[str]) -> tuple[pl.DataFrame, list[str]]:
        mapping = self.mapping
        more = [mapping.episode] if mapping.episode else []
        streams = read_streams(file, [*names, *more], mapping.messages)
        rows_of = mapping.rows or split_column(self._columns.get("joint_pos", names)[0])[0]
        if rows_of not in streams:
            raise RwmError(f"The mapping takes rows from {rows_of}, of which it maps nothing.", "rows: another topic")
        stamps, notes = stamps_of(streams, mapping.stamps, file)
        frame, found = self._rows(streams, stamps, rows_of, file)
        found += [f"{s.skipped} messages of {s.topic} name other joints" for s in streams.values() if s.skipped]
        said = [*notes, *found, *self._frames(streams)]
        return frame, [f"{file.name}: {note}" for note in said]

    def _rows(
        self, streams: Map[str, Stream], stamps: Map[str, np.ndarray], rows_of: str, file: Path
    ) -> tuple[pl.DataFrame, list[str]]:
        """Return all columns at the moments of one topic, and what was left out."""
        moments, dt_s = stamps[rows_of], self.robot.control_dt_s
        columns = dict(zip(streams[rows_of].columns, streams[rows_of].values.T, strict=True))
        usable, ages, notes = np.ones(len(moments), bool), [], []
        for topic, stream in streams.items():
            if topic == rows_of:
                continue
            linear, values = self._interpolated(stream)
            steps = np.diff(np.sort(stamps[topic])) / 1e9
            pause_s = self.mapping.pause_s or PAUSE_STEPS * max(dt_s, float(np.median(steps)) if len(steps) else 0.0)
            other = align(moments, stamps[topic], values, linear, dt_s, pause_s)
            columns |= dict(zip(stream.columns, other.values.T, strict=True))
            usable &= other.usable
            age = other.age_ns[other.usable] / 1e6
            if len(age):
                how = "interpolated" if linear.all() else "held" if not linear.any() else "held or interpolated"
                ages.append(f"{topic} ({how}; the latest is {np.median(age):.3g} ms old, {age.max():.3g} at most)")
        if not usable.any():
            spans = [f"{topic} from {s.min() / 1e9:.3f} to {s.max() / 1e9:.3f} s" for topic, s in stamps.items()]
            fault = f"{file}: at no moment of {rows_of} do all topics have a value: {', '.join(spans)}."
            raise RwmError(fault, "stamps: received, if their clocks differ; pause_s, if one is sent rarely")
        if ages:
            notes.append(f"rows are the messages of {rows_of}; at them {', '.join(ages)}")
        if not usable.all():
            notes.append(f"{(~usable).sum()} messages of {rows_of} were left out: another topic has no value then")
        return pl.DataFrame({STAMP: moments} | columns).filter(usable), notes

    def _interpolated(self, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """Return which columns are interpolated ``(k,)``, and the values ``(n, k)`` to be."""
        values = stream.values
        linear = np.zeros(len(stream.columns), bool)
        if self.mapping.align == "held":
            return linear, values
        values = values.copy()
        sources = self.mapping.groups | ({"orientation": self.mapping.orientation} if self.mapping.orientation else {})
        for group, columns in self._columns.items():
            kind = sources[group].kind
            if group in (*HELD_GROUPS, "termination") or kind == "roll_pitch_yaw":
                continue
            places = [stream.columns.index(column) for column in columns if column in stream.columns]
            linear[places] = True
            if kind == "quaternion" and len(places) == 4:
                values[:, places] = without_sign_changes(values[:, places])
        return linear, values

    def _frames(self, streams: Map[str, Stream]) -> list[str]:
        """Say in which frames base velocities were recorded and taken.

        Raises:
            RwmError: An odometry's twist is in no frame of the robot's.
        """
        notes = []
        for group in ("base_lin_vel", "base_ang_vel"):
            columns, source = self._columns.get(group), self.mapping.groups.get(group)
            if not columns or source is None:
                continue
            stream = streams[split_column(columns[0])[0]]
            taken = f"taken to be in the {source.frame or 'base'} frame"
            if ODOMETRY not in columns[0]:
                own = f"in the frame '{stream.frame_id}', " if stream.frame_id else ""
                notes.append(f"{group} from {stream.topic} is {own}{taken}")
                continue
            if stream.child_frame_id and stream.child_frame_id == stream.frame_id and group not in self._frame_said:
                fault = f"{stream.topic} gives its twist in '{stream.frame_id}', the frame of its pose."
                raise RwmError(fault, f"{group}: {{columns: ..., frame: world}}, or frame: base")
            child = f" '{stream.child_frame_id}'" if stream.child_frame_id else ", which has no name"
            notes.append(f"{group} from {stream.topic} is a twist in the child frame{child}; {taken}")
        return notes


def stamps_of(streams: Map[str, Stream], clock: str, file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the stamps of each topic's messages, ns, ``(n,)``, and whose they are.

    Args:
        streams: By topic.
        clock: ``header``, where messages have one that was set, or ``received``.
        file: The bag, for errors.

    Raises:
        RwmError: Some topics have headers on a clock other than the recorder's, the others none.
    """
    received = {topic: np.frombuffer(s.received_ns, np.int64) for topic, s in streams.items()}
    if clock == "received":
        return received, ["stamps are those of the recorder"]
    headers = {topic: np.frombuffer(s.header_ns, np.int64) for topic, s in streams.items()}
    with_header = [t for t, s in streams.items() if s.has_header and (headers[t] > 0).all()]
    without = [t for t in streams if t not in with_header]
    offsets = {t: float(np.median(received[t] - headers[t])) / 1e9 for t in with_header}
    far = [t for t in with_header if abs(offsets[t]) > APART_S]
    if without and far:
        fault = f"{file}: {', '.join(without)} has no header stamps, and those of {far[0]} are {offsets[far[0]]:.6g} s "
        raise RwmError(f"{fault}behind the recorder's clock.", "stamps: received, in the mapping file")
    notes = [f"stamps are of the headers of {', '.join(with_header)}"] if with_header else []
    if without:
        notes.append(f"{', '.join(without)} has no header stamps; the recorder's were taken")
    return {t: headers[t] if t in with_header else received[t] for t in streams}, notes


def _in_bags(mapping: Mapping) -> Mapping:
    """Return a mapping with vectors spelt out, and the frames and orders that are convention in ROS."""
    groups = {group: _spelt_out(group, source) for group, source in mapping.groups.items()}
    orientation = _spelt_out("projected_gravity", mapping.orientation) if mapping.orientation else None
    return mapping.model_copy(update={"groups": groups, "orientation": orientation})


def _spelt_out(group: str, source: Source) -> Source:
    columns = source.columns
    if not isinstance(columns, str):
        named = columns if isinstance(columns, list) else []
    elif "{}" in columns or group not in BASE_GROUPS:
        named = [columns]
    else:
        axes = "xyzw" if source.kind == "quaternion" or columns.endswith("orientation") else "xyz"
        named = [f"{columns}.{axis}" for axis in axes]
        source = source.model_copy(update={"columns": named})
    if group in ("base_lin_vel", "base_ang_vel") and source.frame is None and any(ODOMETRY in n for n in named):
        source = source.model_copy(update={"frame": "base"})
    return source
