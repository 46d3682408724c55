"""Mapping files: where a foreign recording holds our column groups, in which unit, order and convention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from rwmdata.config import Frozen, one_line
from rwmdata.episodes import check_finite
from rwmdata.errors import RwmError
from rwmdata.formats.orientation import axes_of, check_order, compared, gravity_from_accelerometer, turn_error
from rwmdata.robots import RobotSpec, load_robot, robot_folders
from rwmdata.schema import AXES, Schema
from rwmdata.yaml_file import read_yaml

PER_JOINT = ("joint_pos", "joint_vel", "joint_torque", "action")
ORIENTATIONS = ("quaternion", "roll_pitch_yaw")
ASK = "ASK"
"""Stands in a proposed mapping for what the user has to fill in."""
UPSIDE_DOWN = 0.5
"""Mean z of gravity in the base frame above which the robot would lie on its back."""
PER_LEG = ("thigh_contact", "foot_contact")


class Source(Frozen):
    """Where one column group comes from."""

    path: str = ""
    """HDF5: the dataset ``(T, n)`` inside a demo, ``obs/joint_pos``. LeRobot: the feature."""
    columns: tuple[int, int] | list[str] | str | None = None
    """HDF5 and LeRobot: first column and the one after the last. Logs and LeRobot: the columns by name, or one name in
    which ``{}`` stands for x, y, z, the joint or the leg."""
    scale: float | list[float] = 1.0
    """Factor on the values, one for all or one each: a change of unit, or -1 for an opposite sign."""
    subtract_default: bool = False
    """The values are absolute joint positions; the robot's default pose is subtracted."""
    kind: Literal[
        "values", "target_position", "drive", "threshold", "quaternion", "roll_pitch_yaw", "accelerometer"
    ] = "values"
    """``values``: as they are. ``target_position``: an action recorded as absolute joint targets, rad. ``drive``: a
    torque that was not recorded, from the robot's gains. ``threshold``: contact forces; above ``threshold`` is contact.
    Of ``projected_gravity`` alone: ``quaternion`` (base to world), ``roll_pitch_yaw``, rad, yaw may be left out, and
    ``accelerometer``, from which gravity is estimated."""
    order: Literal["wxyz", "xyzw"] | None = None
    """Of a quaternion; when None, as the names of the columns say."""
    frame: Literal["base", "world"] | None = None
    """Of a base velocity; one in the world frame is rotated with the orientation. When None, as the names say."""
    threshold: float = 1.0
    """Force that is contact, N or whatever the sensor counts."""

    def select(self, values: np.ndarray) -> np.ndarray:
        """Return the source's columns of recorded values ``(T, n)`` without column names.

        Raises:
            RwmError: The columns are given by name.
        """
        if self.columns is None:
            return values
        if not isinstance(self.columns, tuple):
            raise RwmError(f"Columns of '{self.path}' are {self.columns}; without names they are [first, end].")
        return values[:, slice(*self.columns)]


class Mapping(Frozen):
    """Content of a mapping file."""

    groups: dict[str, Source]
    """By group: base_lin_vel, ..., action, (extension,) thigh_contact, foot_contact, termination."""
    missing: list[str] = []
    """Groups that were not recorded; written as zeros and named in the dataset's provenance."""
    orientation: Source | None = None
    """Orientation that velocities in the world frame are rotated with, where ``projected_gravity`` is none itself."""
    check: bool = True
    """Compare orientation, angular velocity and gravity, and ``rate_hz`` and stamps, and refuse what contradicts."""
    extension: list[str] = []
    """Names of additional quantities for the model to predict; their columns are the group ``extension``."""
    joints: list[str] | None = None
    """Order of the joints in the recording; the robot's own when None."""
    legs: list[str] | None = None
    action_index: Literal["next", "previous"] = "next"
    """Whether the action at an index is taken in the state at that index (``next``) or led to it (``previous``)."""
    rate_hz: float | None = Field(None, gt=0)
    """Rows per second; when None, taken from the time column or what the recording says, else the robot's control rate.
    A rate that these contradict is refused."""
    time: str | tuple[str, str] | None = None
    """Logs: column of the time, or a column of seconds and one of nanoseconds (or microseconds, ``usec``)."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Logs: unit of the time; when None, told from its rate and its magnitude."""
    pause_s: float | None = Field(None, gt=0)
    """Logs: longest pause that is bridged by interpolation; a longer one starts a new episode. When None, five control
    steps."""
    episode: str | None = None
    """Logs: column whose change starts a new episode."""
    short_episodes: bool = False
    """Logs: accept a file that falls into many episodes of less than a second."""
    rows: str | None = None
    """Bags: topic whose messages make the rows; when None, that of ``joint_pos``."""
    stamps: Literal["header", "received"] = "header"
    """Bags: clock of the messages, that of their headers (where they have one) or the recorder's."""
    align: Literal["held", "linear"] = "held"
    """Bags: values of the other topics at a row, the latest or, of measurements, interpolated ones."""
    messages: Path | None = None
    """Bags without definitions of their messages: folder of ``.msg`` files, ``PACKAGE/msg/NAME.msg``, beside the
    mapping file or absolute."""

    @field_validator("joints", "legs", mode="before")
    @classmethod
    def _filled_in(cls, order: object) -> object:
        if order == ASK:
            raise ValueError("the order in which the recorder numbers them is still to be filled in")
        return order

    @field_validator("groups", mode="before")
    @classmethod
    def _short_forms(cls, groups: object) -> object:
        """Accept a list of columns, or a name with ``{}``, where a source is expected."""
        if not isinstance(groups, dict):
            return groups
        return {k: {"columns": v} if isinstance(v, list | str) else v for k, v in groups.items()}


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file (YAML).

    Raises:
        RwmError: It is missing or does not validate; every fault is listed.
    """
    try:
        mapping = Mapping(**read_yaml(path))
        return mapping.model_copy(update={"messages": path.parent / mapping.messages}) if mapping.messages else mapping
    except FileNotFoundError as exc:
        raise RwmError(f"There is no mapping file {path}.", "--mapping FILE.yaml") from exc
    except (ValueError, TypeError, OSError) as exc:
        raise RwmError(
            f"{path} is not a valid mapping: {one_line(exc)}.", "rwm data convert FILE --infer, which proposes one"
        ) from exc


def suffixes(group: str, robot: RobotSpec, extension: list[str]) -> list[str]:
    """Return the suffixes of a group's columns: axes, joints, legs, the extension's names, or one empty suffix."""
    ends = dict.fromkeys(PER_JOINT, robot.joints) | dict.fromkeys(PER_LEG, robot.legs)
    return list({**ends, "extension": extension, "termination": [""]}.get(group, AXES))


class Assembler:
    """Builds row matrices from recordings.

    Args:
        robot: The robot.
        schema: Its columns.
        mapping: Where they are in the recording.

    Attributes:
        missing: Groups that are written as zeros.
        computed: Groups that are computed from others.
        notes: What was found when orientations were converted, one sentence each.

    Raises:
        RwmError: The mapping leaves out a group, or names groups or joints that do not exist.
    """

    def __init__(self, robot: RobotSpec, schema: Schema, mapping: Mapping) -> None:
        self.robot, self.schema, self.mapping = robot, schema, mapping
        named = [*mapping.groups, *mapping.missing]
        unknown = [g for g in named if g not in schema.groups]
        unnamed = [g for g in schema.groups if g not in named]
        faults = [f"does not know {', '.join(unknown)}"] if unknown else []
        faults += [f"says nothing of {', '.join(unnamed)}"] if unnamed else []
        if faults or not mapping.groups:
            hint = f"groups are {', '.join(schema.groups)}; those not recorded belong under 'missing'"
            raise RwmError(f"The mapping {'; '.join(faults) or 'has no groups'}.", hint)
        for group, source in mapping.groups.items():
            width = schema.group(group).stop - schema.group(group).start
            if source.kind in (*ORIENTATIONS, "accelerometer") and group != "projected_gravity":
                fault = f"The mapping gives '{group}' the kind {source.kind}, which is one of projected_gravity only."
                raise RwmError(fault, f"{group}: another kind")
            fixed = source.kind not in ORIENTATIONS
            if fixed and isinstance(source.scale, list) and len(source.scale) != width:
                fault = f"The mapping gives '{group}' {len(source.scale)} scales, it has {width} columns."
                raise RwmError(fault, "one number for all, or one each")
        for source in filter(None, [mapping.groups.get("projected_gravity"), mapping.orientation]):
            if source.kind == "quaternion" and source.order is None:
                raise RwmError("The mapping gives no order of its quaternion.", "order: wxyz or order: xyzw")
        if mapping.orientation and mapping.orientation.kind not in ORIENTATIONS:
            fault = f"The mapping's orientation is of the kind {mapping.orientation.kind}."
            raise RwmError(fault, f"kind: {' or '.join(ORIENTATIONS)}")
        self._order = {
            **dict.fromkeys(PER_JOINT, _order(mapping.joints, robot.joints, "joints")),
            **dict.fromkeys(PER_LEG, _order(mapping.legs, robot.legs, "legs")),
        }
        self.missing = set(mapping.missing)
        self.notes: list[str] = []
        self.computed = {name for name, source in mapping.groups.items() if source.kind == "drive"}

    def rows(self, fetch: Callable[[str, Source], np.ndarray], where: str, stamps_s: np.ndarray | float) -> np.ndarray:
        """Return the rows ``(T, width)``.

        Args:
            fetch: Returns the values of a group's source, ``(T, n)``.
            where: Name of the recording in errors.
            stamps_s: Times of the rows ``(T,)``, or the time between two of them.

        Raises:
            RwmError: A source differs in size from its group, a value is not finite, or orientation, angular velocity
                and gravity contradict each other.
        """
        recorded = {g: (s, fetch(g, s)) for g, s in self.mapping.groups.items() if s.kind != "drive"}
        if not recorded:
            raise RwmError(f"{where}: the mapping names only computed groups.")
        count = len(next(iter(recorded.values()))[1])
        rows = np.zeros((count, self.schema.width), np.float32)
        stamps = np.arange(count) * stamps_s if isinstance(stamps_s, float) else np.asarray(stamps_s)
        for group, (source, values) in recorded.items():
            columns = self.schema.group(group)
            wanted = (count, values.shape[-1] if source.kind in ORIENTATIONS else columns.stop - columns.start)
            if values.shape != wanted or count == 0:
                raise RwmError(f"{where}: '{group}' has shape {values.shape}, expected {wanted}.", "the mapping file")
        for group, values in self._turned(recorded, fetch, where, stamps).items():
            rows[:, self.schema.group(group)] = self._converted(group, self.mapping.groups[group], values)
        for group in self.computed:
            parts = (rows[:, self.schema.group(g)].astype(np.float64) for g in ("action", "joint_pos", "joint_vel"))
            rows[:, self.schema.group(group)] = drive_torque(self.robot, *parts)
        check_finite(rows, self.schema, f"{where}:")
        self._check_upright(rows, where)
        return rows

    def _turned(
        self,
        recorded: dict[str, tuple[Source, np.ndarray]],
        fetch: Callable[[str, Source], np.ndarray],
        where: str,
        stamps_s: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return scaled values with gravity and base velocities in the base frame."""
        values = {group: part * np.asarray(source.scale) for group, (source, part) in recorded.items()}
        gravity, gyro = self.mapping.groups.get("projected_gravity"), values.get("base_ang_vel")
        source, measured = self.mapping.orientation, None
        if gravity and gravity.kind in ORIENTATIONS:
            source, measured = gravity, values["projected_gravity"]
        elif source:
            measured = fetch("orientation", source) * np.asarray(source.scale)
        axes = self._axes(source, measured, gyro, where, stamps_s) if source and measured is not None else None
        for group in ("base_lin_vel", "base_ang_vel"):
            if group in recorded and recorded[group][0].frame == "world":
                if axes is None:
                    hint = "projected_gravity: {columns: [qw, qx, qy, qz], kind: quaternion}, or orientation: likewise"
                    raise RwmError(f"{where}: '{group}' is in the world frame; no orientation is mapped.", hint)
                values[group] = np.einsum("nji,nj->ni", axes, values[group])
        if gravity and gravity.kind in ORIENTATIONS and axes is not None:
            values["projected_gravity"] = -axes[:, 2]
        if gravity and gravity.kind == "accelerometer":
            values["projected_gravity"] = gravity_from_accelerometer(values["projected_gravity"], gyro, stamps_s)
            self._note("projected_gravity is an estimate: the accelerometer averaged over a second before and after")
        return values

    def _axes(
        self, source: Source, measured: np.ndarray, gyro: np.ndarray | None, where: str, stamps_s: np.ndarray
    ) -> np.ndarray:
        width, order = measured.shape[1], source.order or ""
        if width not in ((4,) if source.kind == "quaternion" else (2, 3)):
            raise RwmError(f"{where}: a {source.kind} has {width} columns.", "4 for a quaternion, 2 or 3 for angles")
        angular = self.mapping.groups.get("base_ang_vel")
        comparable = self.mapping.check and gyro is not None and angular is not None and angular.frame != "world"
        if source.kind == "quaternion" and comparable and gyro is not None:
            self._note(check_order(measured, order, gyro, stamps_s, where))
        axes = axes_of(measured, source.kind, order, where)
        if source.kind == "roll_pitch_yaw" and comparable and gyro is not None and width == 3:
            self._note(f"the orientation by its angles {compared(turn_error(axes, gyro, stamps_s))}")
        return axes

    def _note(self, text: str) -> None:
        """Keep what was found in the first episode."""
        if not any(note[:20] == text[:20] for note in self.notes):
            self.notes.append(text)

    def _check_upright(self, rows: np.ndarray, where: str) -> None:
        mean = float(rows[:, self.schema.group("projected_gravity")][:, 2].mean())
        if self.mapping.check and mean > UPSIDE_DOWN:
            fault = f"{where}: projected_gravity z is {mean:.2f} on average, as on the robot's back; level is -1."
            raise RwmError(fault, "scale: -1 or another order of the orientation; check: false, if it lies on its back")

    def _converted(self, group: str, source: Source, values: np.ndarray) -> np.ndarray:
        default = np.array(self.robot.default_joint_pos)
        if group in self._order:
            values = values[:, self._order[group]]
        if group == "projected_gravity":  # Only its direction counts, whatever the unit.
            values = values / np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-9)
        if source.subtract_default:
            values = values - default
        if source.kind == "target_position":
            values = (values - default) / self.robot.action_scale
        if source.kind == "threshold":
            values = (values > source.threshold).astype(np.float64)
        if group == "action" and self.mapping.action_index == "next":
            values = np.concatenate((np.zeros_like(values[:1]), values[:-1]))
        return values


def drive_torque(robot: RobotSpec, action: np.ndarray, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return kp (scale * action - q) - kd qd within the effort limit, N m; positions relative to the default pose."""
    drive = robot.drive
    stiffness, damping, limit = map(np.array, (drive.stiffness, drive.damping, drive.effort_limit))
    torque = stiffness * (robot.action_scale * action - position) - damping * velocity
    return np.asarray(torque.clip(-limit, limit))


def _order(recorded: list[str] | None, ours: list[str], what: str) -> list[int]:
    """Return the index of each of ``ours`` in the recording."""
    recorded = ours if recorded is None else recorded
    if sorted(recorded) != sorted(ours):
        fault = f"The mapping's {what} are {', '.join(recorded)}; the robot's are {', '.join(ours)}."
        named = [name for name in robot_folders() if sorted(getattr(load_robot(name), what)) == sorted(recorded)]
        raise RwmError(fault, f"--robot {' or '.join(named)}" if named else "")
    return [recorded.index(name) for name in ours]
