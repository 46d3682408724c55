"""Archives of ``rwm runs pack`` taken apart: every file is checked, none is executed, nothing is overwritten."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rwmdata.atomic import commit_folder
from rwmdata.catalog import Dataset, checksum
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.manifest import MANIFEST_FILE
from rwmdata.packing import BLOCK_BYTES, CARD_FILE, FORMAT, INDEX_FILE, NOT_PACKED, PackedPart, PackIndex
from rwmdata.progress import Progress, silent
from rwmdata.runs import KINDS, Run

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Of a dataset or a run."""
FILE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:]{1,200}")
MOST_FILES = 100_000
LONGEST_PATH = 600
LARGEST_INDEX_BYTES = 64 << 20
RUN_FILE = "run.json"
ANOTHER = "ask for the archive again, or --home FOLDER"


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked.

    Attributes:
        index: What the archive says that it holds.
        added: Parts that are new in the home.
        present: Parts that were there already, with the same content.
    """

    index: PackIndex
    added: list[PackedPart]
    present: list[PackedPart]


def unpack(home: Home, file: Path, progress: Progress = silent) -> Unpacked:
    """Add the datasets and runs of an archive to a home, each whole or not at all.

    Before anything is visible all files have been compared with the archive's checksums. A part that the home has
    already is left as it is if it is the same.

    Args:
        home: The home.
        file: The archive.
        progress: Called with the bytes written.

    Raises:
        RwmError: The file is no archive, is damaged or holds anything but the files of datasets and runs; there is no
            room; or the home has another dataset or run of a name in it. Nothing was written then.
    """
    if not file.is_file():
        raise RwmError(f"There is no archive {file}.", "rwm runs pack RUN --out FILE")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = _checked_entries(archive, file)
            index = _read_index(archive, entries, file)
            present = [part for part in index.parts if _is_here(home, part, index, file)]
            added = [part for part in index.parts if part not in present]
            _refuse_full_disk(home, sum(index.files[n].size for part in added for n in _names(index, part)))
            _write(home, archive, index, added, file, progress)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, EOFError) as exc:
        fault = f"{file} is no archive of rwm runs pack, or it is damaged: {one_line(exc)}"
        raise RwmError(f"{fault}; nothing was written.", ANOTHER) from exc
    return Unpacked(index, added, present)


def _checked_entries(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's entries by name; its own word on sizes and kinds is checked here.

    Raises:
        RwmError: One of them is no plain file inside ``data/<name>/`` or ``runs/<kind>/<id>/``; all faults are listed.
    """
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise RwmError(f"{file} holds {len(infos)} files, more than {MOST_FILES}.", ANOTHER)
    faults, entries, seen = [], {}, set()
    for info in infos:
        if fault := _fault_of(info):
            faults.append(f"{info.orig_filename[:80]!r} {fault}")
        if info.filename.casefold() in seen:
            faults.append(f"{info.filename[:80]!r} is there twice")
        seen.add(info.filename.casefold())
        entries[info.filename] = info
    # Entries that share bytes would unpack to more than the archive is.
    if sum(info.file_size for info in infos) > file.stat().st_size:
        faults.append("its files are larger than itself")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise RwmError(f"{file} is refused: {'; '.join(faults[:3])}{more}; nothing was written.", ANOTHER)
    return entries


def _fault_of(info: zipfile.ZipInfo) -> str:
    """Say what is wrong with one entry; empty where nothing is."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.is_dir():
        return "is a link, a device or a folder, not a file"
    if info.flag_bits & 0x1 or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        return "is compressed or encrypted"
    if info.orig_filename != info.filename:
        return "has a name with a null byte or another separator"
    if info.filename in (CARD_FILE, INDEX_FILE):
        return ""
    first, *rest = info.filename.split("/")
    depth = {"data": 1, "runs": 2}.get(first)
    if depth is None or len(rest) <= depth or (first == "runs" and rest[0] not in KINDS):
        return f"is not inside data/NAME/ or runs/{'|'.join(KINDS)}/ID/"
    if not NAME.fullmatch(rest[depth - 1]) or (first == "data" and len(rest) != 2):
        return "is not inside a dataset or a run"
    names = rest[depth:]
    if any(not FILE_NAME.fullmatch(n) or n != n.strip() or NOT_PACKED.fullmatch(n) for n in names):
        return "has a name that no file of a dataset or a run has"
    return "has too long a name" if len(info.filename) > LONGEST_PATH else ""


def _read_index(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], file: Path) -> PackIndex:
    """Return the index, which has to name every file, and a dataset's or run's folder for each.

    Raises:
        RwmError: There is none, it is not valid or does not fit the files.
    """
    info = entries.get(INDEX_FILE)
    if info is None or info.file_size > LARGEST_INDEX_BYTES:
        raise RwmError(f"{file} has no {INDEX_FILE}: rwm runs pack did not write it.", "rwm runs pack RUN --out FILE")
    try:
        index = PackIndex.model_validate_json(archive.read(info))
    except (ValidationError, ValueError) as exc:
        raise RwmError(f"{INDEX_FILE} in {file} is not valid: {one_line(exc)}.", ANOTHER) from exc
    if index.format != FORMAT:
        raise RwmError(f"{file} has the format '{index.format}', not '{FORMAT}'.", "a newer version of rwm")
    folders = [part.folder for part in index.parts]
    known = {"/".join(name.split("/")[: folder.count("/") + 1]) for folder in folders for name in index.files}
    needed = [f"{f}/{MANIFEST_FILE if f.startswith('data/') else RUN_FILE}" for f in folders]
    in_parts = {name for part in index.parts for name in _names(index, part)}
    sizes = {name: info.file_size for name, info in entries.items() if name != INDEX_FILE}
    if (
        sizes != {name: packed.size for name, packed in index.files.items()}
        or in_parts | {CARD_FILE} != index.files.keys()
        or len({*folders}) != len(folders)
        or not {*needed} <= index.files.keys()
        or not {*folders} <= known
    ):
        raise RwmError(f"The files in {file} are not those that its {INDEX_FILE} names.", ANOTHER)
    return index


def _names(index: PackIndex, part: PackedPart) -> list[str]:
    return [name for name in index.files if name.startswith(f"{part.folder}/")]


def _is_here(home: Home, part: PackedPart, index: PackIndex, file: Path) -> bool:
    """Whether the home has a part already.

    Raises:
        RwmError: It has another of that name.
    """
    folder = home.root / part.folder
    if not folder.exists() and not folder.is_symlink():
        return False
    same = folder.is_dir() and all(
        (home.root / name).is_file() and checksum(home.root / name) == index.files[name].sha256
        for name in _names(index, part)
    )
    if same:
        return True
    text = f"{folder} exists already and is not the {part.kind} '{part.name}' in {file}; nothing was written"
    raise RwmError(f"{text}.", "--home FOLDER")


def _refuse_full_disk(home: Home, needed: int) -> None:
    place = home.root.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RwmError(f"Unpacking needs {needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB.", "--home FOLDER")


def _write(
    home: Home, archive: zipfile.ZipFile, index: PackIndex, added: list[PackedPart], file: Path, progress: Progress
) -> None:
    """Write all parts to temporary folders, check them, then make them visible, parents first."""
    total, done = sum(index.files[n].size for part in added for n in _names(index, part)), 0
    with ExitStack() as stack:
        # A stack closes its last folder first.
        folders = {part.folder: stack.enter_context(commit_folder(home.root / part.folder)) for part in reversed(added)}
        for part in added:
            for name in _names(index, part):
                target = folders[part.folder] / name.removeprefix(f"{part.folder}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                if _copy(archive, name, target) != index.files[name].sha256:
                    raise RwmError(f"{name} in {file} is damaged: its checksum differs; nothing was written.", ANOTHER)
                done += index.files[name].size
                progress(done, total, {})
            _check_part(part, folders[part.folder], _names(index, part), index)


def _copy(archive: zipfile.ZipFile, name: str, target: Path) -> str:
    """Copy one file out of an archive and return its SHA-256."""
    digest = hashlib.sha256()
    with archive.open(name) as source, target.open("xb") as file:
        while block := source.read(BLOCK_BYTES):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def _check_part(part: PackedPart, folder: Path, names: Iterable[str], index: PackIndex) -> None:
    """Compare what a part says of itself with where it lies.

    Raises:
        RwmError: It is of another name, or holds other files than its manifest names.
    """
    if part.kind != "dataset":
        run = Run.open(folder)
        if (run.kind, run.id) != (part.kind, part.name):
            raise RwmError(f"The record in {part.folder} is that of {run.kind} {run.id}; nothing was written.", ANOTHER)
        return
    manifest = Dataset.open(folder).manifest
    shards = {f"{part.folder}/{shard.file}": shard.sha256 for shard in manifest.shards}
    found = {name: index.files[name].sha256 for name in names if name != f"{part.folder}/{MANIFEST_FILE}"}
    if shards != found:
        raise RwmError(f"The files of {part.folder} are not those its manifest names; nothing was written.", ANOTHER)
