"""NumPy files (.npz, .npy) as named columns; nothing in them is executed."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from rwmdata.errors import RwmError

SAVE_HINT = "np.savez(FILE, t=t, q=q, ...) with one array of numbers per quantity, (T,) or (T, n)"


def read_npz(file: Path, data: bytes) -> tuple[pl.DataFrame, list[str]]:
    """Read the arrays ``(T,)`` and ``(T, n)`` of an archive; others are left out and named.

    Raises:
        RwmError: It is no such archive, holds no arrays of one length, or an array of objects.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise RwmError(f"{file} is a damaged archive.", "copy it again, or leave it out")
    if not all(name.endswith(".npy") for name in zipfile.ZipFile(io.BytesIO(data)).namelist()):
        what = "an Excel workbook" if b"xl/workbook" in data else "an archive, but not of NumPy arrays"
        raise RwmError(f"{file} is {what}.", "save the table as CSV" if "Excel" in what else SAVE_HINT)
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: _array(archive, name, file) for name in archive.files}
    lengths = Counter(a.shape[0] for a in arrays.values() if a.ndim >= 1)
    if not lengths:
        raise RwmError(f"{file} holds no arrays of rows.", SAVE_HINT)
    rows = max(lengths, key=lambda n: (lengths[n], n))
    used = {name: a for name, a in arrays.items() if a.ndim in (1, 2) and len(a) == rows}
    if not used:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise RwmError(f"{file} holds {shapes}; expected arrays of shape (T,) or (T, n).", SAVE_HINT)
    left = [f"{name} {a.shape}" for name, a in arrays.items() if name not in used]
    notes = [f"{file.name}: not of {rows} rows and left out: {', '.join(left)}"] if left else []
    return pl.DataFrame([c for name, a in used.items() for c in _columns(name, a)]), notes


def read_npy(file: Path, data: bytes) -> tuple[pl.DataFrame, list[str]]:
    """Read one array: structured ``(T,)``, whose fields are the columns, or ``(T, n)``, columns ``0`` to ``n - 1``.

    Raises:
        RwmError: It is of objects, or of another shape.
    """
    array = _array({file.name: data}, file.name, file)
    if array.dtype.names:
        return pl.DataFrame([c for name in array.dtype.names for c in _columns(name, array[name])]), []
    if array.ndim != 2:
        fault = f"{file} holds one array of shape {array.shape}; expected (T, n), or (T,) with named fields."
        raise RwmError(fault, SAVE_HINT)
    return pl.DataFrame([pl.Series(str(k), array[:, k]) for k in range(array.shape[1])]), []


def _array(archive: object, name: str, file: Path) -> np.ndarray:
    try:
        if isinstance(archive, dict):
            return np.asarray(np.load(io.BytesIO(archive[name]), allow_pickle=False))
        return np.asarray(archive[name])  # type: ignore[index]
    except ValueError as exc:
        if "pickle" not in str(exc).lower():
            raise
        fault = f"{file}: '{name}' is an array of Python objects, which can run code when it is read; it was not read."
        raise RwmError(fault, SAVE_HINT) from exc


def _columns(name: str, array: np.ndarray) -> list[pl.Series]:
    if array.ndim == 1:
        return [pl.Series(name, array)]
    return [pl.Series(f"{name}_{k}", array[:, k]) for k in range(array.shape[1])]
