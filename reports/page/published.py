"""Numbers others published, beside ours; the numbers lie in ``published.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from rwmdata.config import Frozen
from rwmdata.evaluation_summary import EvaluationSummary, Scalar


class KeyNumber(Frozen):
    """A number that says most about a model or a policy, and what was published of the same quantity."""

    evaluation: str
    metric: str
    mode: str
    label: str
    horizon: int | None = None
    """None takes the scalar whatever its horizon."""
    published: str = ""
    source: str = ""
    difference: str = ""
    """How its definition or its conditions differ from ours."""


_NUMBERS = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
KEY_NUMBERS = [KeyNumber.model_validate(entry) for entry in _NUMBERS["key_numbers"]]
SOURCES: str = _NUMBERS["sources"]
"""Which papers the names in them stand for."""


@dataclass(frozen=True)
class Measured:
    """A key number as an evaluation found it."""

    key: KeyNumber
    scalar: Scalar
    summary: EvaluationSummary

    @property
    def label(self) -> str:
        """Its name, with the step it was taken at where that depends on the evaluation."""
        at = self.scalar.horizon if self.key.horizon is None else None
        return self.key.label if at is None else f"{self.key.label} ({at})"

    @property
    def conditions(self) -> str:
        """How many trajectories of how many steps, where the evaluation says so."""
        extra = self.summary.model_extra or {}
        return ", ".join(f"{extra[name]} {name}" for name in ("windows", "steps") if extra.get(name) is not None)


def key_numbers(summaries: list[EvaluationSummary]) -> list[Measured]:
    """Return the key numbers that were measured, each from the newest evaluation that has it.

    Args:
        summaries: Of one model or one policy, newest first.
    """
    measured = []
    for key in KEY_NUMBERS:
        for summary in summaries:
            scalar = summary.find(key.metric, key.mode, key.horizon)
            if summary.evaluation == key.evaluation and scalar is not None:
                measured.append(Measured(key, scalar, summary))
                break
    return measured
