"""Isaac Lab recorder files (HDF5), read: each ``data/demo_N`` with its nested groups is an episode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from rwmdata.config import one_line
from rwmdata.episodes import Episode, check_finite, is_truncated
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.clock import check_rate
from rwmdata.formats.hdf5_links import refuse_foreign_links, stored
from rwmdata.formats.isaaclab import QUATERNIONS, Origin, RecordedDemo, Recorder, origin_of, quaternion_order
from rwmdata.formats.mapping import PER_LEG, Source
from rwmdata.formats.resample import SAME_RATE, to_control_rate
from rwmdata.joint_order import joint_orders, read_joint_order, robots_like, suspected_order, suspected_robot
from rwmdata.motion import agreement, joint_changes, steps_of
from rwmdata.optional import optional_import
from rwmdata.robots import RobotSpec, robot_folders
from rwmdata.text import quoted

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".hdf5", ".h5", ".hdf")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SYSTEM = {part: f"obs/system_{part}" for part in ("state", "action", "contact", "termination")}
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
"""What h5py raises for a damaged file; which one depends on the damage."""
SAMPLE_ROWS = 20_000
"""Rows of a file that its conventions are found from."""
SHOWN_GROUPS = 5
HIGHEST_HZ = 1e6
FEWEST_STEPS = 40
"""With fewer a recording's rate is not checked."""
MOVES_ALIKE = 0.8
"""Least cosine between the changes of joint positions and joint velocities that says anything of the rate. Walks, falls
and random actions in the embedded simulator have 0.95 and more, random actions in Newton 0.89."""


class Hdf5Format(Format):
    """Isaac Lab recorder files; every demo is an episode.

    Without a mapping two layouts are understood: the observation groups ``system_*``, and what the stock recorder
    writes (``initial_state``, ``states``, ``actions``). The latter has neither torques, which are computed from the
    robot's drive, nor contacts and terminations, which are written as zeros; the provenance says so. A recording at a
    higher rate than the robot's control rate is brought to that.

    Raises:
        RwmError: h5py is not installed, or an option has a value that it cannot have.
    """

    label = "HDF5"
    reads = ("joint_order", "quaternions", "rate_hz")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._h5py, self._request = _h5py(), request
        if request.quaternions not in (None, *QUATERNIONS):
            raise RwmError(f"Unknown --quaternions '{request.quaternions}'; choices: {', '.join(QUATERNIONS)}.")
        if request.rate_hz is not None and not 0 < request.rate_hz < HIGHEST_HZ:
            raise RwmError(f"--rate-hz is {request.rate_hz:g}; rows per second are between 0 and {HIGHEST_HZ:g}.")
        self._joints = read_joint_order(self.robot, request.joint_order or "robot")
        mapping = request.mapping
        self._hz = request.rate_hz or (mapping.rate_hz if mapping else None)

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether it is named like an HDF5 file, or begins like one."""
        if source.suffix.lower() in SUFFIXES:
            return True
        try:
            return source.is_file() and source.open("rb").read(len(SIGNATURE)) == SIGNATURE
        except OSError:
            return False

    @classmethod
    def robot_of(cls, sources: Sequence[Path]) -> str | None:
        """Return the robot that files name as their task, or that the joints of their first demos fit; else None.

        Raises:
            RwmError: A file cannot be read, or they are of different robots.
        """
        names = set()
        for file in sources:
            with _opened(_h5py(), file) as content:
                demos, _ = demos_of(content, file)
                names.add(_named(origin_of(content).task) or _posed(content["data"], demos))
        if len(names) > 1:
            texts = sorted(name or "unknown" for name in names)
            raise RwmError(f"The files are of several robots: {', '.join(texts)}.", "convert them separately")
        return names.pop()

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the demos of a file as episodes.

        Raises:
            RwmError: It is not HDF5, is cut short or holds no demo with a step, a demo lacks a dataset or has one of
                another shape, a value is not finite, or the rate, the order of quaternions or that of the joints does
                not fit the motion. File, demo and dataset are named.
        """
        with _opened(self._h5py, file) as content, np.errstate(over="ignore"):
            names, empty = demos_of(content, file)
            if empty:
                self.notes.append(f"{file.name}: left out, as they hold no step: {', '.join(empty)}")
            origin, data = origin_of(content), content["data"]
            self._note_origin(origin, file)
            recorder = self._recorder(data, names, origin, file)
            hz = self._rate(data, names, recorder, origin, file)
            for name in names:
                where = f"{file}, {name}"
                rows = self._rows(data[name], recorder, where, hz)
                stamps, dt_s = np.arange(len(rows)) / hz, self.robot.control_dt_s
                rows = to_control_rate(rows, stamps, self.schema, dt_s, where, self._action_index(recorder))
                yield Episode(rows, is_truncated(rows))

    @property
    def _control_hz(self) -> float:
        return 1 / self.robot.control_dt_s

    def _note_origin(self, origin: Origin, file: Path) -> None:
        """Say which robot a file was taken to be of, where nobody said."""
        named = _named(origin.task)
        if self._request.robot_given and named not in (None, self.robot.name):
            self.notes.append(f"{file.name}: read as {self.robot.title}, though its task is {origin.task}")
        elif not self._request.robot_given:
            reason = f"its task is {origin.task}" if named else "no robot was named"
            reason += "" if named or not origin.task else f", and its task {origin.task} is of no known one"
            self.notes.append(f"{file.name}: read as {self.robot.title}: {reason}")

    def _recorder(self, data: h5py.Group, names: list[str], origin: Origin, file: Path) -> Recorder | None:
        """Return a reader of the stock recorder's layout; None for another layout.

        Raises:
            RwmError: Joints or quaternions do not fit.
        """
        if self.assembler or _group(data[names[0]], "obs/system_state") is not None:
            return None
        joints = len(self.robot.joints)
        demos = [recorded_demo(data[n], joints, f"{file}, {n}") for n in sampled(data, names)]
        if not self._request.joint_order:
            self._check_pose(np.median(np.concatenate([d.states["joint_position"] for d in demos]), axis=0), file)
        order, note = self._request.quaternions, None
        if order is None:
            order, note = quaternion_order(demos, origin.quaternions, str(file))
        self.notes += [f"{file.name}: {note}"] if note else []
        self.computed.add("joint_torque")
        self.missing |= {*PER_LEG, "termination"}
        return Recorder(self.robot, self.schema, order, self._joints)

    def _check_pose(self, pose: np.ndarray, file: Path) -> None:
        """Check a median pose ``(J,)``.

        Raises:
            RwmError: It is that of another robot, or of the joints in another order.
        """
        if order := suspected_order(pose, self.robot, self._joints):
            fault = f"{file}: the joints are not in the order of {self.robot.title}: their median pose fits the order "
            raise RwmError(f"{fault}{', '.join(joint_orders(self.robot)[order])}.", f"--joint-order {order}")
        if other := suspected_robot(pose, self.robot):
            fault = f"{file}: the joints are not those of {self.robot.title}: their median pose fits {other.title}."
            raise RwmError(fault, f"--robot {quoted(other.name)}, or --joint-order robot to take them as they are")

    def _action_index(self, recorder: Recorder | None) -> Literal["next", "previous"]:
        """Return whether a file pairs a state with the action taken in it, or with the one that led to it."""
        if self.assembler:
            return self.assembler.mapping.action_index
        return "next" if recorder else "previous"

    def _rate(self, data: h5py.Group, names: list[str], recorder: Recorder | None, origin: Origin, file: Path) -> float:
        """Return the rate of a file, Hz: the one given, else what it says, else the robot's control rate.

        Raises:
            RwmError: Its joints move as at another rate, it says another rate than was given and its joints do not
                show which is right, or it is slower than the robot's control rate.
        """
        given = self._hz
        hz = given or origin.hz or self._control_hz
        source = "given" if given else "said" if origin.hz else "presumed"
        parts = [self._rows(data[n], recorder, f"{file}, {n}", hz) for n in sampled(data, names)]
        length = np.array([len(part) for part in parts])
        steps = steps_of(np.cumsum(length) - length, length)
        found = agreement(*joint_changes(np.concatenate(parts), self.schema, steps), 1 / hz)
        shows = len(steps) >= FEWEST_STEPS and found.cosine > MOVES_ALIKE
        if shows and found.other_unit and not self._unchecked:
            fault = f"{file} is {source} to be recorded at {hz:.4g} Hz, but its joints move by their velocities as "
            fault += f"at {hz * found.factor:.3g} Hz (or joint velocities are not in rad/s)."
            raise RwmError(fault, f"--rate-hz {hz * found.factor:.0f}, or a mapping with the right units")
        if given and origin.hz and not shows and not self._unchecked:
            check_rate(given, [origin.hz], f"{file}", "the file says")
        if hz < self._control_hz * (1 - SAME_RATE):
            fault = f"{file} was recorded at {hz:.4g} Hz, slower than the robot's control rate of "
            fault += f"{self._control_hz:.4g} Hz; the rows in between are not known."
            raise RwmError(fault, "a recording at the control rate or above")
        if abs(hz / self._control_hz - 1) > SAME_RATE:
            self.notes.append(f"{file.name}: recorded at {hz:.4g} Hz, brought to {self._control_hz:.4g} Hz")
        return hz

    @property
    def _unchecked(self) -> bool:
        return self.assembler is not None and not self.assembler.mapping.check

    def _rows(self, demo: h5py.Group, recorder: Recorder | None, where: str, hz: float) -> np.ndarray:
        """Return a demo's rows ``(T, width)`` at the rate ``hz`` that they were recorded at."""
        if self.assembler:
            return self.assembler.rows(lambda group, source: _mapped(demo, source, where), where, 1 / hz)
        if recorder:
            rows = recorder.rows(recorded_demo(demo, len(self.robot.joints), where))
        else:
            rows = self._system(demo, where)
        return check_finite(rows, self.schema, f"{where}:")

    def _system(self, demo: h5py.Group, where: str) -> np.ndarray:
        """Return rows from the observation groups; each index holds a state and the action that produced it."""
        rows = np.zeros((len(_get(demo, SYSTEM["state"], where)), self.schema.width), np.float32)
        for part, path in SYSTEM.items():
            columns = getattr(self.schema, part)
            rows[:, columns] = _shaped(_get(demo, path, where), rows[:, columns].shape, path, where)
        return rows


def demos_of(content: h5py.File, file: Path) -> tuple[list[str], list[str]]:
    """Return the names of the demos in an open file, in the order of their numbers: those with steps, those without.

    Raises:
        RwmError: There is none, or none has a step.
    """
    data = content.get("data", {})
    found = [(m[1], int(m[2]), name) for name in data if (m := re.fullmatch(r"([A-Za-z]+)_?(\d+)", name))]
    stems = {stem for stem, *_ in found}
    numbered = sorted((number, name) for stem, number, name in found if stem == "demo" or len(stems) == 1)
    if not numbered:
        inside = ", ".join(f"data/{name}" for name in list(data)[:SHOWN_GROUPS]) or ", ".join(content) or "none"
        raise RwmError(f"{file} holds no data/demo_N, nor other numbered groups of one name in data: {inside}.")
    empty = [name for _, name in numbered if _steps(data[name]) == 0]
    if len(empty) == len(numbered):
        raise RwmError(f"{file}: no demo holds a step: {', '.join(empty)}.", "a recording that was not stopped at once")
    return [name for _, name in numbered if name not in empty], empty


def sampled(data: h5py.Group, names: list[str]) -> list[str]:
    """Return the first demos, of ``SAMPLE_ROWS`` steps together."""
    before = np.cumsum([0, *(_steps(data[name]) or 1 for name in names)])
    return [name for name, count in zip(names, before, strict=False) if count < SAMPLE_ROWS]


def recorded_demo(demo: h5py.Group, joints: int, where: str) -> RecordedDemo:
    """Return a demo of the stock recorder as it was recorded; without an initial state it begins after an action.

    Raises:
        RwmError: It is of another layout, or a dataset has another shape.
    """
    assets = _group(demo, "states/articulation")
    if assets is None or "actions" not in demo:
        raise _unknown_layout(demo, where)
    asset = "robot" if "robot" in assets or len(assets) != 1 else next(iter(assets))
    actions = _shaped(_get(demo, "actions", where), (None, joints), "actions", where)
    sizes = {"root_pose": 7, "root_velocity": 6, "joint_position": joints, "joint_velocity": joints}
    first, later = (f"{part}/articulation/{asset}" for part in ("initial_state", "states"))
    states = {k: _shaped(_get(demo, f"{later}/{k}", where), (len(actions), n), k, where) for k, n in sizes.items()}
    if _group(demo, first) is not None:
        for key, width in sizes.items():
            start = _shaped(_get(demo, f"{first}/{key}", where), (1, width), f"{first}/{key}", where)
            states[key] = np.concatenate((start, states[key]))
        actions = np.concatenate((np.zeros_like(actions[:1]), actions))
    return RecordedDemo(actions, states)


@contextmanager
def _opened(h5py: ModuleType, file: Path) -> Iterator[h5py.File]:
    """Give an open file; what goes wrong in it is an error of the file.

    Raises:
        RwmError: It is missing, not HDF5, cut short, damaged, or parts of it lie in other files.
    """
    if not file.is_file():
        raise RwmError(f"There is no file {file}.", "rwm data convert FILE.hdf5 --name NAME")
    try:
        with h5py.File(file, "r") as content:
            refuse_foreign_links(content, file)
            yield content
    except DAMAGE as exc:
        reason, hint = one_line(exc), ""
        if "truncated file" in reason:
            raise RwmError(
                f"{file} is cut short: the recording was not closed, or not copied whole.",
                "copy it again, or leave it out",
            ) from exc
        if "clear file consistency flags" in reason:
            hint = f"h5clear --status {quoted(file)}"
        raise RwmError(f"{file} cannot be read as HDF5: {reason}.", hint) from exc


def _h5py() -> ModuleType:
    with optional_import("HDF5 files need the package h5py", extra="hdf5"):
        import h5py
    return h5py


def _named(task: str | None) -> str | None:
    """Return the known robot that a task's name holds: ``Isaac-Velocity-Flat-Unitree-Go2-v0`` is of go2."""
    text = re.sub(r"[^a-z0-9]", "", (task or "").lower())
    held = [name for name in robot_folders() if re.sub(r"[^a-z0-9]", "", name.lower()) in text]
    return max(held, key=len, default=None)


def _posed(data: h5py.Group, names: list[str]) -> str | None:
    """Return the only known robot that the joints of the stock recorder's demos fit; else None."""
    found = [_group(data[name], "states/articulation/robot/joint_position") for name in sampled(data, names)]
    poses = [stored(values, str(data.file.filename)) for values in found if hasattr(values, "shape")]
    if not poses or len({pose.shape[1:] for pose in poses}) != 1 or poses[0].ndim != 2:
        return None
    like: list[RobotSpec] = robots_like(np.median(np.concatenate(poses), axis=0))
    return like[0].name if like else None


def _steps(demo: h5py.Group) -> int | None:
    """Return the number of steps that a demo holds; None where its layout does not say."""
    if "actions" in demo:
        return len(demo["actions"])
    recorded = {name for name in demo if name != "initial_state"}
    return None if recorded else 0


def _group(demo: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """Return what lies at a path; None where nothing does, or where a dataset is on the way."""
    item = demo
    for part in path.split("/"):
        if not hasattr(item, "keys") or part not in item:
            return None
        item = item[part]
    return item


def _datasets(demo: h5py.Group) -> str:
    """Return the names and shapes of a demo's datasets."""
    names: list[str] = []
    demo.visititems(lambda name, item: names.append(f"{name} {item.shape}") if hasattr(item, "shape") else None)
    return ", ".join(sorted(names)) or "none"


def _unknown_layout(demo: h5py.Group, where: str) -> RwmError:
    flat = hasattr(demo.get("states"), "shape")
    like = "has robomimic's layout, a flat 'states' and observations by name" if flat else "has a layout of its own"
    wanted = "neither 'states/articulation/robot' with 'actions' (Isaac Lab's recorder) nor 'obs/system_*'"
    fault = f"{where} {like}, {wanted}; its datasets: {_datasets(demo)}."
    return RwmError(fault, "--mapping FILE.yaml says which columns are what")


def _mapped(demo: h5py.Group, source: Source, where: str) -> np.ndarray:
    values = _get(demo, source.path, where)
    return source.select(values.reshape(len(values), -1))


def _get(demo: h5py.Group, path: str, where: str) -> np.ndarray:
    found = _group(demo, path) if path else None
    if found is None or not hasattr(found, "shape"):
        raise RwmError(f"{where} has no dataset '{path}'; it has {_datasets(demo)}.", "--mapping")
    return stored(found, where)


def _shaped(values: np.ndarray, shape: tuple[int | None, ...], path: str, where: str) -> np.ndarray:
    fits = values.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, values.shape, strict=True))
    if not fits or len(values) == 0:
        wanted = ", ".join("T" if s is None else str(s) for s in shape)
        raise RwmError(f"{where}: '{path}' has shape {values.shape}, expected ({wanted}).", "--mapping")
    return values
