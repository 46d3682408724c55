"""What an HDF5 file may not hold: parts that lie in other files, and datasets that claim more than is stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwmdata.errors import RwmError

if TYPE_CHECKING:
    import h5py

MOST_PACKED = 1100
"""Bytes that one stored byte can stand for; more than HDF5's own compression reaches."""
FREE_BYTES = 1 << 20
"""A dataset of so little may be anything: parts that were never written count as zeros."""
HINT = "a file that holds its data itself: h5repack, or h5py's copy"


def refuse_foreign_links(content: h5py.File, file: Path) -> None:
    """Refuse a file with links into others. Links within the file are followed by whoever reads it, and are fine.

    Raises:
        RwmError: There is such a link; it is named.
    """
    import h5py

    # What is returned ends the walk; an exception inside it would be lost.
    def foreign(name: bytes, info: h5py.h5l.LinkInfo) -> bytes | None:
        return None if info.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT) else name

    if (link := content.id.links.visit(foreign, info=True)) is not None:
        raise _refused(str(file), link.decode(errors="replace"), "is a link into another file")


def stored(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """Return the numbers of a dataset.

    Args:
        dataset: An open dataset.
        where: Names its file in errors.

    Raises:
        RwmError: They lie in another file, or are claimed and not stored.
    """
    import h5py

    layout, kept = dataset.id.get_create_plist(), dataset.id.get_storage_size()
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        raise _refused(where, dataset.name, "is a virtual dataset, made of parts of other files")
    if layout.get_external_count():
        raise _refused(where, dataset.name, "is stored in another file")
    if dataset.nbytes > max(FREE_BYTES, MOST_PACKED * kept):
        raise _refused(where, dataset.name, f"claims {dataset.nbytes:,} bytes and stores {kept:,}")
    return np.asarray(dataset, np.float64)


def _refused(where: str, name: str, what: str) -> RwmError:
    return RwmError(f"{where}: '{name}' {what}, which is not read.", HINT)
