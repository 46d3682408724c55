"""What the benchmarks share: rows beside their baselines, and how a call is timed.

No torch here: it would add to the peak memory of processes that need none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class BenchRow:
    """A measured value, None where there is none, and the baseline it is held against where there is one."""

    name: str
    value: float | None
    unit: str
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value over baseline."""
        return self.value / self.baseline if self.baseline and self.value is not None else None


def beside(baseline: float, speeds: Mapping[str, float], unit: str) -> list[BenchRow]:
    """Return speeds by name as rows that share one baseline."""
    return [BenchRow(name, speed, unit, baseline) for name, speed in speeds.items()]


def content_of(benchmark: str, rows: Sequence[BenchRow], **settings: str | int) -> dict[str, object]:
    """Return a benchmark as JSON content: ``{benchmark, ..., "rows": [{name, value, unit, baseline, ratio}, ...]}``."""
    return {"benchmark": benchmark, **settings, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}


def timed(call: Callable[[], object], wait: Callable[[], object] = lambda: None) -> float:
    """Return the seconds a call takes; ``wait`` returns when what a device still has queued is done."""
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started
