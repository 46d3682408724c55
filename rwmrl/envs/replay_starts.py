"""Where imagined episodes of an online training begin: windows of the replay."""

from __future__ import annotations

import numpy as np
import torch

from rwmdata.errors import RwmError
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.envs.recorded_starts import Start, Starts
from rwmrl.replay import Replay


class ReplayStarts(Starts):
    """Draws windows from anywhere in a replay, without those whose last row is a fall and those of held-out robots.

    :meth:`begin_anew` is to be called after every change of the model; the windows to draw from are looked up then.

    Raises:
        RwmError: The replay has no window of the model's history yet.
    """

    def __init__(self, model: DynamicsEnsemble, replay: Replay, generator: torch.Generator) -> None:
        super().__init__(model, generator)
        self.replay = replay
        self._windows: np.ndarray | None = None

    def begin_anew(self) -> None:
        """Discard what was drawn ahead, and the windows that were there to draw from."""
        super().begin_anew()
        self._windows = None

    @torch.no_grad()
    def _draw(self, count: int) -> Start:
        if self._windows is None:
            windows = self.replay.starts(self.history)
            self._windows = windows[~self.replay.ending_in_fall(windows, self.history)]
            if not len(self._windows):
                missing = f"The replay has no window of {self.history} rows yet to imagine from"
                raise RwmError(f"{missing}.", "--set imagine_after=20")
        device = self.generator.device
        chosen = torch.randint(len(self._windows), (count,), generator=self.generator, device=device)
        starts = self._windows[chosen.cpu().numpy()]
        rows = self.replay.windows(starts, self.history)
        states, actions = rows.states.to(device), rows.actions.to(device)
        carry = self.model.warm_up(states[:, :-1], actions[:, 1:])
        index = torch.from_numpy(starts).to(device)
        return Start(index, states[:, -1], actions[:, -1], rows.contact.to(device), carry)
