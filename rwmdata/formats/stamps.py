"""Stamps of rows: repaired where it is clear how, and cut where a recording pauses or its clock goes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwmdata.errors import RwmError

PAUSE_STEPS = 5.0
"""A pause longer than this many control steps, and this many samples, begins an episode; a shorter one is bridged."""
BRIDGED = 1.5
"""Steps longer than this many control steps, and samples, are said to be bridged."""
BURST = 0.25
"""Rows closer to each other than this share of the usual step came in one burst."""
BURST_S = 4e-4
"""So did rows closer than this, as no robot's log is as fast."""
MOST, LATEST_S = 0.95, 1.0
"""This share of the rows must lie within the stamps' resolution of an even rate, the others not be later than this."""
SLOPE_ROWS, SLOPE_STAMPS, SLOPE_SHARE = 20, 4, 0.9
"""The mean period is taken over at least so many rows and different stamps, of which this share."""
SLOWDOWNS = (1.0, 0.97, 0.94, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the usual step that are tried as the least step between rows, for recorders whose rate varies."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows without a pause."""

    rows: np.ndarray
    """Their indices in the recording, in order of time, ``(n,)``."""
    stamps_s: np.ndarray
    """Their times, increasing, ``(n,)``."""


def stretches(
    stamps_s: np.ndarray, starts: np.ndarray, dt_s: float, pause_s: float | None, where: str
) -> tuple[list[Stretch], list[str]]:
    """Split a recording that is in memory, and say what was repaired and cut; see :class:`Repairs`."""
    repairs = Repairs(where, dt_s, pause_s)
    return repairs.stretches(stamps_s, starts), repairs.notes()


class Repairs:
    """Splits a recording at pauses and where its clock goes back, and repairs its stamps.

    Rows out of order are sorted. Equal, rounded or bunched stamps are replaced by even ones, in which a lost row
    leaves its gap, if those stay within the stamps' own resolution.

    Args:
        where: Names the recording in errors and notes.
        dt_s: Control step.
        pause_s: Longest pause that is bridged; None for :data:`PAUSE_STEPS`.
    """

    def __init__(self, where: str, dt_s: float, pause_s: float | None) -> None:
        self.where, self.dt_s, self.pause_s = where, dt_s, pause_s
        self.sorted = self.repaired = self.rows = self.before = 0
        self.back: list[int] = []
        self.pauses: list[float] = []
        self.bridged: list[float] = []
        self.period_s = 0.0

    def stretches(self, stamps_s: np.ndarray, starts: np.ndarray) -> list[Stretch]:
        """Return the stretches of a recording, or of its next piece.

        Args:
            stamps_s: As recorded, ``(n,)``.
            starts: Rows where an episode begins whatever the stamps, ``(n,)`` bool.

        Raises:
            RwmError: The stamps do not tell when the rows were taken.
        """
        bounds = [0, *np.flatnonzero(starts[1:]) + 1, len(stamps_s)]
        parts = [np.arange(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        cut = [stretch for part in parts for stretch in self.split(part, stamps_s[part])]
        self.before += len(stamps_s)
        return cut

    def split(self, rows: np.ndarray, stamps: np.ndarray) -> list[Stretch]:
        """Return the stretches of rows (indices) that belong together by all but their stamps."""
        step = np.diff(stamps)
        longest = self._longest_pause(float(np.median(step[step > 0])) if (step > 0).any() else 0.0)
        back = np.flatnonzero(step < -longest) + 1
        self.back += [self.before + int(rows[k]) + 1 for k in back]
        bounds = [0, *back, len(rows)]
        found = []
        for a, b in zip(bounds, bounds[1:], strict=False):
            order, times = self._in_order(stamps[a:b])
            times = self._even(times, rows[a:b])
            found += self._cut(rows[a:b][order], times)
        return found

    def _longest_pause(self, period_s: float) -> float:
        return self.pause_s or PAUSE_STEPS * max(self.dt_s, period_s)

    def _in_order(self, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sort rows out of order, if all are then a step apart: else it is the clock that went back."""
        order = np.argsort(stamps, kind="stable")
        steps = np.diff(stamps[order])
        if (np.diff(stamps) >= 0).all() or (steps < np.median(steps) / 2).any():
            return np.arange(len(stamps)), stamps
        self.sorted += int((order != np.arange(len(order))).sum())
        return order, stamps[order]

    def _even(self, stamps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return stamps that increase: as they are, or even ones where some repeat, bunch or go back a little."""
        steps = np.diff(stamps)
        apart = steps >= max(BURST_S, BURST * float(np.median(steps))) if len(steps) else np.zeros(0, bool)
        if apart.all():
            return stamps
        begin = np.concatenate(([0], np.flatnonzero(apart) + 1))
        periods = np.diff(stamps[begin]) / np.diff(begin)
        place = f"{self.where}, from row {self.before + rows[0] + 1}"
        if not len(periods):
            fault = f"{place}: {len(stamps)} rows have the stamp {stamps[0]:g} s."
            raise RwmError(fault, "rate_hz: ROWS_PER_SECOND in place of time")
        longest = self._longest_pause(0.0)
        waits = np.diff(stamps[begin])
        resolution = float(max(np.median(waits), waits[waits <= longest].max(initial=0.0)))
        usual = _refined(stamps, apart, float(np.median(periods)), max(longest, BRIDGED * float(np.median(waits))))
        for share in SLOWDOWNS:
            even = evenly(stamps, share * usual)
            off = even - stamps
            most = np.quantile(off, [1 - MOST, MOST])
            if np.ptp(most) <= resolution + self.dt_s and np.ptp(off) <= LATEST_S + resolution:
                self._check_resolution(even, resolution, longest, place)
                self.repaired, self.rows = self.repaired + int((~apart).sum()), self.rows + len(stamps)
                steps = np.diff(even)
                self.period_s = float(steps[steps <= BRIDGED * usual].mean())
                return even
        k = int(np.abs(even - stamps).argmax())
        fault = f"{place}: {(~apart).sum()} of {len(stamps)} stamps repeat or go back, and rows at an even rate of "
        fault += (
            f"{1 / usual:.4g} Hz would be {np.ptp(even - stamps):.2g} s off them at row {self.before + rows[k] + 1}"
        )
        raise RwmError(f"{fault}; when rows were taken is not clear.", "rate_hz: ROWS_PER_SECOND in place of time")

    def _check_resolution(self, even: np.ndarray, resolution: float, longest: float, place: str) -> None:
        """Refuse stamps so coarse that a pause could be anywhere between two of them."""
        if resolution > longest and (np.diff(even) > longest).any():
            fault = f"{place}: stamps {resolution:.3g} s apart for many rows do not tell where the recording paused."
            raise RwmError(fault, "rate_hz: ROWS_PER_SECOND in place of time, and a file for each recording")

    def _cut(self, rows: np.ndarray, stamps: np.ndarray) -> list[Stretch]:
        steps = np.diff(stamps)
        period = float(np.median(steps)) if len(steps) else 0.0
        pause = steps > self._longest_pause(period)
        self.pauses += steps[pause].tolist()
        self.bridged += steps[~pause & (steps > BRIDGED * max(self.dt_s, period))].tolist()
        cuts = np.flatnonzero(pause) + 1
        return [Stretch(*pair) for pair in zip(np.split(rows, cuts), np.split(stamps, cuts), strict=True)]

    def notes(self) -> list[str]:
        """Return what was done, one sentence each."""
        notes = []
        if self.sorted:
            notes.append(f"{self.sorted} rows were out of order and were sorted by time")
        if self.repaired:
            text = f"{self.repaired} of {self.rows} stamps repeat, come in bursts or go back a little; "
            notes.append(f"{text}the rows were spaced evenly, {1 / self.period_s:.4g} Hz")
        if self.back:
            first = f"row {self.back[0]}" if len(self.back) == 1 else f"{len(self.back)} rows, first at {self.back[0]}"
            notes.append(f"the clock goes back at {first}: an episode begins there")
        if self.pauses:
            if len(self.pauses) == 1:
                notes.append(f"after a pause of {self.pauses[0]:.3g} s an episode begins")
            else:
                notes.append(f"after {len(self.pauses)} pauses of up to {max(self.pauses):.3g} s episodes begin")
        if self.bridged:
            times = "gap" if len(self.bridged) == 1 else "gaps"
            notes.append(f"{len(self.bridged)} {times} of up to {max(self.bridged):.3g} s bridged by interpolation")
        return [f"{self.where}: {note}" for note in notes]


def evenly(stamps: np.ndarray, period: float) -> np.ndarray:
    """Return times at least ``period`` apart that follow stamps: no later than the rows, or no earlier.

    Rows arrive late in a burst, so each was taken no later than a row after it allows; of rounded stamps, no earlier
    than a row before it. The one that leaves smaller gaps is taken.
    """
    even = period * np.arange(len(stamps))
    drift = stamps - even
    late, early = np.minimum.accumulate(drift[::-1])[::-1], np.maximum.accumulate(drift)
    second = int((stamps > stamps[0]).argmax())
    early[:second] = early[second]  # A recording begins anywhere within what its first stamp stands for.
    return even + min(late, early, key=lambda kept: float((np.diff(kept) ** 2).sum()))


def _refined(stamps: np.ndarray, apart: np.ndarray, period: float, longest: float) -> float:
    """Return the mean period of the longest stretch without a pause, with rows that were lost counted.

    Of rows that share a stamp it belongs to the last, if they arrived in a burst, or to the first, if it is cut to
    fewer digits: the line through those that it fits best is taken.
    """
    bounds = np.concatenate(([0], np.flatnonzero(np.diff(stamps) > longest) + 1, [len(stamps)]))
    k = int(np.diff(bounds).argmax())
    part = stamps[bounds[k] : bounds[k + 1]]
    index = np.rint((evenly(part, period) - part[0]) / period)
    lasts = np.flatnonzero(apart[bounds[k] : bounds[k + 1] - 1])
    if len(part) < SLOPE_ROWS or len(lasts) < SLOPE_STAMPS:
        return period
    slopes = []
    for rows in (lasts, lasts + 1):
        off = np.abs(part[rows] - np.polyval(np.polyfit(index[rows], part[rows], 1), index[rows]))
        near = rows[off <= np.quantile(off, SLOPE_SHARE)]  # Rows that came late say little of when they were taken.
        (slope, _), rest, *_ = np.polyfit(index[near], part[near], 1, full=True)
        slopes.append((float(rest.sum()), float(slope)))
    slope = min(slopes)[1]
    return slope if 0.9 * period < slope < 1.1 * period else period
