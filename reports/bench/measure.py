"""What the benchmarks share: rows beside their baselines, and how a call is timed.

No torch here: it would add to the peak memory of processes that need none.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.machine import available_threads

Config = TypeVar("Config", bound=Frozen)


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


def in_child(module: str, step: str, folder: Path, config: Frozen, processes: int = 1) -> dict[str, float]:
    """Run a step of a benchmark's module in a process of its own; return what it measured and its peak memory.

    Args:
        module: Calls :func:`child` when it is run.
        step: One of its steps.
        folder: Home of what it reads and writes.
        config: Of the step.
        processes: More than one run it together under torchrun; the first one's numbers count.

    Raises:
        RwmError: The process failed.
    """
    run = [sys.executable, "-m"]
    if processes > 1:
        run += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*run, module, step, str(folder), config.model_dump_json()]
    threads = {"OMP_NUM_THREADS": str(max(1, available_threads() // processes))} if processes > 1 else {}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        faults = [line for line in said if "Error" in line] or said
        # torchrun's own summary stands behind what its processes said.
        raise RwmError(f"The step '{step}' failed: {faults[0 if processes > 1 else -1]}.")
    return dict(json.loads(done.stdout))


def child(steps: Mapping[str, Callable[[Path, Config], dict[str, float]]], kind: type[Config]) -> None:
    """Be the process of :func:`in_child`: print what the step measured, and the peak memory, MiB."""
    step, folder, config = sys.argv[1:]
    measured = steps[step](Path(folder), kind.model_validate_json(config))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(json.dumps({"peak_mib": peak_mib} | measured))
