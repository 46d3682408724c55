"""Weights & Biases beside our own metrics: what a run logs is sent there too, each number once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rwmdata.errors import RwmError
from rwmdata.optional import optional_import


def wandb_package() -> Any:
    """Return the package wandb.

    Raises:
        RwmError: It is not installed.
    """
    with optional_import("Weights & Biases needs the package wandb", extra="wandb"):
        import wandb
    return wandb


class WandbLog:
    """Sends a run's metrics to a project, offline too (``WANDB_MODE=offline``).

    A resumed run repeats some steps; numbers that are already there are not sent again.

    Args:
        project: The project.
        name: Name and id of the run there; under the same one a resumed run continues.
        kind: Kind of the run.
        folder: Folder for the package's files.
        config: Shown with the run.
        sent: Step and name of every number logged before.

    Raises:
        RwmError: wandb is missing, or refuses.
    """

    def __init__(
        self, project: str, name: str, kind: str, folder: Path, config: dict[str, Any], sent: set[tuple[int, str]]
    ) -> None:
        wandb = wandb_package()
        self._sent = sent
        try:
            about = {"project": project, "id": name, "name": name, "job_type": kind, "config": config}
            self._run = wandb.init(**about, dir=str(folder), resume="allow")
        except Exception as exc:  # The network, the account or the settings, not the run.
            raise RwmError(f"Weights & Biases refuses: {' '.join(str(exc).split())}.", "WANDB_MODE=offline") from exc

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Send the finite numbers of one step that were not sent before."""
        new = {k: v for k, v in metrics.items() if (step, k) not in self._sent and math.isfinite(v)}
        self._sent.update((step, k) for k in new)
        if new:
            self._run.log(new, step=step)

    def close(self, failed: bool) -> None:
        """Send the rest and mark the run there as finished or failed."""
        self._run.finish(exit_code=int(failed))
