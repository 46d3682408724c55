"""Where imagined episodes begin: recorded windows, and the model's memory after reading them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.windows import window_starts
from rwmmodel.data import RowStore
from rwmmodel.ensemble import Carry, DynamicsEnsemble

AHEAD = 256
"""Starts read at once, ahead of use: a pass over a few histories takes nearly as long."""
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
    """``(n, C)``: the window's last contacts, 0 or 1."""
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


class RecordedStarts:
    """Draws windows of the train split and lets the model read them, many in one batched pass.

    The model is frozen, so windows can be read ahead of use. Most episodes begin where a recorded one did: the model's
    memory of such a window is computed when it is first drawn, and kept.

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
        self.model, self.store, self.init_share, self.generator = model, store, init_share, generator
        self.history = model.config.history
        train, episodes = dataset.split("train"), dataset.episodes
        anywhere = window_starts(episodes.start, episodes.length - episodes.terminated, self.history, train)
        if len(anywhere) == 0:
            missing = f"No training episode of '{dataset.name}' has the {self.history} rows a start needs"
            raise RwmError(f"{missing}.", "a dataset with longer episodes")
        first = anywhere[np.isin(anywhere, episodes.start[train])]
        self.first, self.anywhere = (torch.from_numpy(starts).to(store.device) for starts in (first, anywhere))
        self._kept: tuple[Tensor, ...] = ()
        self._ahead: Start | None = None
        self._states = self._used = 0
        self._is_kept = torch.zeros(len(first), dtype=torch.bool, device=store.device)

    def draw(self, count: int) -> Start:
        """Draw ``count`` starts."""
        if count > AHEAD // 4:
            return self._draw(count)
        if self._ahead is None or self._used + count > AHEAD:
            self._ahead, self._used = self._draw(AHEAD), 0
        self._used += count
        return self._ahead.part(self._used - count, self._used)

    def begin_anew(self) -> None:
        """Discard the starts drawn ahead: the next ones depend on the generator alone."""
        self._ahead = None

    def _draw(self, count: int) -> Start:
        from_init = torch.rand(count, generator=self.generator, device=self.store.device) < self.init_share
        draws = [
            torch.randint(len(starts), (count,), generator=self.generator, device=self.store.device)
            for starts in (self.first, self.anywhere)
        ]
        index = torch.where(from_init, self.first[draws[0]], self.anywhere[draws[1]])
        windows = self.store.windows(index.cpu().numpy(), self.history)
        carry = self._read(windows.states, windows.actions, draws[0].masked_fill(~from_init, -1))
        state, action, contact = (w[:, -1].clone() for w in (windows.states, windows.actions, windows.contact))
        return Start(index, state, action, contact, carry)

    def _read(self, states: Tensor, actions: Tensor, beginning: Tensor) -> Carry:
        """Return the memory of windows ``(n, M, ...)``; ``beginning (n,)`` is the index in ``first``, or -1."""
        known = (beginning >= 0) & self._is_kept[beginning]
        unknown = (~known).nonzero().squeeze(-1)
        if len(unknown) == len(beginning):
            carry = self.model.warm_up(states[:, :-1], actions[:, 1:])
            self._keep(carry, beginning)
            return carry
        # Kept memories stand in for all at first, and are replaced where they do not apply.
        at = beginning.clamp(0, len(self._kept[0]) - 1)
        parts = tuple(kept[at] for kept in self._kept)
        carry = Carry(parts[: self._states], parts[self._states :])
        if len(unknown):
            fresh = self.model.warm_up(states[unknown, :-1], actions[unknown, 1:])
            self._keep(fresh, beginning[unknown])
            carry = carry.replace(unknown, fresh)
        return carry

    def _keep(self, carry: Carry, beginning: Tensor) -> None:
        parts = (*carry.state, *(carry.auxiliary or ()))
        if not self._kept:
            self._states = len(carry.state)
            size = sum(part[0].nbytes for part in parts)
            room = min(len(self.first), KEPT_BYTES // size)
            self._kept = tuple(part.new_empty(room, *part.shape[1:]) for part in parts)
        of_first = ((beginning >= 0) & (beginning < len(self._kept[0]))).nonzero().squeeze(-1)
        for kept, part in zip(self._kept, parts, strict=True):
            kept[beginning[of_first]] = part[of_first]
        self._is_kept[beginning[of_first]] = True
