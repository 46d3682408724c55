"""How every evaluation begins and ends: an ``eval`` run, and ``summary.json`` with its numbers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from rwmdata.atomic import write_json
from rwmdata.config import Frozen, one_line
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import SUMMARY_FILE, EvaluationSummary, Scalar
from rwmdata.home import Home
from rwmdata.runs import Run


def start_evaluation(home: Home, name: str, config: Frozen, parents: Mapping[str, str | None], seed: int) -> Run:
    """Return a new ``eval`` run that records what is evaluated and how."""
    return Run.create(home, "eval", {"evaluation": name, **config.model_dump()}, dict(parents), seed)


def finish_evaluation(
    run: Run, robot: str, scalars: Sequence[Scalar], units: str = "", **more: object
) -> EvaluationSummary:
    """Write ``summary.json`` and finish the running ``eval`` run with it.

    The run's config names the evaluation, its parents what was evaluated; ``more`` are fields of this evaluation
    alone: windows, split, ...

    Raises:
        RwmError: A further field is not finite.
    """
    content = {"evaluation": run.meta.config["evaluation"], "run": run.id, **run.meta.parents, "robot": robot,
               "seed": run.meta.seed, "units": units, **more, "scalars": scalars}  # fmt: skip
    try:
        summary = EvaluationSummary.model_validate(content)
    except ValidationError as exc:
        raise RwmError(f"The evaluation's numbers cannot be kept: {one_line(exc)}.") from exc
    written = summary.model_dump(mode="json")
    write_json(run.path / SUMMARY_FILE, written)
    run.finish(written)
    return summary
