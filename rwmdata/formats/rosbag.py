"""ROS bags, read through a mapping: topics brought to the moments of one of them, then treated as any log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
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
from rwmdata.formats.rosbag_pieces import Gathered, stamps_of, whole_rows
from rwmdata.formats.rosbag_reader import bags_in, is_bag, read_pieces
from rwmdata.formats.rosbag_stream import Stream, split_column
from rwmdata.formats.stamps import PAUSE_STEPS

PIECE_BYTES = 1 << 25
"""Numbers of a bag that are held before rows are made of them: of a quadruped at 500 Hz, those of three minutes."""
STAMP = "stamp"
"""Column of the rows' moments, ns."""
BASE_GROUPS = ("base_lin_vel", "base_ang_vel", "projected_gravity")
ODOMETRY = ".twist.twist."
"""In a column's name: by the convention of nav_msgs/Odometry in the child frame, which is the base."""


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

    def _pieces(self, file: Path, names: list[str]) -> Iterator[pl.DataFrame]:
        mapping = self.mapping
        more = [mapping.episode] if mapping.episode else []
        rows_of = mapping.rows or split_column(self._columns.get("joint_pos", names)[0])[0]
        gathered = Gathered(file, rows_of)
        for streams, is_last in read_pieces(file, [*names, *more], mapping.messages, PIECE_BYTES):
            if rows_of not in streams:
                fault = f"The mapping takes rows from {rows_of}, of which it maps nothing."
                raise RwmError(fault, "rows: another topic")
            stamps, clocks = stamps_of(streams, mapping.stamps, file)
            gathered.add_clocks(clocks, stamps)
            gathered.frames = self._frames(streams)
            pauses_s = {topic: self._pause_s(times) for topic, times in stamps.items()}
            ready, done = streams[rows_of].count, {topic: stream.count for topic, stream in streams.items()}
            if not is_last:
                ready, done = whole_rows(streams, stamps, rows_of, max(pauses_s.values()))
            frame = self._rows(streams, stamps, pauses_s, ready, gathered)
            for topic, stream in streams.items():
                stream.drop(done[topic])
            skipped = {topic: stream.skipped for topic, stream in streams.items() if stream.skipped}
            gathered.skipped = [f"{count} messages of {topic} name other joints" for topic, count in skipped.items()]
            if frame.height:
                yield frame
        self.notes += [f"{file.name}: {note}" for note in gathered.notes()]

    def _pause_s(self, stamps_ns: np.ndarray) -> float:
        """Return the longest pause of a stream that is bridged."""
        steps = np.diff(np.sort(stamps_ns)) / 1e9
        usual = float(np.median(steps)) if len(steps) else 0.0
        return self.mapping.pause_s or PAUSE_STEPS * max(self.robot.control_dt_s, usual)

    def _rows(
        self,
        streams: Map[str, Stream],
        stamps: Map[str, np.ndarray],
        pauses_s: Map[str, float],
        ready: int,
        gathered: Gathered,
    ) -> pl.DataFrame:
        """Return all columns at the moments of the first messages of one topic, where all topics have a value."""
        main = streams[gathered.rows_of]
        moments = stamps[gathered.rows_of][:ready]
        columns = dict(zip(main.columns, main.values[:ready].T, strict=True))
        usable = np.ones(ready, bool)
        for topic, stream in streams.items():
            if stream is main:
                continue
            linear, values = self._interpolated(stream)
            other = align(moments, stamps[topic], values, linear, self.robot.control_dt_s, pauses_s[topic])
            columns |= dict(zip(stream.columns, other.values.T, strict=True))
            usable &= other.usable
            how = "interpolated" if linear.all() else "held" if not linear.any() else "held or interpolated"
            gathered.add_ages(topic, how, other.age_ns[other.usable])
        gathered.add_rows(usable)
        frame = pl.DataFrame({STAMP: moments} | columns)
        return frame if usable.all() else frame.filter(usable)

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
