"""Validation of a dataset: one pass that reports every fault."""

from __future__ import annotations

from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rwmdata.alignment import check_alignment
from rwmdata.catalog import Dataset, Episodes, checksum, read_shard
from rwmdata.config import one_line
from rwmdata.consistency import Recording, contradictions, suspicions
from rwmdata.episode_ends import GRAVITY_TURNED, find_episode_starts
from rwmdata.errors import RwmError
from rwmdata.machine import available_threads
from rwmdata.manifest import MANIFEST_FILE, ShardInfo
from rwmdata.plausibility import implausible
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.spikes import Spikes, far_spikes, lone_spikes
from rwmdata.splits import Splits, missing_windows

GRAVITY_TOLERANCE = 1e-3
SHOWN = 5
NOISY_SHARE = 0.01
"""More rows with a jump of gravity alone are noise, not episodes' ends: time-outs come every thousand rows or so."""
EXAMPLE_ROWS = 40_000
"""About so many rows of every shard are checked for consistency, in whole episodes or ..."""
PIECE_ROWS = 4_000
"""... pieces of so many rows, where episodes are longer."""


@dataclass(frozen=True)
class Fault:
    """One finding."""

    severity: Literal["error", "warning"]
    check: str
    where: str
    message: str


def validate(dataset: Dataset) -> list[Fault]:
    """Return all faults of a dataset, errors first; an empty list means it is sound.

    Errors: shards (missing, damaged, changed, rows, columns), episode bounds other than the manifest's, values that are
    not finite, gravity that is no unit vector, contacts other than 0 and 1, terminations and splices inside episodes,
    values far outside of what their column holds, gravity that points up or does not turn with the base, joint
    positions that are not the integral of their velocities.
    Warnings: splits without a training window, misaligned actions, joints or actions in another order, groups that were
    not recorded, values beyond the robot's limits, rows that stand out from their neighbours, stuck sensors, repeated
    rows and episodes, shards that differ from each other.
    """
    faults = list(_check_files(dataset))
    if not faults:
        matrix = np.empty((dataset.rows, dataset.schema.width), np.float32)
        try:
            dataset.read_into(matrix)
        except RwmError as exc:
            faults.append(Fault("error", "shard", "dataset.json", exc.message))
    if not faults:
        faults += [*_check_bookkeeping(dataset), *_check_values(dataset, matrix)]
        if any(f.check == "finite" or (f.check, f.where) == ("episodes", "dataset.json") for f in faults):
            faults += _check_episodes(dataset, matrix)
        else:
            spikes = _check_spikes(dataset, matrix)
            faults += [fault for fault, _ in spikes]
            faults += _check_episodes(dataset, matrix, {int(row) for _, rows in spikes for row in rows})
            if not any(fault.severity == "error" for fault, _ in spikes):  # A spike decides what explains most.
                faults += _check_alignment(dataset, matrix)
            faults += _check_consistency(dataset, matrix)
            faults += [Fault("warning", *finding) for finding in implausible(dataset, matrix)]
    return sorted(faults, key=lambda f: f.severity)


def glance(dataset: Dataset) -> list[Fault]:
    """Return what is wrong with a dataset's values as far as its manifest and its first shard show: in a moment.

    Raises:
        RwmError: A shard cannot be read.
    """
    faults = [_spike("error", spikes) for spikes in far_spikes(dataset)]
    rows = np.empty((dataset.manifest.shards[0].rows, dataset.schema.width), np.float32)
    if read_shard(dataset.shard_paths[0], dataset.schema, rows) == len(rows):
        faults += [fault for fault in _check_consistency(dataset, rows) if fault.severity == "error"]
    return faults


def _check_consistency(dataset: Dataset, matrix: np.ndarray) -> Iterator[Fault]:
    """Check some episodes of every shard that the first rows ``(n, width)`` hold; a finding is reported once."""
    robot: RobotSpec | None = None
    with suppress(RwmError):
        robot = load_robot(dataset.robot)
    missing, told = dataset.manifest.provenance.get("missing_groups", []), set()
    for rows, length in _examples(dataset, matrix):
        start = np.cumsum(length) - length
        recording = Recording(rows, dataset.schema, start, length, dataset.control_hz, missing, robot)
        faults = [Fault("error", *finding) for finding in contradictions(recording)]
        faults += [Fault("warning", *finding) for finding in suspicions(recording)]
        yield from (fault for fault in faults if (fault.check, fault.where) not in told)
        told |= {(fault.check, fault.where) for fault in faults}


def _examples(dataset: Dataset, matrix: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give rows ``(n, width)`` and lengths of some episodes of every shard that the first rows of a dataset hold."""
    begin, (start, length) = 0, _pieces(dataset.episodes)
    for shard in dataset.manifest.shards:
        end = min(begin + shard.rows, len(matrix))
        # Starts ascend, so only those between the bounds are looked at.
        near = slice(np.searchsorted(start, begin), np.searchsorted(start, end))
        inside = near.start + np.flatnonzero(start[near] + length[near] <= end)
        chosen = inside[:: max(1, shard.rows // EXAMPLE_ROWS)]
        if len(chosen):
            yield np.concatenate([matrix[start[k] : start[k] + length[k]] for k in chosen]), length[chosen]
        begin += shard.rows


def _pieces(episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Return first row and length of the episodes, each ``(n,)``, long ones in pieces."""
    count = np.maximum(-(-episodes.length // PIECE_ROWS), 1)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    length = np.minimum(PIECE_ROWS, np.repeat(episodes.length, count) - number * PIECE_ROWS)
    return np.repeat(episodes.start, count) + number * PIECE_ROWS, length


def _spike(severity: Literal["error", "warning"], spikes: Spikes) -> Fault:
    return Fault(severity, "spike", f"row {spikes.rows[0]}, column {spikes.column}", str(spikes))


def _check_spikes(dataset: Dataset, matrix: np.ndarray) -> list[tuple[Fault, np.ndarray]]:
    """Return the spikes and their rows; a column is reported once."""
    far, missing = far_spikes(dataset, matrix), dataset.manifest.provenance.get("missing_groups", [])
    columns = {spikes.column for spikes in far}
    lone = [spikes for spikes in lone_spikes(dataset, matrix, missing) if spikes.column not in columns]
    found = [(_spike("error", spikes), spikes.rows) for spikes in far]
    return found + [(_spike("warning", spikes), spikes.rows) for spikes in lone]


def _check_files(dataset: Dataset) -> Iterator[Fault]:
    """Check that each shard exists, is what was written, and has as many rows as the manifest says."""
    shards = dataset.manifest.shards
    try:
        dataset.verify_manifest()
    except RwmError as exc:
        yield Fault("error", "checksum", MANIFEST_FILE, exc.message)
    with ThreadPoolExecutor(available_threads(), "shard") as pool:
        for faults in pool.map(_file_faults, dataset.shard_paths, shards):
            yield from faults
    total = sum(shard.rows for shard in shards)
    if total != dataset.rows:
        yield Fault("error", "rows", "dataset.json", f"says {dataset.rows} rows, its shards hold {total}")


def _file_faults(path: Path, shard: ShardInfo) -> list[Fault]:
    if not path.is_file():
        return [Fault("error", "shard", shard.file, "the file is missing")]
    text = "the content is not what was written (half-written or changed)"
    try:
        faults = [] if checksum(path) == shard.sha256 else [Fault("error", "checksum", shard.file, text)]
    except OSError as exc:
        return [Fault("error", "shard", shard.file, f"cannot be read: {exc.strerror}")]
    try:
        rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as exc:
        return [*faults, Fault("error", "shard", shard.file, f"is damaged: {one_line(exc)}")]
    if rows != shard.rows:
        faults.append(Fault("error", "rows", shard.file, f"holds {rows} rows, the manifest says {shard.rows}"))
    return faults


def _check_bookkeeping(dataset: Dataset) -> Iterator[Fault]:
    episodes = dataset.episodes
    bounds = np.concatenate(([0], episodes.start + episodes.length))
    if not np.array_equal(episodes.start, bounds[:-1]) or bounds[-1] != dataset.rows:
        yield Fault("error", "episodes", "dataset.json", "episode bounds do not cover the rows without gap or overlap")
        return
    at_rest = dataset.scan().select("episode", "step", "terminated", "behaviour").collect()
    expected_episode = np.repeat(np.arange(len(episodes)), episodes.length)
    expected_step = np.arange(dataset.rows) - np.repeat(episodes.start, episodes.length)
    for name, expected in (("episode", expected_episode), ("step", expected_step)):
        wrong = (at_rest[name].to_numpy() != expected).nonzero()[0]
        if len(wrong):
            yield Fault("error", "episodes", f"row {wrong[0]}", f"{name} is not what the manifest's bounds imply")
    last = at_rest[(bounds[1:] - 1).tolist()]
    for name, listed in (("terminated", episodes.terminated.tolist()), ("behaviour", episodes.behaviour)):
        if differ := [k for k, (a, b) in enumerate(zip(listed, last[name].to_list(), strict=True)) if a != b]:
            yield Fault("error", "episodes", f"episode {differ[0]}", f"{name} is not what its last row says")
    ids = sorted(i for split in dataset.manifest.splits.values() for i in split)
    if ids != list(range(len(episodes))):
        yield Fault("error", "splits", "dataset.json", "the splits do not hold every episode exactly once")


def _check_values(dataset: Dataset, matrix: np.ndarray) -> Iterator[Fault]:
    schema, names = dataset.schema, dataset.schema.csv_names
    bad = np.argwhere(~np.isfinite(matrix))
    for row, column in bad[:SHOWN]:
        yield Fault("error", "finite", f"row {row}, column {names[column]}", f"is {matrix[row, column]}")
    if len(bad) > SHOWN:
        yield Fault("error", "finite", "dataset", f"{len(bad)} values are not finite in all")
    norm = np.linalg.norm(matrix[:, schema.group("projected_gravity")], axis=1)
    off = (np.abs(norm - 1) > GRAVITY_TOLERANCE).nonzero()[0]
    if len(off) and "projected_gravity" not in dataset.manifest.provenance.get("missing_groups", []):
        text = f"projected gravity has length {norm[off[0]]:.4f}, expected 1 ({len(off)} rows)"
        yield Fault("error", "gravity", f"row {off[0]}", text)
    contact = matrix[:, schema.contact]
    wrong = np.argwhere((contact != 0) & (contact != 1))
    if len(wrong):
        row, column = wrong[0]
        name = names[schema.contact.start + column]
        yield Fault("error", "contact", f"row {row}, column {name}", f"is {contact[row, column]}, expected 0 or 1")


def _check_episodes(dataset: Dataset, matrix: np.ndarray, spikes: Set[int] = frozenset()) -> Iterator[Fault]:
    """Check terminations and splices; jumps to and from the rows of ``spikes`` are none."""
    episodes = dataset.episodes
    last = np.zeros(dataset.rows, bool)
    last[episodes.start + episodes.length - 1] = True
    inside = ((matrix[:, -1] > 0.5) & ~last).nonzero()[0]
    if len(inside):
        text = f"terminated before the episode's last row ({len(inside)} rows)"
        yield Fault("error", "termination", f"row {inside[0]}", text)
    known = {*episodes.start.tolist(), *spikes, *(row + 1 for row in spikes)}
    starts = find_episode_starts(matrix, dataset.schema, 1 / dataset.control_hz)
    splices = [start for start in starts if start.row not in known]
    turned = [start for start in splices if start.reason == GRAVITY_TURNED]
    if len(turned) > NOISY_SHARE * dataset.rows:
        text = (
            f"gravity changes by more than the angular velocity says in {len(turned)} rows: noise, or an accelerometer"
        )
        yield Fault("warning", "gravity", "projected_gravity columns", text)
        splices = [start for start in splices if start.reason != GRAVITY_TURNED]
    for splice in splices[:SHOWN]:
        yield Fault("error", "splice", f"row {splice.row}", f"a new episode begins inside one: {splice.reason}")
    if len(splices) > SHOWN:
        yield Fault("error", "splice", "dataset", f"{len(splices)} splices in all")
    if short := int((episodes.length < 2).sum()):
        yield Fault("warning", "length", "dataset", f"{short} episodes have a single row and teach no transition")
    manifest = dataset.manifest
    splits = Splits(manifest.splits, manifest.split_rows)
    if windows := missing_windows(manifest.episodes.length, splits, dataset.name):
        yield Fault("warning", "length", MANIFEST_FILE, windows)


def _check_alignment(dataset: Dataset, matrix: np.ndarray) -> Iterator[Fault]:
    result = check_alignment(dataset, matrix)
    if result is not None and not result.aligned:
        shift, share, side = result.best, result.explained, "later" if result.best > 0 else "earlier"
        text = f"the action {abs(shift)} row {side} explains the next state better ({share[shift]:.2f} of the variance"
        text += f" against {share[0]:.2f}); shift the action columns by {-shift}"
        text += f", or of a log: action_index: {'previous' if shift > 0 else 'next'} in its mapping"
        yield Fault("warning", "alignment", "action columns", text)
