"""Results of an evaluation: the one versioned schema of every ``summary.json``, and its reader."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmdata.text import quoted

SUMMARY_VERSION = 2
"""1 called the relative L1 error ``relative_l1``; 2 calls it ``rel_l1`` and names the group of a metric."""
SUMMARY_FILE = "summary.json"
RENAMED = ("relative_l1", "rel_l1")
"""Part of a metric's name in version 1, and its current form."""


def current_name(metric: str) -> str:
    """Return the current name of a metric."""
    return metric.replace(*RENAMED)


class Scalar(BaseModel):
    """One number of an evaluation."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    metric: str
    """``rel_l1``; with a group or a reward term after a slash, ``rmse/joint_pos``."""
    mode: str | None = None
    """Rollout mode, predictor, kind of standard deviation, or scenario it was measured in."""
    horizon: int | None = None
    """Forecast horizon, control steps."""
    group: str | None = None
    """State group or reward term; what follows the slash in ``metric`` when left out."""
    value: float | None
    """None where it is not defined, as the correlation of a constant."""
    low: float | None = None
    """Lower end of the 95 % interval, likewise ``high``; None where there is none."""
    high: float | None = None

    @property
    def key(self) -> tuple[str, str | None, int | None]:
        """Metric, mode and horizon: what tells the scalars of one summary apart."""
        return self.metric, self.mode, self.horizon

    @model_validator(mode="after")
    def _name_group(self) -> Scalar:
        self.group = self.group or self.metric.partition("/")[2] or None
        return self


class EvaluationSummary(BaseModel):
    """Content of an evaluation's ``summary.json``; further fields (windows, split) are up to each evaluation."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    summary_version: int = SUMMARY_VERSION
    evaluation: str
    run: str
    dataset: str | None = None
    model: str | None = None
    policy: str | None = None
    """Policy run, or the behaviour's name or file where it comes from no run."""
    robot: str
    seed: int
    units: str = ""
    """Units of the metrics, where they have one."""
    scalars: list[Scalar] = Field(default_factory=list)

    def find(self, metric: str, mode: str | None = None, horizon: int | None = None) -> Scalar | None:
        """Return the first scalar of a metric; without a mode or a horizon, whatever its mode or horizon."""
        of_metric = (s for s in self.scalars if s.metric == metric)
        return next((s for s in of_metric if mode in (None, s.mode) and horizon in (None, s.horizon)), None)

    def value(self, metric: str, mode: str | None = None, horizon: int | None = None) -> float | None:
        """Return the value of the scalar that :meth:`find` returns; None where it is undefined.

        Raises:
            RwmError: There is no such scalar.
        """
        scalar = self.find(metric, mode, horizon)
        if scalar is None:
            wanted = " ".join(str(part) for part in (metric, mode, horizon) if part is not None)
            raise RwmError(
                f"The {self.evaluation} evaluation {self.run} has no {wanted}.", f"rwm runs show {quoted(self.run)}"
            )
        return scalar.value

    @classmethod
    def read(cls, content: object, where: object) -> EvaluationSummary:
        """Validate the content of a summary; one of an earlier version is converted.

        Args:
            content: What the file or ``run.json`` holds.
            where: Its name in errors.

        Raises:
            RwmError: It is no summary of an evaluation, or one of a newer version.
        """
        version = content.get("summary_version") if isinstance(content, dict) else None
        if not isinstance(content, dict) or type(version) is not int:
            raise RwmError(f"{where} is not the summary of an evaluation: it has no summary_version.", "rwm runs ls")
        if version > SUMMARY_VERSION:
            known = f"summary version {version}, known up to {SUMMARY_VERSION}"
            raise RwmError(f"{where} was written by a newer version of rwm: {known}.", "update rwm")
        try:
            summary = cls.model_validate({**content, "summary_version": SUMMARY_VERSION})
        except ValidationError as exc:
            raise RwmError(f"{where} is not the summary of an evaluation: {one_line(exc)}.", "rwm runs ls") from exc
        for scalar in summary.scalars:
            scalar.metric = current_name(scalar.metric)
        return summary

    @classmethod
    def of_run(cls, run: Run) -> EvaluationSummary:
        """Return the summary of a finished evaluation.

        Raises:
            RwmError: The run is unfinished, or its summary cannot be read by this version.
        """
        if run.meta.status != "finished":
            raise RwmError(f"Evaluation {run.id} is {run.meta.status}; it has no summary.", "rwm runs show " + run.id)
        return cls.read(run.meta.summary, run.path / "run.json")


def read_summary(path: Path) -> EvaluationSummary:
    """Read a ``summary.json``.

    Raises:
        RwmError: The file is missing, is not JSON, or cannot be read by this version.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise RwmError(f"{path} cannot be read as JSON: {one_line(exc)}.", "rwm runs ls --kind eval") from exc
    return EvaluationSummary.read(content, path)
