"""Where imagined episodes begin: recorded windows, and the model's memory after reading them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.windows import ending_in_fall, window_starts
from rwmmodel.data import RowStore
from rwmmodel.ensemble import Carry, DynamicsEnsemble
from rwmrl.snapshots import Snapshot, rewind

AHEAD = 256
"""Starts read at once, ahead of use: a pass over a few histories takes nearly as long."""
BLOCK = 256
"""Episode beginnings read at once, always the same together: how many are in a pass changes the last bits."""
KEPT_BYTES = 512 * 2**20
"""Most memory for the model's kept states of episode beginnings."""


@dataclass(frozen=True)
class Start:
    """The beginnings of n imagined episodes."""

    index: Tensor
    """``(n,)``: first row of each window in the dataset."""
    state: Tensor
    """``(n, S)``: the window's last state, normalised."""
    action: Tensor
    """``(n, A)``: the window's last action, normalised."""
    contact: Tensor
    """``(n, M, C)``: the window's contacts, 0 or 1."""
    carry: Carry
    """The model's memory of the whole window."""

    def part(self, first: int, last: int) -> Start:
        """Return starts ``first`` to ``last - 1``."""
        auxiliary = self.carry.auxiliary
        carry = Carry(
            tuple(part[first:last] for part in self.carry.state),
            None if auxiliary is None else tuple(part[first:last] for part in auxiliary),
        )
        index, state, action, contact = (x[first:last] for x in (self.index, self.state, self.action, self.contact))
        return Start(index, state, action, contact, carry)


class Starts(ABC):
    """Draws recorded windows and lets a model read them; few at a time are read ahead of use, many in one pass.

    Args:
        model: Reads the histories.
        generator: Source of all random draws.
    """

    def __init__(self, model: DynamicsEnsemble, generator: torch.Generator) -> None:
        self.model, self.generator, self.history = model, generator, model.config.history
        self._ahead: Start | None = None
        self._before, self._used = generator.get_state(), 0

    @abstractmethod
    def _draw(self, count: int) -> Start:
        """Draw ``count`` starts, whatever has been drawn before."""

    def draw(self, count: int) -> Start:
        """Draw ``count`` starts."""
        if count > AHEAD // 4:
            return self._draw(count)
        if self._ahead is None or self._used + count > AHEAD:
            self._before = self.generator.get_state()
            self._ahead, self._used = self._draw(AHEAD), 0
        self._used += count
        return self._ahead.part(self._used - count, self._used)

    def begin_anew(self) -> None:
        """Discard the starts drawn ahead: the next ones depend on the generator alone."""
        self._ahead = None

    def state(self) -> Snapshot:
        """Return from where starts were drawn ahead and how many are used; the generator is its owner's to save."""
        return {"ahead": None if self._ahead is None else self._before.clone(), "used": self._used}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`; this draws from the generator, which its owner restores afterwards."""
        self._ahead, self._used = None, state["used"]
        if state["ahead"] is not None:
            rewind(self.generator, state["ahead"])
            self._before = self.generator.get_state()
            self._ahead = self._draw(AHEAD)


class RecordedStarts(Starts):
    """Draws windows of the train split.

    The model is frozen. Most episodes begin where a recorded one did: the model's
    memory of such a window is computed when one of its block is first drawn, and kept. So what a start is depends on
    the generator alone, bit for bit, and not on what was drawn before.

    Args:
        model: Reads the histories.
        dataset: Source of the windows, without those whose last row is a fall: nothing is left to do after it.
        store: The dataset's rows, normalised for the model.
        init_share: Share of starts from the beginnings of recorded episodes; the others start anywhere.
        generator: Source of all random draws.

    Attributes:
        first: First rows of the windows at episode beginnings, ``(n,)``.
        anywhere: First rows of all windows, ``(m,)``.

    Raises:
        RwmError: No training episode is as long as the model's history.
    """

    def __init__(
        self, model: DynamicsEnsemble, dataset: Dataset, store: RowStore, init_share: float, generator: torch.Generator
    ) -> None:
        super().__init__(model, generator)
        self.store, self.init_share = store, init_share
        start, length = dataset.split_bounds("train")
        anywhere = window_starts(start, length, self.history)
        anywhere = anywhere[~ending_in_fall(dataset, anywhere, self.history)]
        if len(anywhere) == 0:
            missing = f"No training episode of '{dataset.name}' has the {self.history} rows a start needs"
            raise RwmError(f"{missing}.", "a dataset with longer episodes")
        first = anywhere[np.isin(anywhere, dataset.episodes.start)]
        self.first, self.anywhere = (torch.from_numpy(starts).to(store.device) for starts in (first, anywhere))
        self._kept, self._states = self._room()
        self._missing = set(range(0, len(self._kept[0]), BLOCK))

    @torch.no_grad()
    def _room(self) -> tuple[tuple[Tensor, ...], int]:
        """Return where memories of beginnings are kept, as many as fit, and how many of its tensors are states'."""
        dims, pairs = self.store.schema.dims, torch.zeros(1, self.history - 1, 1, device=self.store.device)
        memory = self.model.warm_up(pairs.expand(-1, -1, dims["state"]), pairs.expand(-1, -1, dims["action"]))
        count = min(len(self.first), KEPT_BYTES // sum(part.nbytes for part in memory.parts))
        return tuple(part.new_empty(count, *part.shape[1:]) for part in memory.parts), len(memory.state)

    def _draw(self, count: int) -> Start:
        from_init = torch.rand(count, generator=self.generator, device=self.store.device) < self.init_share
        draws = [
            torch.randint(len(starts), (count,), generator=self.generator, device=self.store.device)
            for starts in (self.first, self.anywhere)
        ]
        index = torch.where(from_init, self.first[draws[0]], self.anywhere[draws[1]])
        beginning = draws[0].masked_fill(~from_init | (draws[0] >= len(self._kept[0])), -1)
        self._keep(beginning)  # Before the windows are gathered: they are a view into the store's buffer.
        windows = self.store.windows(index.cpu().numpy(), self.history)
        carry = self._read(windows.states, windows.actions, beginning)
        state, action = windows.states[:, -1].clone(), windows.actions[:, -1].clone()
        return Start(index, state, action, windows.contact.clone(), carry)

    def _read(self, states: Tensor, actions: Tensor, beginning: Tensor) -> Carry:
        """Return the memory of windows ``(n, M, ...)``; ``beginning (n,)`` is the index among those kept, or -1."""
        unknown = (beginning < 0).nonzero().squeeze(-1)
        if len(unknown) == len(beginning):
            return self.model.warm_up(states[:, :-1], actions[:, 1:])
        # Kept memories stand in for all at first, and are replaced where they do not apply.
        parts = tuple(kept[beginning.clamp(min=0)] for kept in self._kept)
        carry = Carry(parts[: self._states], parts[self._states :])
        if len(unknown):
            carry = carry.replace(unknown, self.model.warm_up(states[unknown, :-1], actions[unknown, 1:]))
        return carry

    def _keep(self, beginning: Tensor) -> None:
        """Read the blocks that ``beginning (n,)`` is in, -1 apart, unless they are kept already."""
        if not self._missing:
            return
        blocks = {BLOCK * block for block in (beginning[beginning >= 0] // BLOCK).unique().tolist()}
        for block in sorted(blocks & self._missing):
            part = slice(block, min(block + BLOCK, len(self._kept[0])))
            windows = self.store.windows(self.first[part].cpu().numpy(), self.history)
            memory = self.model.warm_up(windows.states[:, :-1], windows.actions[:, 1:])
            for kept, new in zip(self._kept, memory.parts, strict=True):
                kept[part] = new
        self._missing -= blocks
