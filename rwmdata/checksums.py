"""Files that carry their own checksums: safetensors sealed by us, torch's zip archives, JSON records.

A file written before there were checksums, or by another program, counts as whole where it has none.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"
"""Key of the SHA-256 inside the description of a safetensors file and inside a JSON record."""
METADATA = "__metadata__"
LENGTH_BYTES = 8
"""Of a safetensors file: the length of its JSON header."""
MOST_PACKED_BYTES = 64 << 20
"""What the compressed parts of an archive, programs and descriptions, may unpack to together."""
CHANGED = "has another checksum than when it was written"


def safetensors_checksum(packed: bytes, header: dict[str, Any] | None = None) -> str:
    """Return the SHA-256 of the header and the tensors of a safetensors file.

    Args:
        packed: Its bytes.
        header: The header that counts; the file's own when None.
    """
    stop = LENGTH_BYTES + int.from_bytes(packed[:LENGTH_BYTES], "little")
    digest = hashlib.sha256(_canonical(json.loads(packed[LENGTH_BYTES:stop]) if header is None else header))
    digest.update(memoryview(packed)[stop:])
    return digest.hexdigest()


def damage_of(path: Path) -> str | None:
    """Return what is wrong with a file that carries checksums: "has another checksum ..."; None where nothing is.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES + 1)
    if start[:4] == b"PK\x03\x04":
        return _damage_of_archive(path)
    return _damage_of_safetensors(path.read_bytes()) if start[LENGTH_BYTES:] == b"{" else None


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON record with the checksum of what it says before it, a line that can be deleted."""
    bare = {key: value for key, value in record.items() if key != CHECKSUM}
    return {CHECKSUM: hashlib.sha256(_canonical(bare)).hexdigest(), **bare}


def is_changed(record: object) -> bool:
    """Return whether a JSON record carries a checksum and says something else than when it was sealed."""
    return isinstance(record, dict) and CHECKSUM in record and sealed(record)[CHECKSUM] != record[CHECKSUM]


def claims_too_much(archive: zipfile.ZipFile, size: int) -> str | None:
    """Return what is wrong with an archive of ``size`` bytes that would unpack to much more than it is; else None."""
    parts = archive.infolist()
    if sum(part.file_size for part in parts if part.compress_type == zipfile.ZIP_STORED) > size:
        return "has parts that are larger than itself"
    if sum(part.file_size for part in parts if part.compress_type != zipfile.ZIP_STORED) > MOST_PACKED_BYTES:
        return f"has compressed parts of more than {MOST_PACKED_BYTES >> 20} MiB"
    return None


def _damage_of_archive(path: Path) -> str | None:
    """Return what is wrong with a zip archive, each of whose parts carries a CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            if claimed := claims_too_much(archive, path.stat().st_size):
                return claimed
            part = archive.testzip()
    except Exception as exc:  # Arbitrary bytes make the reader raise anything.
        return f"is damaged ({type(exc).__name__})"
    return None if part is None else f"{CHANGED} (in its part {part})"


def _damage_of_safetensors(packed: bytes) -> str | None:
    stop = LENGTH_BYTES + int.from_bytes(packed[:LENGTH_BYTES], "little")
    try:
        header = json.loads(packed[LENGTH_BYTES:stop])
        described = {key: json.loads(text) for key, text in header.get(METADATA, {}).items() if CHECKSUM in text}
        for key, description in described.items():
            expected = description.pop(CHECKSUM)
            header[METADATA][key] = json.dumps(description)
            if safetensors_checksum(packed, header) != expected:
                return CHANGED
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        return f"has a damaged header ({type(exc).__name__})"
    return None


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
