"""Rows stored once: in memory, on the device or in a mapped file; a window is a start index until it is gathered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.machine import available_memory
from rwmdata.manifest import CACHED_ROWS
from rwmdata.schema import Schema
from rwmdata.windows import falling_rows
from rwmmodel.normalizer import Normalizer

Rows = Literal["auto", "memory", "mapped"]
OUTSIDE = 1e-4
"""Share of the rows that may lie beyond either end of the state range."""
RANGE_ROWS = 200_000
"""Rows that the state range is found from, of more an evenly spaced subset."""
MEMORY_SHARE = 0.5
"""Largest share of the free memory that rows may take."""


@dataclass(frozen=True)
class Windows:
    """A batch of windows of L rows, states and actions normalised; every tensor is ``(Bt, L, columns)``.

    All rows hold the action that *led to* their state.
    """

    states: Tensor
    actions: Tensor
    extension: Tensor
    contact: Tensor
    termination: Tensor

    @classmethod
    def split(cls, rows: Tensor, schema: Schema) -> Windows:
        """Return views of the five parts of gathered rows ``(Bt, L, width)``."""
        parts = (schema.state, schema.action, schema.extension, schema.contact, schema.termination)
        return cls(*(rows[..., part] for part in parts))

    def select(self, which: slice) -> Windows:
        """Return views of some of the windows."""
        return Windows(*(getattr(self, f.name)[which] for f in fields(self)))


class RowStore:
    """The rows of a dataset as one float32 tensor ``(R, width)`` that gives batches of normalised windows.

    Args:
        dataset: The dataset.
        normalizer: Map to normalised space.
        device: Device of the windows.
        rows: ``memory`` reads and normalises all rows once and puts them on the device if they fit; ``mapped`` leaves
            them in a memory-mapped file and normalises each batch; ``auto`` maps if the rows would take more than half
            of the free memory.
        fall_ahead: Rows before a fall that count as terminated too.

    Attributes:
        rows: The tensor that windows are gathered from; normalised unless mapped.
        mapped: Whether the rows are in a memory-mapped file.
    """

    def __init__(
        self,
        dataset: Dataset,
        normalizer: Normalizer,
        device: torch.device,
        rows: Rows = "auto",
        fall_ahead: int = 0,
    ) -> None:
        self.schema, self.device = dataset.schema, device
        size = 4 * dataset.rows * self.schema.width
        self.mapped = rows == "mapped" or (rows == "auto" and size > MEMORY_SHARE * available_memory())
        self._mean, self._std = full_width(normalizer, self.schema)
        self.rows = torch.from_numpy(dataset.mapped_matrix() if self.mapped else dataset.matrix())
        if not self.mapped:
            for part in self.rows.split(CACHED_ROWS):
                self._normalize(part)
            if device.type != "cuda" or size < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
                self.rows = self.rows.to(device)
        self._mean, self._std = self._mean.to(self.rows.device), self._std.to(self.rows.device)
        self._buffer = torch.empty(0, device=self.rows.device)
        self._falling = torch.from_numpy(falling_rows(dataset, fall_ahead)) if fall_ahead else None

    def _normalize(self, rows: Tensor) -> None:
        rows.sub_(self._mean).div_(self._std)

    def state_range(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the :func:`state_range` of the given rows, normalised."""
        return state_range(self.windows(some_of(rows), 1).states[:, 0])

    def windows(self, starts: np.ndarray, length: int) -> Windows:
        """Gather the windows of ``length`` rows at ``starts (Bt,)``.

        The result is a view into a buffer that the next call with the same shape overwrites.
        """
        width = self.rows.shape[1]
        shape = (len(starts), length * width)
        if self._buffer.shape != shape:
            self._buffer = torch.empty(shape, device=self.rows.device)
        all_windows = self.rows.as_strided((len(self.rows) - length + 1, length * width), (width, 1))
        index = torch.from_numpy(np.ascontiguousarray(starts)).to(self.rows.device)
        torch.index_select(all_windows, 0, index, out=self._buffer)
        rows = self._buffer.view(len(starts), length, width)
        if self.mapped:
            self._normalize(rows)
        if self._falling is not None:
            which = torch.from_numpy(starts)[:, None] + torch.arange(length)
            rows[..., self.schema.termination] = self._falling[which][..., None].to(rows)
        return Windows.split(rows.to(self.device), self.schema)


def some_of(rows: np.ndarray) -> np.ndarray:
    """Return rows ``(n,)``, or of many an evenly spaced subset of ``RANGE_ROWS`` to twice as many."""
    return rows[:: max(1, len(rows) // RANGE_ROWS)]


def state_range(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``OUTSIDE`` and ``1 - OUTSIDE`` quantiles of every column of ``states (n, S)``, each ``(S,)``."""
    ordered = states.sort(dim=0).values
    low = round(OUTSIDE * (len(ordered) - 1))
    return ordered[low].clone(), ordered[len(ordered) - 1 - low].clone()


def full_width(normalizer: Normalizer, schema: Schema) -> tuple[Tensor, Tensor]:
    """Return mean and std of every column of a row, ``(width,)``, on the CPU: 0 and 1 beside state and action."""
    mean, std = torch.zeros(schema.width), torch.ones(schema.width)
    mean[schema.state], std[schema.state] = normalizer.state_mean.cpu(), normalizer.state_std.cpu()
    mean[schema.action], std[schema.action] = normalizer.action_mean.cpu(), normalizer.action_std.cpu()
    return mean, std
