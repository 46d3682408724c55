"""Where things are: ``data/<dataset>/`` and ``runs/<kind>/<id>/`` under one home folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.manifest import MANIFEST_FILE
from rwmdata.runs import DIGEST, HOW_TO_MAKE, Checkpoint, Run
from rwmdata.shipped import SAMPLE, shipped_dataset, shipped_file

POLICY_KINDS = ("policy", "train")
"""Kinds of runs that keep a policy."""
CALLED = {"train": "training", "eval": "evaluation"}
"""What people are told of kinds of runs that are named by a verb."""
HOW_TO_BEGIN = f"rwm data export --task Pretrain-v0, or name the one that comes along: {SAMPLE}"
WITHOUT_EFFECT = {"wandb"}
"""Fields of a configuration that change nothing about what is made."""


@dataclass(frozen=True)
class Home:
    """The folder that holds a user's datasets and runs."""

    root: Path

    @classmethod
    def resolve(cls, path: str | Path | None = None) -> Home:
        """Return the home at ``path``, else at ``$RWM_HOME``, else in the current folder."""
        return cls(Path(path or os.environ.get("RWM_HOME") or ".").expanduser())

    @property
    def data_dir(self) -> Path:
        """Folder of the datasets."""
        return self.root / "data"

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs."""
        return self.root / "runs"

    def datasets(self) -> list[Dataset]:
        """Return every committed dataset whose manifest can be read, newest first."""
        return self.readable_datasets()[0]

    def readable_datasets(self) -> tuple[list[Dataset], list[RwmError]]:
        """Return the datasets whose manifest can be read, newest first, and a fault for each of the others."""
        datasets, broken = _opened(Dataset.open, _folders(self.data_dir, f"*/{MANIFEST_FILE}"))
        return sorted(datasets, key=lambda d: (d.manifest.created, d.name), reverse=True), broken

    def dataset(self, name: str | None = None) -> Dataset:
        """Return a dataset by name or by path; without one, the newest. ``sample`` comes along.

        Raises:
            RwmError: There is none, none of that name, or its manifest cannot be read.
        """
        if name is None:
            if datasets := self.datasets():
                return datasets[0]
            raise RwmError(f"No dataset yet in {self.data_dir}.", HOW_TO_BEGIN)
        return Dataset.open(self.dataset_folder(name))

    def dataset_folder(self, name: str) -> Path:
        """Return the folder of the dataset of that name or path, readable or not.

        Raises:
            RwmError: There is none, or a link that leads nowhere.
        """
        for path in (self.data_dir / name, Path(name)):
            if (path / MANIFEST_FILE).is_file():
                return path
            if path.is_symlink() and not path.exists():
                fault = f"{path} is a link to {path.readlink()}, which is not there."
                raise RwmError(fault, "make its target available, or remove the link")
        if shipped := shipped_dataset(name):
            return shipped
        known = ", ".join(d.name for d in self.datasets()) or "none"
        raise RwmError(f"No dataset '{name}' in {self.data_dir}; datasets: {known}.", "rwm data ls")

    def name_of(self, dataset: Dataset) -> str:
        """Return what :meth:`dataset` finds this one by, from anywhere: its name, or its path if it is elsewhere."""
        own, place = self.data_dir / dataset.name, dataset.path.resolve()
        known = own if own.exists() else shipped_dataset(dataset.name)
        return dataset.name if known and known.resolve() == place else str(place)

    def own(self, folder: Path) -> Path:
        """Return a dataset's or a run's folder, or the link in its place, by its place in this home.

        Raises:
            RwmError: It is of another home, or a folder above it is a link that leads out of this one.
        """
        place = Path(os.path.abspath(folder))
        real = place.parent.resolve()
        if real == self.data_dir.resolve() or real.parent == self.runs_dir.resolve():
            return place
        fault = f"{place} is no dataset and no run of the home {self.root.resolve()}; nothing was removed."
        raise RwmError(fault, "--home FOLDER, the home it is in")

    def run_of(self, kind: str, config: BaseModel, parents: dict[str, str | None]) -> Run | None:
        """Return a run made with this configuration from these parents: a finished one, else the newest.

        Options that an older record lacks have their defaults; where metrics are sent to makes no difference.
        """
        wanted = config.model_dump(exclude=WITHOUT_EFFECT)

        def is_same(run: Run) -> bool:
            try:
                return type(config).model_validate(run.meta.config).model_dump(exclude=WITHOUT_EFFECT) == wanted
            except ValidationError:
                return False

        same = [r for r in self.runs(kind) if r.meta.parents == parents and is_same(r)]
        return next((r for r in same if r.meta.status == "finished"), same[0] if same else None)

    def runs(self, kind: str | None = None) -> list[Run]:
        """Return the runs of one kind (or of all) whose record can be read, newest first."""
        return self.readable_runs(kind)[0]

    def readable_runs(self, kind: str | None = None) -> tuple[list[Run], list[RwmError]]:
        """Return the runs whose record can be read, newest first, and a fault for each of the others."""
        runs, broken = _opened(Run.open, _folders(self.runs_dir, f"{kind or '*'}/*/run.json"))
        return sorted(runs, key=lambda r: (r.meta.created, r.id), reverse=True), broken

    def run(self, kind: str | None, run_id: str | None = None, runs: list[Run] | None = None) -> Run:
        """Return a run by id, unique prefix or path; without one, the newest finished run of that kind.

        Args:
            kind: One of ``KINDS``, or None for all.
            run_id: Names it.
            runs: Those to choose from; all of that kind when left out.

        Raises:
            RwmError: There is none, or the id fits none or several.
        """
        if run_id and (Path(run_id) / "run.json").is_file():
            opened = Run.open(Path(run_id))
            if kind not in (None, opened.kind):
                raise RwmError(f"{run_id} is a {opened.kind} run, not a {kind} run.", f"rwm runs ls --kind {kind}")
            return opened
        label, runs = CALLED.get(kind or "", kind) or "run", self.runs(kind) if runs is None else runs
        if run_id is None:
            if finished := [r for r in runs if r.meta.status == "finished"]:
                return finished[0]
            comes_along = f", or --{kind} shipped" if kind in ("model", "policy") else ""
            hint = HOW_TO_MAKE.get(kind or "", "rwm runs ls") + comes_along
            raise RwmError(f"No finished {label} yet in {self.runs_dir}.", hint)
        if broken := _folders(self.runs_dir, f"{kind or '*'}/{escape(run_id)}/run.json"):
            Run.open(broken[0])  # Listed or not, it is the one that is meant: say what is wrong with it.
        matches = [r for r in runs if r.id == run_id] or [r for r in runs if r.id.startswith(run_id)]
        if len(matches) != 1:
            fault = f"'{run_id}' fits {len(matches)} {label}s" if matches else f"No {label} '{run_id}'"
            raise RwmError(f"{fault} in {self.runs_dir}.", f"rwm runs ls{f' --kind {kind}' if kind else ''}")
        return matches[0]

    def model(self, name: str | None = None) -> Checkpoint:
        """Return the model named by its run (see :meth:`run`) or by its file; without a name, the newest fit's.

        The run is a fit, or a training that keeps a model beside its policy. ``shipped`` and ``judge`` come along;
        those of another robot than anymal_d would be named ROBOT/NAME.

        Raises:
            RwmError: There is none, the name fits several, or the file is not the one that lineage recorded.
        """
        if name is None:
            return self._of_run(self.run("model"))
        if checkpoint := self._of_file(name):
            return checkpoint
        if shipped := shipped_file("models", name):
            return Checkpoint.of_file(shipped)
        if (Path(name) / "run.json").is_file():
            kept = Run.open(Path(name)).model_checkpoint
            return self._of_run(kept.run, kept) if kept and kept.run else self._of_run(self.run("model", name))
        trained = [r for r in self.runs("train") if r.model_checkpoint]
        chosen = self.run("model", name, [*self.runs("model"), *trained])
        return self._of_run(chosen, chosen.model_checkpoint)

    def policy(self, name: str | None = None, kinds: tuple[str, ...] = POLICY_KINDS) -> Checkpoint:
        """Return the policy named by its run or by its file; without a name, that of the newest policy run.

        Those that come along have names too: ``expert``, ``shipped``, ``go2/expert``.

        Raises:
            RwmError: There is none, the name fits several, or the file is not the one that lineage recorded.
        """
        if name is None:
            return self._of_run(self.run("policy"))
        checkpoint = self.find_policy(name, kinds)
        if checkpoint is None and (shipped := shipped_file("policies", name)):
            return Checkpoint.of_file(shipped)
        if checkpoint is None:
            what = " or ".join(kinds)
            raise RwmError(f"'{name}' is neither a {what} run in {self.runs_dir} nor a policy file.", "rwm runs ls")
        return checkpoint

    def find_policy(self, name: str, kinds: tuple[str, ...] = POLICY_KINDS) -> Checkpoint | None:
        """Return the policy named by its run, by its file or as ``go2/shipped``; None where nothing has that name.

        Raises:
            RwmError: The name fits several runs, or the file is not the one that lineage recorded.
        """
        if checkpoint := self._of_file(name):
            return checkpoint
        if "/" in name and (shipped := shipped_file("policies", name)):
            return Checkpoint.of_file(shipped)
        runs = [r for r in self.runs() if r.kind in kinds]
        if not (Path(name) / "run.json").is_file() and not any(r.id.startswith(name) for r in runs):
            return None
        run = self.run(None, name, runs)
        return self._of_run(run) if run.kind in kinds else None

    def _of_file(self, name: str) -> Checkpoint | None:
        path, recorded, digest = name.partition(DIGEST)
        file = Path(path).resolve()
        if not file.is_file() and not recorded:
            return None
        checkpoint = Checkpoint.of_file(file)
        if recorded and checkpoint.id != f"{file}{DIGEST}{digest}":
            raise RwmError(f"{file} has changed since: its SHA-256 no longer begins with {digest}.", "a new run")
        folder = file.parent.parent
        is_run = self._holds(folder) and (folder / "run.json").is_file()
        if not is_run:
            return checkpoint
        run = Run.open(folder)
        return next((own for own in (run.checkpoint, run.model_checkpoint) if own and own.file == file), checkpoint)

    def _of_run(self, run: Run, kept: Checkpoint | None = None) -> Checkpoint:
        """Return what a run keeps; lineage names runs of this home by their id, and files of another by their path."""
        kept = kept or run.checkpoint
        return kept if self._holds(run.path) else Checkpoint.of_file(kept.file)

    def _holds(self, folder: Path) -> bool:
        return folder.resolve().parent.parent == self.runs_dir.resolve()


Kept = TypeVar("Kept")


def _folders(root: Path, pattern: str) -> list[Path]:
    """Return the folders of the files that fit a pattern; hidden ones are not committed."""
    return [file.parent for file in sorted(root.glob(pattern)) if not file.parent.name.startswith(".")]


def _opened(open_: Callable[[Path], Kept], folders: list[Path]) -> tuple[list[Kept], list[RwmError]]:
    """Open folders; return what could be opened and a fault for each of the others."""
    kept: list[Kept] = []
    broken: list[RwmError] = []
    for folder in folders:
        try:
            kept.append(open_(folder))
        except RwmError as exc:
            broken.append(exc)
    return kept, broken
