"""Numbers others published, beside ours: where they come from and how far they are the same thing."""

from __future__ import annotations

from dataclasses import dataclass

from rwmdata.evaluations import EvaluationSummary, Scalar

RELEASED = "released checkpoint, reduced-scale run of 32 windows x 200 steps (RWM-U, arXiv:2504.16680)"
MEASURED = "released checkpoint (RWM-U, arXiv:2504.16680), measured by others"
REBUILD = "independent re-build on the 10,000 published rows (method of RWM, arXiv:2501.10100)"
OTHER_DATA = "other data and normaliser"
SAME = "same definition; " + OTHER_DATA


@dataclass(frozen=True)
class KeyNumber:
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


KEY_NUMBERS = (
    KeyNumber("dynamics", "rel_l1", "model", "Relative L1 error, 1 step", 1),
    KeyNumber("dynamics", "rel_l1", "model", "Relative L1 error, 32 steps", 32),
    KeyNumber("dynamics", "rel_l1", "model", "Relative L1 error, 100 steps", 100),
    KeyNumber("dynamics", "rel_l1", "model", "Relative L1 error, 368 steps", 368, "0.358 (teacher forced 1.65)",
              REBUILD, "same definition; 4 trajectories of other data, other normaliser"),
    KeyNumber("dynamics", "rel_l1", "hold_last", "the same, last state repeated", 368, "0.993", REBUILD,
              "same definition; 4 trajectories of other data: says how hard its data is"),
    KeyNumber("uncertainty", "pearson_pooled", "mean", "Correlation of uncertainty and error", None, "0.295", RELEASED,
              SAME),
    KeyNumber("uncertainty", "pearson_pooled", "sampled_member", "the same, one member followed", None, "0.289",
              RELEASED, SAME),
    KeyNumber("uncertainty", "pearson_step_averaged", "mean", "Correlation of their means by step", None, "0.701",
              RELEASED, SAME),
    KeyNumber("uncertainty", "pearson_within", "mean", "Correlation without step and trajectory means", None, "0.42",
              MEASURED, "same definition; 368 steps, " + OTHER_DATA),
    KeyNumber("uncertainty", "final_l1", "mean", "L1 error at the last step", None, "215.5", RELEASED,
              "sum over 45 normalised columns: depends on the normaliser"),
    KeyNumber("uncertainty", "final_epistemic", "mean", "Epistemic uncertainty at the last step", None, "1.99",
              RELEASED, "sum over 45 normalised columns: depends on the normaliser"),
    KeyNumber("uncertainty", "final_aleatoric", "mean", "Aleatoric uncertainty at the last step", None, "0.0027",
              RELEASED, "sum over 45 normalised columns: depends on the normaliser"),
    KeyNumber("calibration", "coverage", "epistemic", "Within one epistemic std, 1 step", 1, "0.16", MEASURED,
              "nominal 0.683; " + OTHER_DATA),
    KeyNumber("calibration", "coverage", "epistemic", "Within one epistemic std, 100 steps", 100, "0.046", MEASURED,
              "nominal 0.683; " + OTHER_DATA),
    KeyNumber("calibration", "coverage", "epistemic_calibrated", "the same, calibrated by step", 100),
    KeyNumber("calibration", "error_over_std", "epistemic", "Error over epistemic std, 1 step", 1, "8.3", MEASURED,
              "0.8 for a Gaussian; " + OTHER_DATA),
    KeyNumber("calibration", "error_over_std", "epistemic", "Error over epistemic std, 100 steps", 100, "33", MEASURED,
              "0.8 for a Gaussian; " + OTHER_DATA),
    KeyNumber("policy", "normalized_score", "undisturbed", "Normalised score", None,
              "0.91 (0.82 from simulated data alone)", "ANYmal hardware, Table 1 of RWM-U (arXiv:2504.16680)",
              "not the same: hardware, and normalised otherwise; ours is 0 for random actions, 1 for the expert"),
    KeyNumber("policy", "normalized_score", "disturbed", "the same, disturbed"),
    KeyNumber("policy", "return", "undisturbed", "Return of an episode"),
    KeyNumber("policy", "lin_vel_error", "undisturbed", "Velocity error (m/s)"),
    KeyNumber("policy", "yaw_rate_error", "undisturbed", "Yaw rate error (rad/s)"),
    KeyNumber("policy", "falls_per_minute", "disturbed", "Falls a minute, disturbed"),
)  # fmt: skip


def scalar_of(summary: EvaluationSummary, metric: str, mode: str, horizon: int | None = None) -> Scalar | None:
    """Return a summary's scalar; without a horizon, the first of that metric and mode."""
    found = (s for s in summary.scalars if (s.metric, s.mode) == (metric, mode))
    return next((s for s in found if horizon in (None, s.horizon)), None)


def key_numbers(summaries: list[EvaluationSummary]) -> list[tuple[KeyNumber, Scalar]]:
    """Return the key numbers that were measured, each from the newest evaluation that has it.

    Args:
        summaries: Of one model or one policy, newest first.
    """
    found = []
    for key in KEY_NUMBERS:
        of_kind = (s for s in summaries if s.evaluation == key.evaluation)
        scalars = (scalar_of(s, key.metric, key.mode, key.horizon) for s in of_kind)
        scalar = next((s for s in scalars if s is not None), None)
        if scalar is not None:
            found.append((key, scalar))
    return found
