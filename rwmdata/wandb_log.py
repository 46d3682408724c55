"""Weights & Biases beside our own metrics: what a run logs is sent on, each step's numbers once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rwmdata.errors import RwmError

if TYPE_CHECKING:
    from rwmdata.runs import Run


def wandb_package() -> Any:
    """Return the package wandb.

    Raises:
        RwmError: It is not installed.
    """
    try:
        import wandb
    except ImportError as exc:
        raise RwmError(f"Weights & Biases needs the package wandb: {exc}.", "pip install 'rwm[wandb]'") from exc
    return wandb


class WandbLog:
    """Sends a run's metrics to a project, offline too (``WANDB_MODE=offline``).

    A resumed run does some steps again; those that ``metrics.jsonl`` shows as logged are not sent a second time. So
    this is made before the metrics are truncated.

    Args:
        run: The run; its kind and id name the one at Weights & Biases, so that a resumed run goes on there.
        project: The project.

    Raises:
        RwmError: wandb is missing, or refuses.
    """

    def __init__(self, run: Run, project: str) -> None:
        wandb = wandb_package()
        self._sent = {(row["step"], row["metric"]) for row in run.metrics()}
        name = f"{run.kind}-{run.id}"
        try:
            self._run = wandb.init(
                project=project,
                id=name,
                name=name,
                job_type=run.kind,
                resume="allow",
                dir=str(run.path),
                config={**run.meta.config, "parents": run.meta.parents},
            )
        except Exception as exc:  # The network, the account, the settings: whatever it is, the run is not to blame.
            raise RwmError(f"Weights & Biases refuses: {' '.join(str(exc).split())}.", "WANDB_MODE=offline") from exc

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Send one step's numbers, those that are not finite left out, but for what was sent before."""
        new = {k: v for k, v in metrics.items() if (step, k) not in self._sent and math.isfinite(v)}
        self._sent.update((step, k) for k in new)
        if new:
            self._run.log(new, step=step)

    def close(self, failed: bool) -> None:
        """Send what is left and mark the run there as finished or failed."""
        self._run.finish(exit_code=int(failed))
