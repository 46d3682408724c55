"""Runs and datasets in one archive to hand over: the files, their checksums, the lineage and a card to read."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rwmdata.atomic import TEMPORARY, TMP_MARK, abandoned, commit_file
from rwmdata.card import card_of
from rwmdata.catalog import Dataset, checksum
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.manifest import MANIFEST_FILE
from rwmdata.progress import Progress, silent
from rwmdata.runs import DIGEST, Run
from rwmdata.text import quoted

FORMAT = "rwm-pack-1"
INDEX_FILE, CARD_FILE = "rwm-pack.json", "README.md"
ROLES = {"dataset": (), "model": ("model", "train"), "policy": ("policy", "train"), "judge": ("model", "train")}
"""Roles that a parent may have in lineage, and the kinds of runs that have it; a dataset is none."""
NOT_PACKED = re.compile(r"\..*|wandb|state-before\.pt")
"""Files and folders of a run that stay: hidden ones, another log's own, and the spare of the state."""
BLOCK_BYTES = 1 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in an archive, so that the same content gives the same archive."""
FILE_MODE = 0o100644 << 16


class PackedFile(BaseModel):
    """One file of an archive."""

    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class PackedPart(BaseModel):
    """A dataset or a run in an archive."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    """``dataset``, or the kind of the run."""
    name: str
    """The dataset's name, or the run's id."""

    @property
    def folder(self) -> str:
        """Where it lies, in a home as in an archive."""
        return f"data/{self.name}" if self.kind == "dataset" else f"runs/{self.kind}/{self.name}"


class LeftOut(BaseModel):
    """A parent that an archive does not hold."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    name: str
    why: Literal["not wanted", "not in this home", "a file"]


class PackIndex(BaseModel):
    """Content of ``rwm-pack.json``; of its parts the packed one is last, each behind those it was made from."""

    model_config = ConfigDict(extra="forbid")
    format: str
    parts: list[PackedPart] = Field(min_length=1)
    left_out: list[LeftOut]
    files: dict[str, PackedFile]
    """Every file but the index itself, by its path in the archive."""


@dataclass(frozen=True)
class Packed:
    """What was packed."""

    file: Path
    sha256: str
    size: int
    index: PackIndex


def pack(
    home: Home,
    what: Run | Dataset,
    out: Path,
    without: tuple[str, ...] = (),
    licence: str = "unknown",
    progress: Progress = silent,
) -> Packed:
    """Write a run or a dataset, and what it was made from, to one archive; equal content gives equal archives.

    Args:
        home: Where a run's parents are.
        what: The run or the dataset.
        out: The archive, a zip file without compression; written whole or not at all.
        without: Parents to leave out, with their own: ``dataset``, ``model`` or ``policy``.
        licence: Identifier of the licence, as Hugging Face has it: ``mit``, ``cc-by-4.0``.
        progress: Called with the bytes written.

    Raises:
        RwmError: ``out`` exists or cannot be written, the run is at work, or a file is missing or damaged.
    """
    if unknown := [role for role in without if role not in ROLES]:
        raise RwmError(f"'{unknown[0]}' is no parent; parents: {', '.join(ROLES)}.", "--without dataset")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,49}", licence):
        raise RwmError(f"'{licence}' is no identifier of a licence.", "--license mit, cc-by-4.0, apache-2.0 or other")
    if out.exists():
        raise RwmError(f"{out} exists already; nothing was written.", "--out FILE")
    parts, left_out = _lineage(home, what, without)
    files = dict(file for part in parts for file in _files_of(part))
    described = [_part_of(part) for part in parts]
    card = card_of(parts, [f"{p.kind} {p.name}" for p in left_out], licence).encode()
    total = sum(path.stat().st_size for path in files.values())
    for left in out.parent.glob(f"{TMP_MARK}*"):
        named = TEMPORARY.fullmatch(left.name)
        if named and named["name"] == out.name and abandoned(left):
            left.unlink(missing_ok=True)
    index = PackIndex(format=FORMAT, parts=described, left_out=left_out, files={})

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            index.files[CARD_FILE] = _add(archive, CARD_FILE, iter([card]))
            done = 0
            for name, path in sorted(files.items()):
                index.files[name] = _add(archive, name, _blocks(path))
                done += index.files[name].size
                progress(done, total, {})
            _check_shards(parts, index)
            _add(archive, INDEX_FILE, iter([index.model_dump_json(indent=1).encode() + b"\n"]))

    commit_file(out, write)
    return Packed(out, checksum(out), out.stat().st_size, index)


def _lineage(home: Home, what: Run | Dataset, without: tuple[str, ...]) -> tuple[list[Run | Dataset], list[LeftOut]]:
    """Return what a run or a dataset was made from, itself last, and the parents that are left out."""
    parts: list[Run | Dataset] = []
    left_out: list[LeftOut] = []
    known = home.readable_runs()[0] if isinstance(what, Run) else []

    def collect(part: Run | Dataset) -> None:
        for role, name in _parents(part).items():
            if _left_out(role, name, role in without) in left_out:
                continue
            parent = None if role in without else _find(home, known, role, name)
            if parent is None:
                left_out.append(_left_out(role, name, role in without))
            elif parent.path not in [p.path for p in parts]:
                collect(parent)
        parts.append(part)

    collect(what)
    return parts, left_out


def _left_out(role: str, name: str, unwanted: bool) -> LeftOut:
    """Say which parent is not packed; of what lies outside the home only the name is kept."""
    if DIGEST in name:
        return LeftOut(kind=role, name=Path(name.partition(DIGEST)[0]).name, why="a file")
    return LeftOut(kind=role, name=Path(name).name, why="not wanted" if unwanted else "not in this home")


def _parents(part: Run | Dataset) -> dict[str, str]:
    """Return a run's parents by role; an online training's dataset is the one that its replay was exported to."""
    if isinstance(part, Dataset):
        return {}
    if part.meta.status == "running":
        what = "stopped without a word" if part.gone else "is still running"
        raise RwmError(
            f"{part.kind} {part.id} {what}.", f"rwm runs resume {quoted(part.id)}, or rwm data fsck --repair"
        )
    named = {role: name for role, name in part.meta.parents.items() if name and role in ROLES}
    exported = part.meta.summary.get("exported")
    return {"dataset": exported, **named} if isinstance(exported, str) else named


def _find(home: Home, known: list[Run], role: str, name: str) -> Run | Dataset | None:
    if role == "dataset":
        folder = home.data_dir / name
        return Dataset.open(folder) if (folder / MANIFEST_FILE).is_file() and "/" not in name else None
    return next((run for run in known if run.id == name and run.kind in ROLES[role]), None)


def _part_of(part: Run | Dataset) -> PackedPart:
    if isinstance(part, Dataset):
        return PackedPart(kind="dataset", name=part.name)
    return PackedPart(kind=part.kind, name=part.id)


def _files_of(part: Run | Dataset) -> Iterator[tuple[str, Path]]:
    """Yield the files of a dataset (manifest and shards) or a run, by their paths in an archive."""
    folder = _part_of(part).folder
    if isinstance(part, Dataset):
        for path in (part.path / MANIFEST_FILE, *part.shard_paths):
            if not path.is_file():
                raise RwmError(f"Shard {path} is missing.", f"rwm data validate {quoted(part.name)}")
            yield f"{folder}/{path.name}", path
        return
    for path in sorted(part.path.rglob("*")):
        inside = path.relative_to(part.path)
        if path.is_file() and not any(NOT_PACKED.fullmatch(name) for name in inside.parts):
            yield f"{folder}/{inside.as_posix()}", path


def _check_shards(parts: list[Run | Dataset], index: PackIndex) -> None:
    for part in (part for part in parts if isinstance(part, Dataset)):
        for shard in part.manifest.shards:
            if index.files[f"{_part_of(part).folder}/{shard.file}"].sha256 != shard.sha256:
                text = f"{part.path / shard.file} has another checksum than when it was written"
                raise RwmError(f"{text}; nothing was packed.", f"rwm data validate {quoted(part.name)}")


def _add(archive: zipfile.ZipFile, name: str, blocks: Iterator[bytes]) -> PackedFile:
    """Write one file of an archive and return its size and checksum."""
    info, digest, size = zipfile.ZipInfo(name, EPOCH), hashlib.sha256(), 0
    info.create_system, info.external_attr = 3, FILE_MODE
    with archive.open(info, "w", force_zip64=True) as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            size += len(block)
    return PackedFile(size=size, sha256=digest.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
