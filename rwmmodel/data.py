"""Rows resident on the device, normalised once; a window is a start index until it is gathered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.schema import Schema
from rwmmodel.normalizer import Normalizer


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


class RowStore:
    """All rows of a dataset as one float32 tensor ``(R, width)`` on the device.

    States and actions are normalised in place once; the gather buffer is allocated once per window shape.

    Args:
        dataset: The dataset, read whole.
        normalizer: Map to normalised space.
        device: Where the rows live; on the CPU they are the array that was read, not a copy.
    """

    def __init__(self, dataset: Dataset, normalizer: Normalizer, device: torch.device) -> None:
        self.schema = dataset.schema
        self.rows = torch.from_numpy(dataset.matrix()).to(device)
        for part, mean, std in (
            (self.schema.state, normalizer.state_mean, normalizer.state_std),
            (self.schema.action, normalizer.action_mean, normalizer.action_std),
        ):
            self.rows[:, part].sub_(mean.to(device)).div_(std.to(device))
        self._buffer = torch.empty(0, device=device)

    def windows(self, starts: np.ndarray, length: int) -> Windows:
        """Gather the windows of ``length`` rows at ``starts (Bt,)``.

        The result is a view into one buffer, which the next call of the same shape overwrites.
        """
        width = self.rows.shape[1]
        shape = (len(starts), length * width)
        if self._buffer.shape != shape:
            self._buffer = torch.empty(shape, device=self.rows.device)
        every = self.rows.as_strided((len(self.rows) - length + 1, length * width), (width, 1))
        index = torch.from_numpy(np.ascontiguousarray(starts)).to(self.rows.device)
        torch.index_select(every, 0, index, out=self._buffer)
        return Windows.split(self._buffer.view(len(starts), length, width), self.schema)
