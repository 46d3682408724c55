"""The newest rows of every simulated robot, as a store of training windows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwmdata.schema import Schema
from rwmmodel.data import Windows, full_width
from rwmmodel.normalizer import Normalizer
from rwmrl.envs.base import Step
from rwmrl.snapshots import Snapshot, copies, put_back

NO_EPISODE = -1
"""Number of the episode of rows that are in no window."""


class Replay:
    """A ring of the newest rows of E robots.

    Rows of a robot follow one another as they were made: that of an episode's initial state, then one for every step.
    A window lies within one episode and does not cross the place where the newest row meets the oldest. Every
    ``held_out``-th robot is held out: no update sees its rows.

    Args:
        num_envs: E.
        steps: Rows kept of every robot.
        schema: Their columns.
        device: Where they are.
        held_out: One robot of so many is held out.

    Attributes:
        normalizer: Map to the normalised space that windows are in; to be set before the first is gathered.
    """

    KEPT = ("rows", "_episode", "_written", "_current")

    def __init__(self, num_envs: int, steps: int, schema: Schema, device: torch.device, held_out: int = 16) -> None:
        self.num_envs, self.steps, self.schema, self.device = num_envs, steps, schema, device
        self.rows = torch.zeros(num_envs, steps, schema.width, device=device)
        self._episode = torch.full((num_envs, steps), NO_EPISODE, dtype=torch.int64, device=device)
        self._written = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._current = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.held_out = torch.arange(num_envs, device=device) % held_out == held_out - 1
        self._mean = self._std = torch.empty(0)

    @property
    def count(self) -> int:
        """Rows in it."""
        return int(self._written.clamp(max=self.steps).sum())

    @property
    def normalizer(self) -> Normalizer:
        """Map to normalised space."""
        return self._normalizer

    @normalizer.setter
    def normalizer(self, value: Normalizer) -> None:
        self._normalizer = value
        self._mean, self._std = (part.to(self.device) for part in full_width(value, self.schema))

    def begin(self, env_ids: Tensor, rows: Tensor) -> None:
        """Begin episodes of robots ``env_ids (n,)`` with the rows ``(n, width)`` of their initial state."""
        self._current[env_ids] += 1
        self._put(env_ids, rows)

    def add(self, step: Step, after: Tensor) -> None:
        """Take in one step of all robots, ``after (E, width)`` being their rows after the resets.

        An episode whose simulation blew up is left out, as in an exported dataset: no window lies in it.
        """
        unstable = step.log.get("unstable")
        blown = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        if isinstance(unstable, Tensor):
            blown = unstable.to(self.device) > 0.5
        sound = (~blown).nonzero().squeeze(-1)
        self._put(sound, step.transition.to(self.device)[sound])
        self._episode[blown[:, None] & (self._episode == self._current[:, None])] = NO_EPISODE
        done = step.done.to(self.device).nonzero().squeeze(-1)
        if len(done):
            self.begin(done, after.to(self.device)[done])

    def _put(self, env_ids: Tensor, rows: Tensor) -> None:
        place = self._written[env_ids] % self.steps
        self.rows[env_ids, place] = rows.to(self.device, torch.float32)
        self._episode[env_ids, place] = self._current[env_ids]
        self._written[env_ids] += 1

    def starts(self, length: int, held_out: bool = False) -> np.ndarray:
        """Return where the windows of ``length`` rows of the held-out robots, or of the others, begin, ``(n,)``.

        A start is ``robot * steps + place in the ring``.
        """
        robots = (self.held_out if held_out else ~self.held_out).nonzero().squeeze(-1)
        if length > self.steps:
            return np.empty(0, np.int64)
        episode, written = self._episode[robots], self._written[robots, None]
        count = written.clamp(max=self.steps)
        age = (torch.arange(self.steps, device=self.device) - (written - count)) % self.steps
        last = episode.roll(-(length - 1), dims=1)
        valid = (age + length <= count) & (episode == last) & (episode != NO_EPISODE)
        robot, place = valid.nonzero(as_tuple=True)
        return (robots[robot] * self.steps + place).cpu().numpy()

    def gather(self, starts: np.ndarray, length: int) -> Tensor:
        """Return the rows of windows, ``(Bt, length, width)``, physical units."""
        index = torch.from_numpy(np.ascontiguousarray(starts)).to(self.device)
        place = (index % self.steps)[:, None] + torch.arange(length, device=self.device)
        flat = (index - index % self.steps)[:, None] + place % self.steps
        return self.rows.view(-1, self.schema.width)[flat]

    def windows(self, starts: np.ndarray, length: int) -> Windows:
        """Gather the normalised windows of ``length`` rows at ``starts (Bt,)``."""
        return Windows.split(self.gather(starts, length).sub_(self._mean).div_(self._std), self.schema)

    def ending_in_fall(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return which windows end with a fall, ``(n,)`` bool."""
        place = torch.from_numpy(starts % self.steps + length - 1).to(self.device) % self.steps
        robot = torch.from_numpy(starts // self.steps).to(self.device)
        return (self.rows[robot, place, self.schema.width - 1] > 0.5).cpu().numpy()

    def state(self) -> Snapshot:
        """Return its content, for :meth:`restore`."""
        return copies(self, self.KEPT)

    def restore(self, state: Snapshot) -> None:
        """Take back what :meth:`state` returned.

        Raises:
            KeyError, ValueError: The state is of another replay.
        """
        put_back(self, self.KEPT, state)
