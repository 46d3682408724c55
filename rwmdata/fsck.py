"""Check a home folder: leftovers of crashes are recognised and can be repaired, damage is reported."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rwmdata.atomic import (
    ASIDE_MARK,
    LOCK_MARK,
    PARTS_MARK,
    TEMPORARY,
    TMP_MARK,
    abandoned,
    lock_of,
    paths_under,
    put_back,
)
from rwmdata.catalog import ROWS_FILE, Dataset, checksum
from rwmdata.checksums import CHANGED, damage_of, is_changed
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.locks import exclusive, held
from rwmdata.manifest import MANIFEST_FILE
from rwmdata.mapped_rows import are_damaged
from rwmdata.runs import Run

NAMED = 5
"""Odd lines of a file that are listed."""
DAMAGED_LINES = "are no metrics, or other ones than were written, and are left out"


@dataclass(frozen=True)
class Trouble:
    """One fault."""

    path: Path
    what: str
    repair: str
    """What :func:`repair` does about it; empty where a person has to decide."""


def check_home(home: Home, deep: bool = True) -> list[Trouble]:
    """Return what is wrong under a home folder.

    Args:
        home: The folder.
        deep: Also read every shard and checkpoint and compare checksums.
    """
    troubles = [*_leftovers(home.data_dir), *_leftovers(home.runs_dir), *_lost_links(home.data_dir)]
    troubles += _joined_parts(home.data_dir)
    for folder in _folders(home.data_dir, "*"):
        troubles += _dataset_troubles(folder, deep)
    for folder in _folders(home.runs_dir, "*/*"):
        troubles += _run_troubles(folder, deep)
    return troubles


def repair(home: Home, troubles: list[Trouble]) -> list[Path]:
    """Repair what can be repaired; return the paths removed or changed."""
    repairable = [trouble for trouble in troubles if trouble.repair]
    for trouble in repairable:
        if trouble.path.name.startswith(LOCK_MARK):
            with suppress(RwmError), exclusive(trouble.path, str(trouble.path), ""):
                pass  # Leaving the block removes it.
        elif trouble.path.name.startswith(ASIDE_MARK):
            replaced = trouble.path.with_name(trouble.path.name.removeprefix(ASIDE_MARK))
            with suppress(RwmError), exclusive(lock_of(replaced), str(replaced), ""):
                put_back(replaced)
        elif trouble.path.name == "run.json":
            with suppress(RwmError):  # It may have been removed meanwhile.
                run = Run.open(trouble.path.parent)
                if run.gone:  # still
                    run.update(status="interrupted", error="the process that ran it is gone")
        elif trouble.path.is_dir() and not trouble.path.is_symlink():
            shutil.rmtree(trouble.path, ignore_errors=True)
        else:
            trouble.path.unlink(missing_ok=True)
    return [trouble.path for trouble in repairable if not _stands(trouble.path)]


def _stands(path: Path) -> bool:
    """Return whether what was to be repaired is there as before."""
    if path.name == "run.json":
        try:
            return Run.open(path.parent).gone
        except RwmError:
            return False
    return path.exists() or path.is_symlink()


def _folders(root: Path, pattern: str) -> list[Path]:
    return sorted(p for p in root.glob(pattern) if p.is_dir() and not p.name.startswith("."))


def _leftovers(root: Path) -> list[Trouble]:
    """Return what dead writers left; files of a process that may still run, here or elsewhere, are not touched."""
    hidden = sorted(p for p in paths_under(root) if p.name.startswith((TMP_MARK, LOCK_MARK, ASIDE_MARK)))
    kinds = {mark: [p for p in hidden if p.name.startswith(mark)] for mark in (TMP_MARK, LOCK_MARK, ASIDE_MARK)}
    paths = [p for p in kinds[TMP_MARK] if not any(TEMPORARY.fullmatch(q.name) for q in p.parents)]
    text = "left by a writer that was cut off; nothing of it was committed"
    left = [Trouble(path, text, "remove it") for path in paths if abandoned(path)]
    locks = [p for p in kinds[LOCK_MARK] if p.is_file() and not held(p)]
    left += [Trouble(path, "the lock of a writer that was cut off", "remove it") for path in locks]
    for aside in kinds[ASIDE_MARK]:
        path = aside.with_name(aside.name.removeprefix(ASIDE_MARK))
        if not held(lock_of(path)):
            what = f"the old {path.name}, whose replacement was cut off"
            left.append(Trouble(aside, what, "remove it" if path.exists() else "put it back"))
    return left


def _joined_parts(root: Path) -> list[Trouble]:
    """Return the parts of exports that are whole datasets by now; others wait until their export is made again."""
    folders = [p for p in sorted(root.glob(f"{PARTS_MARK}*")) if (root / p.name.removeprefix(PARTS_MARK)).exists()]
    left = [p for p in folders if not held(root / f"{LOCK_MARK}{p.name.removeprefix('.')}")]
    return [Trouble(path, "the parts of an export that is whole by now", "remove it") for path in left]


def _lost_links(root: Path) -> list[Trouble]:
    links = [path for path in sorted(root.glob("*")) if path.is_symlink() and not path.exists()]
    return [Trouble(path, f"is a link to {path.readlink()}, which is not there", "") for path in links]


def _dataset_troubles(folder: Path, deep: bool) -> list[Trouble]:
    if not (folder / MANIFEST_FILE).is_file():
        return [Trouble(folder, f"has no {MANIFEST_FILE}, so it is not a dataset", "")]
    try:
        dataset = Dataset.open(folder)
    except RwmError as exc:
        return [Trouble(folder, exc.message, "")]
    troubles = []
    try:
        dataset.verify_manifest()
    except RwmError as exc:
        troubles.append(Trouble(folder / MANIFEST_FILE, exc.message, ""))
    for path, shard in zip(dataset.shard_paths, dataset.manifest.shards, strict=True):
        if not path.is_file():
            troubles.append(Trouble(path, "is missing", ""))
        elif deep and (damage := _shard_damage(path, shard.sha256)):
            troubles.append(Trouble(path, damage, ""))
    if deep and are_damaged(folder / ROWS_FILE):
        troubles.append(Trouble(folder / ROWS_FILE, CHANGED, "remove it; it is made again from the shards"))
    return troubles


def _shard_damage(path: Path, expected: str) -> str | None:
    try:
        return None if checksum(path) == expected else CHANGED
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"


def _run_troubles(folder: Path, deep: bool) -> list[Trouble]:
    file = folder / "run.json"
    if not file.is_file():
        return [Trouble(folder, "has no run.json, so it is not a run", "")]
    try:
        run = Run.open(folder)
    except RwmError as exc:
        return [Trouble(folder, exc.message, "")]
    troubles = _damaged(run.kept_files) if deep else []
    troubles += _records(run)
    for part in _folders(folder / "replay", "*"):  # Of an online training that is under way.
        troubles += _dataset_troubles(part, deep)
    if run.gone:
        repair = "mark it interrupted; rwm runs resume goes on"
        troubles.append(Trouble(file, "says running, but its process is gone", repair))
    return troubles


def _records(run: Run) -> list[Trouble]:
    """Return which of a run's records cannot be read; the last line of the metrics may be cut off by a crash."""
    troubles = []
    for path in sorted(p for p in run.path.glob("*.json") if not p.name.startswith(TMP_MARK)):
        try:
            if is_changed(json.loads(path.read_bytes())):
                troubles.append(Trouble(path, CHANGED, ""))
        except (OSError, ValueError) as exc:
            troubles.append(Trouble(path, f"cannot be read: {one_line(exc)}", ""))
    try:
        odd = run.metrics_file.damaged(run.meta.status == "finished")
    except OSError as exc:
        return [*troubles, Trouble(run.metrics_file.path, f"cannot be read: {exc.strerror}", "")]
    if odd:
        which = f"{', '.join(map(str, odd[:NAMED]))}{', ...' if len(odd) > NAMED else ''}"
        troubles.append(Trouble(run.metrics_file.path, f"lines {which} {DAMAGED_LINES}", ""))
    return troubles


def _damaged(files: list[Path]) -> list[Trouble]:
    """Return which of the files that carry checksums are not as they were written."""
    troubles = []
    for path in files:
        try:
            damage = damage_of(path)
        except OSError as exc:
            damage = f"cannot be read: {exc.strerror}"
        if damage:
            troubles.append(Trouble(path, damage, ""))
    return troubles
