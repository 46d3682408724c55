"""The one place evaluations end in: ``summary.json`` in the schema of :mod:`rwmdata.evaluation_summary`."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from rwmdata.atomic import write_json
from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import SUMMARY_FILE, EvaluationSummary, read_summary
from rwmdata.runs import Run

__all__ = ["EvaluationSummary", "finish_evaluation", "read_summary"]


def finish_evaluation(
    run: Run, robot: str, scalars: list[dict[str, Any]], units: str = "", **more: Any
) -> EvaluationSummary:
    """Write ``summary.json`` and finish the run with it.

    Args:
        run: The running ``eval`` run; its config names the evaluation, its parents what was evaluated.
        robot: Name of the robot.
        scalars: Rows of :class:`rwmdata.evaluation_summary.Scalar`.
        units: What the metrics are measured in.
        more: What this evaluation alone has to say: windows, split, ...

    Raises:
        RwmError: A scalar is not finite or has an unknown field.
    """
    try:
        summary = EvaluationSummary.model_validate(
            {
                "evaluation": run.meta.config["evaluation"],
                "run": run.id,
                **run.meta.parents,
                "robot": robot,
                "seed": run.meta.seed,
                "units": units,
                **more,
                "scalars": scalars,
            }
        )
    except ValidationError as exc:
        raise RwmError(f"The evaluation's numbers cannot be kept: {one_line(exc)}.") from exc
    content = summary.model_dump(mode="json")
    write_json(run.path / SUMMARY_FILE, content)
    run.finish(content)
    return summary
