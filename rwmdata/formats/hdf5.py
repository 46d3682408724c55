"""Isaac Lab recorder files (HDF5), read: each ``data/demo_N`` with its nested groups is an episode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwmdata.config import one_line
from rwmdata.episodes import Episode, check_finite, is_truncated
from rwmdata.errors import RwmError
from rwmdata.formats.base import Format, Request
from rwmdata.formats.mapping import PER_LEG, Source, drive_torque
from rwmdata.optional import optional_import

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".hdf5", ".h5")
SYSTEM = {part: f"obs/system_{part}" for part in ("state", "action", "contact", "termination")}
ROBOT_STATES = "articulation/robot"
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
"""What h5py raises for a damaged file; which one depends on the damage."""


class Hdf5Format(Format):
    """Isaac Lab recorder files; every demo is an episode.

    Without a mapping two layouts are understood: the observation groups ``system_*``, and what the stock recorder
    writes (``initial_state``, ``states``, ``actions``). The latter has neither torques, which are computed from the
    robot's drive, nor contacts, which are written as zeros; the provenance says so.

    Raises:
        RwmError: h5py is not installed.
    """

    label = "HDF5"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        with optional_import("HDF5 files need the package h5py", extra="hdf5"):
            import h5py
        self._h5py = h5py

    @classmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether it is named like an HDF5 file."""
        return source.suffix in SUFFIXES

    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the demos of a file as episodes.

        Raises:
            RwmError: It is not HDF5 or holds no demo, a demo lacks a dataset or has one of another shape, or a value
                is not finite. File, demo and dataset are named.
        """
        if not file.is_file():
            raise RwmError(f"There is no file {file}.", "rwm data convert FILE.hdf5 --name NAME")
        try:
            with self._h5py.File(file, "r") as content, np.errstate(over="ignore"):
                for name in demos_of(content, file):
                    rows = self._rows(content["data"][name], f"{file}, {name}")
                    yield Episode(rows, is_truncated(rows))
        except DAMAGE as exc:
            raise RwmError(f"{file} cannot be read as HDF5: {one_line(exc)}.") from exc

    def _rows(self, demo: h5py.Group, where: str) -> np.ndarray:
        """Return a demo's rows ``(T, width)``."""
        if self.assembler:
            return self.assembler.rows(lambda group, source: _mapped(demo, source, where), where)
        known = "obs" in demo and "system_state" in demo["obs"]
        rows = self._system(demo, where) if known else self._recorded(demo, where)
        return check_finite(rows, self.schema, f"{where}:")

    def _system(self, demo: h5py.Group, where: str) -> np.ndarray:
        """Return rows from the observation groups; each index holds a state and the action that produced it."""
        rows = np.zeros((len(_get(demo, SYSTEM["state"], where)), self.schema.width), np.float32)
        for part, path in SYSTEM.items():
            columns = getattr(self.schema, part)
            rows[:, columns] = _shaped(_get(demo, path, where), rows[:, columns].shape, path, where)
        return rows

    def _recorded(self, demo: h5py.Group, where: str) -> np.ndarray:
        """Return rows from the stock recorder: an initial state, then the actions and next states of all steps."""
        joints = len(self.robot.joints)
        actions = _shaped(_get(demo, "actions", where), (None, joints), "actions", where)
        sizes = {"root_pose": 7, "root_velocity": 6, "joint_position": joints, "joint_velocity": joints}
        parts = {}
        for key, width in sizes.items():
            first, later = f"initial_state/{ROBOT_STATES}/{key}", f"states/{ROBOT_STATES}/{key}"
            start = _shaped(_get(demo, first, where), (1, width), first, where)
            parts[key] = np.concatenate((start, _shaped(_get(demo, later, where), (len(actions), width), later, where)))
        axes = rotation(parts["root_pose"][:, 3:])
        position = parts["joint_position"] - np.array(self.robot.default_joint_pos)
        action = np.concatenate((np.zeros_like(actions[:1]), actions))
        velocity, twist = parts["joint_velocity"], np.split(parts["root_velocity"], 2, axis=1)
        linear, angular = (np.einsum("nij,ni->nj", axes, part) for part in twist)
        torque = drive_torque(self.robot, action, position, velocity)
        groups = {"base_lin_vel": linear, "base_ang_vel": angular, "projected_gravity": -axes[:, 2], "action": action}
        groups |= {"joint_pos": position, "joint_vel": velocity, "joint_torque": torque}
        self.computed.add("joint_torque")
        self.missing |= set(PER_LEG)
        rows = np.zeros((len(action), self.schema.width), np.float32)
        for group, values in groups.items():
            rows[:, self.schema.group(group)] = values
        return rows


def demos_of(content: h5py.File, file: Path) -> list[str]:
    """Return the names of the demos in an open file, in the order of their numbers.

    Raises:
        RwmError: There is none.
    """
    numbered = [(int(m[1]), name) for name in content.get("data", {}) if (m := re.fullmatch(r"demo_(\d+)", name))]
    if not numbered:
        raise RwmError(f"{file} holds no data/demo_N; its groups: {', '.join(content) or 'none'}.")
    return [name for _, name in sorted(numbered)]


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrices, base to world, of quaternions (w, x, y, z): ``(n, 4)`` -> ``(n, 3, 3)``."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _mapped(demo: h5py.Group, source: Source, where: str) -> np.ndarray:
    values = _get(demo, source.path, where)
    return source.select(values.reshape(len(values), -1))


def _get(demo: h5py.Group, path: str, where: str) -> np.ndarray:
    if path not in demo or not hasattr(demo[path], "shape"):
        names: list[str] = []
        demo.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        raise RwmError(f"{where} has no dataset '{path}'; it has {', '.join(sorted(names)) or 'none'}.", "--mapping")
    return np.asarray(demo[path], np.float64)


def _shaped(values: np.ndarray, shape: tuple[int | None, ...], path: str, where: str) -> np.ndarray:
    fits = values.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, values.shape, strict=True))
    if not fits or len(values) == 0:
        wanted = ", ".join("T" if s is None else str(s) for s in shape)
        raise RwmError(f"{where}: '{path}' has shape {values.shape}, expected ({wanted}).", "--mapping")
    return values
