"""Isaac Lab recorder files (HDF5) in: ``data/demo_N`` with nested groups, an episode each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from rwmdata.catalog import Dataset
from rwmdata.config import one_line
from rwmdata.episodes import Episode, is_truncated
from rwmdata.errors import RwmError
from rwmdata.formats.mapping import PER_LEG, Assembler, Mapping, Source, check_finite, drive_torque, load_mapping, notes
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter

SUFFIXES = (".hdf5", ".h5")
SYSTEM = {
    "state": "obs/system_state",
    "action": "obs/system_action",
    "contact": "obs/system_contact",
    "termination": "obs/system_termination",
}
ROBOT_STATES = "articulation/robot"
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
"""What h5py raises when the inside of a file is damaged: any of these, whatever the damage."""


def convert_hdf5(
    home: Home,
    sources: list[Path],
    name: str,
    robot: str = "anymal_d",
    mapping: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Turn Isaac Lab recorder files into a dataset; every demo is an episode.

    Without a mapping two layouts are understood: the observation groups ``system_*``, and what the stock recorder
    writes (``initial_state``, ``states``, ``actions``). The latter knows neither torques, which are computed from the
    robot's drive, nor contacts, which are written as zeros; the provenance says so.

    Raises:
        RwmError: h5py is missing, a file is not HDF5 or holds no demo, a demo lacks a dataset or has one of another
            shape, or a value is not finite. File, demo and dataset are named and nothing is written.
    """
    try:
        import h5py
    except ImportError as exc:
        raise RwmError("HDF5 files need the package h5py, which is not installed.", "pip install 'rwm[hdf5]'") from exc
    spec = load_robot(robot)
    said = load_mapping(mapping) if mapping else None
    schema = Schema.from_robot(spec, said.extension if said else [])
    reader = DemoReader(spec, schema, said)
    provenance: dict[str, Any] = {"source": "rwm data convert", "files": [f.name for f in sources]}
    with DatasetWriter(home.data_dir, name, spec.name, schema, 1 / spec.control_dt_s, provenance, seed) as writer:
        for i, path in enumerate(sources):
            if not path.is_file():
                raise RwmError(f"There is no file {path}.", "rwm data convert FILE.hdf5 --name NAME")
            try:
                with h5py.File(path, "r") as file, np.errstate(over="ignore"):
                    for demo in demos_of(file, path):
                        rows = reader.read(file["data"][demo], f"{path}, {demo}")
                        writer.append(Episode(rows, is_truncated(rows)))
            except DAMAGE as exc:
                raise RwmError(f"{path} cannot be read as HDF5: {one_line(exc)}.") from exc
            if progress:
                progress(i + 1, len(sources), {"rows": float(writer.rows)})
        provenance |= {
            "missing_groups": sorted(reader.missing),
            "computed_groups": sorted(reader.computed),
            "notes": notes(reader.missing, reader.computed),
        }
        return writer.commit()


def demos_of(file: Any, path: Path) -> list[str]:
    """Return the demos of an open file in the order of their number.

    Raises:
        RwmError: There is none.
    """
    numbered = [(int(m[1]), name) for name in file.get("data", {}) if (m := re.fullmatch(r"demo_(\d+)", name))]
    if not numbered:
        raise RwmError(f"{path} holds no data/demo_N; its groups: {', '.join(file) or 'none'}.")
    return [name for _, name in sorted(numbered)]


class DemoReader:
    """Turns demos into row matrices.

    Attributes:
        missing: Groups written as zeros so far.
        computed: Groups made from others so far.
    """

    def __init__(self, robot: RobotSpec, schema: Schema, mapping: Mapping | None) -> None:
        self.robot, self.schema = robot, schema
        self._assembler = Assembler(robot, schema, mapping) if mapping else None
        self.missing: set[str] = self._assembler.missing if self._assembler else set()
        self.computed: set[str] = self._assembler.computed if self._assembler else set()

    def read(self, demo: Any, where: str) -> np.ndarray:
        """Return a demo's rows ``(T, width)``.

        Raises:
            RwmError: See :func:`convert_hdf5`.
        """
        if self._assembler:
            return self._assembler.rows(lambda group, source: _mapped(demo, source, where), where)
        known = "obs" in demo and "system_state" in demo["obs"]
        rows = self._system(demo, where) if known else self._recorded(demo, where)
        return check_finite(rows, self.schema, where)

    def _system(self, demo: Any, where: str) -> np.ndarray:
        """Return rows from the observation groups: each index holds a state and the action that produced it."""
        rows = np.zeros((len(_get(demo, SYSTEM["state"], where)), self.schema.width), np.float32)
        for part in ("state", "action", "contact", "termination"):
            columns = getattr(self.schema, part)
            rows[:, columns] = _shaped(_get(demo, SYSTEM[part], where), rows[:, columns].shape, SYSTEM[part], where)
        return rows

    def _recorded(self, demo: Any, where: str) -> np.ndarray:
        """Return rows from the stock recorder: a start state, then states after and actions of every step."""
        actions = _shaped(_get(demo, "actions", where), (None, len(self.robot.joints)), "actions", where)
        sizes = {
            "root_pose": 7,
            "root_velocity": 6,
            "joint_position": actions.shape[1],
            "joint_velocity": actions.shape[1],
        }
        parts = {}
        for key, width in sizes.items():
            first, later = f"initial_state/{ROBOT_STATES}/{key}", f"states/{ROBOT_STATES}/{key}"
            start = _shaped(_get(demo, first, where), (1, width), first, where)
            parts[key] = np.concatenate((start, _shaped(_get(demo, later, where), (len(actions), width), later, where)))
        axes = rotation(parts["root_pose"][:, 3:])
        position = parts["joint_position"] - np.array(self.robot.default_joint_pos)
        action = np.concatenate((np.zeros_like(actions[:1]), actions))
        groups = {
            "base_lin_vel": np.einsum("nij,ni->nj", axes, parts["root_velocity"][:, :3]),
            "base_ang_vel": np.einsum("nij,ni->nj", axes, parts["root_velocity"][:, 3:]),
            "projected_gravity": -axes[:, 2],
            "joint_pos": position,
            "joint_vel": parts["joint_velocity"],
            "joint_torque": drive_torque(self.robot, action, position, parts["joint_velocity"]),
            "action": action,
        }
        self.computed.add("joint_torque")
        self.missing |= set(PER_LEG)
        rows = np.zeros((len(action), self.schema.width), np.float32)
        for group, values in groups.items():
            rows[:, self.schema.group(group)] = values
        return rows


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrices, base to world, of quaternions (w, x, y, z): ``(n, 4)`` -> ``(n, 3, 3)``."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _mapped(demo: Any, source: Source, where: str) -> np.ndarray:
    values = _get(demo, source.path, where)
    values = values.reshape(len(values), -1)
    if source.columns is None:
        return values
    if not isinstance(source.columns, tuple):
        raise RwmError(f"Columns of '{source.path}' are {source.columns}; an HDF5 dataset needs [first, behind last].")
    return values[:, slice(*source.columns)]


def _get(demo: Any, path: str, where: str) -> np.ndarray:
    if path not in demo or not hasattr(demo[path], "shape"):
        found: list[str] = []
        demo.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        raise RwmError(f"{where} has no dataset '{path}'; it has {', '.join(sorted(found)) or 'none'}.", "--mapping")
    return np.asarray(demo[path], np.float64)


def _shaped(values: np.ndarray, shape: tuple[int | None, ...], path: str, where: str) -> np.ndarray:
    fits = values.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, values.shape, strict=True))
    if not fits or len(values) == 0:
        wanted = ", ".join("T" if s is None else str(s) for s in shape)
        raise RwmError(f"{where}: '{path}' has shape {values.shape}, expected ({wanted}).", "--mapping")
    return values
