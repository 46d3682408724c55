"""Isaac Lab recorder files (HDF5) in: ``data/demo_N`` with nested groups, an episode each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress
from rwmdata.robots import Frozen, RobotSpec, load_robot, one_line
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter

SUFFIXES = (".hdf5", ".h5")
PER_JOINT = ("joint_pos", "joint_vel", "joint_torque", "action")
PER_LEG = ("thigh_contact", "foot_contact")
SYSTEM = {"state": "obs/system_state", "action": "obs/system_action", "contact": "obs/system_contact",
          "termination": "obs/system_termination"}  # fmt: skip
ROBOT_STATES = "articulation/robot"


class Source(Frozen):
    """Where one column group comes from, inside a demo."""

    path: str
    """Dataset ``(T, n)`` inside the demo: ``obs/joint_pos``."""
    columns: tuple[int, int] | None = None
    """First column and the one behind the last; all when None."""
    scale: float = 1.0
    """Factor on the values: to the group's unit, or -1 for an opposite sign."""
    subtract_default: bool = False
    """The values are absolute joint positions; the robot's default pose is taken away."""


class Hdf5Mapping(Frozen):
    """What a mapping file says: our column groups, and where a demo has them."""

    groups: dict[str, Source]
    """By group: base_lin_vel, ..., action, thigh_contact, foot_contact, termination."""
    missing: list[str] = []
    """Groups that were not recorded; written as zeros and named in the dataset's provenance."""
    joints: list[str] | None = None
    """Order of the joints in the file; the robot's own when None."""
    legs: list[str] | None = None
    action_index: Literal["next", "previous"] = Field("next")
    """Whether the action of an index is taken in the state of that index (``next``: states recorded before the step)
    or produced it (``previous``: last action, or states recorded after the step)."""


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
    schema = Schema.from_robot(spec)
    reader = DemoReader(spec, schema, load_mapping(mapping) if mapping else None)
    provenance: dict[str, Any] = {"source": "rwm data convert", "files": [f.name for f in sources]}
    with DatasetWriter(home.data_dir, name, spec.name, schema, 1 / spec.control_dt_s, provenance, seed) as writer:
        for i, path in enumerate(sources):
            if not path.is_file():
                raise RwmError(f"There is no file {path}.", "rwm data convert FILE.hdf5 --name NAME")
            try:
                with h5py.File(path, "r") as file:
                    for demo in demos_of(file, path):
                        rows = reader.read(file["data"][demo], f"{path}, {demo}")
                        writer.append_episode(rows, truncated=bool(rows[-1, -1] < 0.5))
            except OSError as exc:
                raise RwmError(f"{path} cannot be read as HDF5: {exc}.") from exc
            if progress:
                progress(i + 1, len(sources), {"rows": float(writer.rows)})
        provenance |= {
            "missing_groups": sorted(reader.missing), "computed_groups": sorted(reader.computed),
            "notes": reader.notes(),
        }  # fmt: skip
        return writer.commit()


def load_mapping(path: Path) -> Hdf5Mapping:
    """Read a mapping file (YAML).

    Raises:
        RwmError: It is missing or does not validate; every fault is listed.
    """
    try:
        return Hdf5Mapping(**yaml.safe_load(path.read_text()))
    except FileNotFoundError as exc:
        raise RwmError(f"There is no mapping file {path}.", "--mapping FILE.yaml") from exc
    except (ValidationError, yaml.YAMLError, TypeError) as exc:
        raise RwmError(f"{path} is not a valid mapping: {one_line(exc)}.") from exc


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

    def __init__(self, robot: RobotSpec, schema: Schema, mapping: Hdf5Mapping | None) -> None:
        self.robot, self.schema, self.mapping = robot, schema, mapping
        self.missing: set[str] = set()
        self.computed: set[str] = set()
        self._order = {
            **dict.fromkeys(PER_JOINT, _order(mapping.joints if mapping else None, robot.joints, "joints")),
            **dict.fromkeys(PER_LEG, _order(mapping.legs if mapping else None, robot.legs, "legs")),
        }
        if mapping:
            self._check(mapping)

    def notes(self) -> list[str]:
        """Return what a reader of the dataset should know, one sentence each."""
        found = [f"{group} was not recorded and is zero" for group in sorted(self.missing)]
        return found + [f"{group} was computed from the robot's drive" for group in sorted(self.computed)]

    def read(self, demo: Any, where: str) -> np.ndarray:
        """Return a demo's rows ``(T, width)``.

        Raises:
            RwmError: See :func:`convert_hdf5`.
        """
        if self.mapping:
            rows = self._mapped(demo, where, self.mapping)
        elif "obs" in demo and "system_state" in demo["obs"]:
            rows = self._system(demo, where)
        else:
            rows = self._recorded(demo, where)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise RwmError(f"{where}: row {row}, column '{self.schema.csv_names[column]}' is {rows[row, column]}.")
        return rows

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
        sizes = {"root_pose": 7, "root_velocity": 6, "joint_position": actions.shape[1],
                 "joint_velocity": actions.shape[1]}  # fmt: skip
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

    def _mapped(self, demo: Any, where: str, mapping: Hdf5Mapping) -> np.ndarray:
        rows: np.ndarray | None = None
        for group, source in mapping.groups.items():
            values = _get(demo, source.path, where)
            values = values.reshape(len(values), -1)
            if source.columns:
                values = values[:, slice(*source.columns)]
            columns = self.schema.group(group)
            if rows is None:
                rows = np.zeros((len(values), self.schema.width), np.float32)
            values = _shaped(values, rows[:, columns].shape, source.path, where)
            if group in self._order:
                values = values[:, self._order[group]]
            if source.subtract_default:
                values = values - np.array(self.robot.default_joint_pos)
            values = values * source.scale
            if group == "action" and mapping.action_index == "next":
                values = np.concatenate((np.zeros_like(values[:1]), values[:-1]))
            rows[:, columns] = values
        self.missing |= set(mapping.missing)
        assert rows is not None
        return rows

    def _check(self, mapping: Hdf5Mapping) -> None:
        said = [*mapping.groups, *mapping.missing]
        unknown = [g for g in said if g not in self.schema.groups]
        unsaid = [g for g in self.schema.groups if g not in said]
        faults = [f"{what} {', '.join(names)}" for what, names in
                  (("does not know", unknown), ("says nothing of", unsaid)) if names]  # fmt: skip
        if faults or not mapping.groups:
            raise RwmError(
                f"The mapping {'; '.join(faults) or 'has no groups'}.",
                f"groups are {', '.join(self.schema.groups)}; those not recorded belong under 'missing'",
            )


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrices, base to world, of quaternions (w, x, y, z): ``(n, 4)`` -> ``(n, 3, 3)``."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def drive_torque(robot: RobotSpec, action: np.ndarray, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return kp (scale * action - q) - kd qd within the effort limit, N m; positions relative to the default pose."""
    drive = robot.drive
    torque = drive.stiffness * (robot.action_scale * action - position) - drive.damping * velocity
    return torque.clip(-drive.effort_limit, drive.effort_limit)


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


def _order(found: list[str] | None, wanted: list[str], what: str) -> list[int]:
    """Return where each of ``wanted`` is in the file."""
    if found is None:
        return list(range(len(wanted)))
    if sorted(found) != sorted(wanted):
        raise RwmError(f"The mapping's {what} are {', '.join(found)}; the robot's are {', '.join(wanted)}.")
    return [found.index(name) for name in wanted]
