"""A run is a folder: resolved config, ``run.json``, metrics as rows, checkpoints, reports."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from rwmdata.atomic import commit_folder, ended, write_json
from rwmdata.checksums import CHANGED, is_changed, sealed
from rwmdata.clock import moment_after, now, text_of
from rwmdata.config import Model, one_line
from rwmdata.environment import git_state, versions
from rwmdata.errors import RwmError
from rwmdata.locks import exclusive, held
from rwmdata.machine import place
from rwmdata.metrics_file import METRICS_FILE, MetricsFile, Row
from rwmdata.processes import ended_by_signals, held_back, interruption
from rwmdata.wandb_log import WandbLog

Status = Literal["created", "running", "finished", "failed", "interrupted"]
GONE = "gone"
"""Shown in place of ``running`` where the process has ended without a word."""
KEPT = (".safetensors", ".pt")
RUN_FILE = "run.json"
LOCK_FILE = ".lock"
"""In a run's folder, held by the process that runs it."""
HOW_TO_MAKE = {
    "model": "rwm fit",
    "policy": "rwm policy",
    "train": "rwm train",
    "eval": "rwm eval uncertainty",
    "report": "rwm report",
}
KINDS = tuple(HOW_TO_MAKE)
STAMP = "%Y%m%d-%H%M%S"
"""Begins a run's id: when it was created."""
DIGEST = "#sha256="
"""Between a file and the digest of its content, where lineage names a file and not a run."""
LOG = logging.getLogger(__name__)
"""Says at level INFO which run begins, and in which folder."""


class RunMeta(BaseModel):
    """Content of ``run.json``."""

    id: str
    kind: str
    status: Status
    created: str
    finished: str | None = None
    seed: int
    parents: dict[str, str | None]
    """Lineage, for example ``{"dataset": ..., "model": ...}``: names and run ids."""
    config: dict[str, Any]
    summary: dict[str, Any] = {}
    error: str | None = None
    command: list[str] = []
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    pid: int | None = None
    """Process that runs it, on that machine."""
    place: str | None = None
    """Host, boot and PID namespace of that process, see :func:`rwmdata.machine.place`."""
    git: dict[str, str | bool] = {}


def _moment_of_new(runs_dir: Path) -> datetime:
    """Return the time a new run is created at: later than every other run, also where the clock was set back."""
    stamp = f"{datetime.now(UTC):{STAMP}}"
    return moment_after(p / RUN_FILE for p in runs_dir.glob("*/*") if p.name[:1].isdigit() and p.name >= stamp)


def state_before(state_file: Path) -> Path:
    """Return the name the state before the newest one is kept under."""
    return state_file.with_stem(f"{state_file.stem}-before")


class HasRuns(Protocol):
    """A home folder, as far as a new run needs to know it."""

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs."""


class Run:
    """One stage's folder under ``runs/<kind>/<id>/``; ids are unique within a kind and sort by creation time."""

    def __init__(self, path: Path, meta: RunMeta) -> None:
        self.path, self.meta = path, meta
        self.id, self.kind = meta.id, meta.kind
        self._wandb: WandbLog | None = None

    @property
    def status(self) -> str:
        """The recorded status; ``gone`` where that is ``running`` and the process that ran it is there no more."""
        return GONE if self.gone else self.meta.status

    @property
    def gone(self) -> bool:
        """Whether it says running, but was cut off: its lock is free, and its process is gone or long silent."""
        meta = self.meta
        if meta.status != "running" or held(self.path / LOCK_FILE):
            return False
        where = meta.place or (place() if meta.machine.get("host") == platform.node() else "")
        return meta.pid is None or ended(meta.pid, where, self.path)

    @property
    def metrics_file(self) -> MetricsFile:
        """The numbers it logged."""
        return MetricsFile(self.path / METRICS_FILE)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model_file(self) -> Path:
        """The model a fit keeps: the weights of lowest held-out loss."""
        return self.checkpoints / "model.safetensors"

    @property
    def policy_file(self) -> Path:
        """The newest policy of a training."""
        return self.checkpoints / "policy.safetensors"

    @property
    def checkpoint(self) -> Checkpoint:
        """The model or the policy that it keeps."""
        return Checkpoint(self.model_file if self.kind == "model" else self.policy_file, self.id, self)

    @property
    def model_checkpoint(self) -> Checkpoint | None:
        """The model that a fit, or a training with a model beside the policy, keeps; None where there is none."""
        held = self.kind == "model" or (self.kind == "train" and self.model_file.is_file())
        return Checkpoint(self.model_file, self.id, self) if held else None

    @property
    def state_file(self) -> Path:
        """What a resumed run continues from: newest weights, optimizer and counters."""
        return self.checkpoints / "state.pt"

    @property
    def kept_files(self) -> list[Path]:
        """The model, policy and state files that it keeps."""
        return sorted(p for p in self.checkpoints.glob("*") if p.suffix in KEPT and not p.name.startswith("."))

    def stage_file(self, iteration: int) -> Path:
        """Return the file of the policy after ``iteration`` iterations; all are kept for replays."""
        return self.checkpoints / f"policy-{iteration:06d}.safetensors"

    def stage_files(self) -> list[Path]:
        """Return the policies a training kept on its way, earliest first."""
        return sorted(self.checkpoints.glob("policy-*.safetensors"))

    @classmethod
    def create(cls, home: HasRuns, kind: str, config: dict[str, Any], parents: dict[str, str | None], seed: int) -> Run:
        """Make a new run folder with its resolved config.

        Raises:
            RwmError: The folder cannot be written.
        """
        moment = _moment_of_new(home.runs_dir)
        run_id = f"{moment:{STAMP}}-{secrets.token_hex(3)}"
        machine = {"host": platform.node(), "system": platform.platform(), "cpu": platform.machine()}
        state = {"command": sys.argv, "versions": versions(), "machine": machine, "git": git_state()}
        made = {"id": run_id, "kind": kind, "status": "created", "created": text_of(moment), "seed": seed}
        meta = RunMeta.model_validate({**made, "parents": parents, "config": config, **state})
        path = home.runs_dir / kind / run_id
        with commit_folder(path) as folder:
            run = cls(folder, meta)
            run.checkpoints.mkdir()
            write_json(folder / "config.json", config)
            run.save()
        return cls(path, meta)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open an existing run folder.

        Raises:
            RwmError: ``run.json`` is missing, does not validate, or says something else than when it was written.
        """
        file = path / RUN_FILE
        try:
            text = file.read_text()
            meta, changed = RunMeta.model_validate_json(text), is_changed(json.loads(text))
        except (OSError, ValueError) as exc:  # A byte that is no text is a ValueError.
            raise RwmError(f"{file} is not a readable run record: {one_line(exc)}.", "rwm runs ls") from exc
        if changed:
            own = 'rwm data fsck; a change of your own is taken once the line "checksum" is deleted'
            raise RwmError(f"{file} {CHANGED}.", own)
        return cls(path, meta)

    def save(self) -> None:
        """Write ``run.json`` atomically, with a checksum."""
        write_json(self.path / RUN_FILE, sealed(json.loads(self.meta.model_dump_json())))

    def configuration(self, model: type[Model]) -> Model:
        """Return the options the run was started with; an option that an older record lacks has its field's default.

        Raises:
            RwmError: The record does not fit.
        """
        try:
            return model.model_validate(self.meta.config)
        except ValidationError as exc:
            raise RwmError(
                f"The recorded options of run {self.id} are not valid: {one_line(exc)}.", f"rwm runs show {self.id}"
            ) from exc

    def update(self, **changes: Any) -> None:
        """Change fields of ``run.json`` and save it; what was logged before is durable then."""
        self.sync()
        with held_back():  # Else a signal could leave one status here and another in the file.
            self.meta = self.meta.model_copy(update=changes)
            self.save()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append one row per metric to ``metrics.jsonl``, durable after :meth:`sync`; non-finite values become null."""
        values = {name: float(value) for name, value in metrics.items()}
        self.metrics_file.append(step, values)
        if self._wandb:
            self._wandb.log(step, values)

    def sync(self) -> None:
        """Make the metrics logged so far durable, before a state is saved that counts on them."""
        self.metrics_file.sync()

    def metrics(self) -> list[Row]:
        """Return the metric rows; a line that is none (torn by a crash, damaged) is left out."""
        return [*self.metrics_file.rows()]

    def series(self) -> dict[str, list[float | None]]:
        """Return every metric's values in the order of the iterations; None where one was not finite."""
        values: dict[str, list[float | None]] = {}
        for row in self.metrics_file.rows():
            values.setdefault(row["metric"], []).append(row["value"])
        return values

    def truncate_metrics(self, step: int) -> None:
        """Drop the rows after ``step``: a resumed run writes them again."""
        self.metrics_file.keep_until(step)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished with its key numbers; only an unfinished run needs the state before the last."""
        state_before(self.state_file).unlink(missing_ok=True)
        self.update(status="finished", finished=now(), summary=summary, error=None)

    def _open_wandb(self) -> WandbLog | None:
        """Return the log at Weights & Biases if the configuration asks for one."""
        project = self.meta.config.get("wandb")
        if not project:
            return None
        config = {**self.meta.config, "parents": self.meta.parents}
        sent = {(row["step"], row["metric"]) for row in self.metrics_file.rows()}
        return WandbLog(project, f"{self.kind}-{self.id}", self.kind, self.path, config, sent)

    @contextmanager
    def running(self) -> Iterator[Run]:
        """Mark the run as running; as failed or interrupted when the block ends by an exception.

        SIGTERM and SIGHUP interrupt it as Ctrl-C does, unless they are handled already. The block calls :meth:`finish`;
        leaving it without one leaves the status ``running``. Where the configuration names a project of Weights &
        Biases as ``wandb``, what the block logs goes there too.

        Raises:
            RwmError: Another process runs it, or wandb is missing or refuses.
        """
        machine = {**self.meta.machine, "host": platform.node()}
        with ended_by_signals(), exclusive(self.path / LOCK_FILE, f"Run {self.id}", "rwm runs ls"):
            try:
                self.update(status="running", error=None, pid=os.getpid(), machine=machine, place=place())
                LOG.info("%s %s writes to %s", self.kind, self.id, self.path)
                self._wandb = self._open_wandb()
                yield self
            except BaseException as exc:
                fault = " ".join(f"{type(exc).__name__}: {exc}".split())[:2000]
                if (by := interruption(exc)) is None:
                    self.update(status="failed", error=fault)
                elif self.meta.status != "finished":  # Else all was done when the signal came.
                    beside = "" if isinstance(exc, KeyboardInterrupt) else f" ({fault})"
                    self.update(status="interrupted", error=f"interrupted by {by}{beside}")
                raise
            finally:
                if self._wandb:
                    self._wandb.close(failed=self.meta.status != "finished")
                self._wandb = None


@dataclass(frozen=True)
class Checkpoint:
    """A model or policy file, and its name in lineage and messages."""

    file: Path
    id: str
    """Id of the run whose own model or policy it is; of any other file ``FILE#sha256=DIGEST``."""
    run: Run | None = None
    """That run."""

    @classmethod
    def of_file(cls, file: Path) -> Checkpoint:
        """Return a file that belongs to no run.

        Raises:
            RwmError: It cannot be read.
        """
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as exc:
            raise RwmError(f"Cannot read {file}: {exc.strerror}.", "rwm runs ls") from exc
        return cls(file.resolve(), f"{file.resolve()}{DIGEST}{digest[:16]}")

    def parent(self, kind: str) -> str | None:
        """Return what its run was made from: the dataset's name, or the model's.

        The dataset of an online training is the one that its replay was exported to.
        """
        if self.run is None:
            return None
        exported = self.run.meta.summary.get("exported") if kind == "dataset" else None
        return self.run.meta.parents.get(kind) or exported
