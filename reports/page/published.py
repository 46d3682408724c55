"""Numbers others published, beside ours: where they come from and how far they are the same thing."""

from __future__ import annotations

from dataclasses import dataclass

from rwmdata.evaluation_summary import EvaluationSummary, Scalar

RELEASED = "released RWM-U checkpoint, reduced-scale run: 32 windows, 200 steps"
MEASURED = "released RWM-U checkpoint, measured by others"
REBUILD = "independent re-build of RWM on 10,000 published rows"
OTHER_DATA = "other data and normaliser"
SAME = "same definition; " + OTHER_DATA + "; the authors' evaluation feeds actions one step late"
SUMS = "sum over 45 normalised columns, so it depends on the normaliser; " + OTHER_DATA
RANKING = "Correlation of uncertainty and error"
SOURCES = "RWM is arXiv:2501.10100, RWM-U arXiv:2504.16680."


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
    KeyNumber("dynamics", "rel_l1", "hold_last", "Relative L1 error of the last state held, 368 steps", 368,
              "0.993", REBUILD, "same definition; 4 trajectories of other data: how hard that data is"),
    KeyNumber("uncertainty", "pearson_pooled", "mean", RANKING, None, "0.295", RELEASED,
              SAME),
    KeyNumber("uncertainty", "pearson_pooled", "sampled_member", RANKING + ", one member followed",
              None, "0.289", RELEASED, SAME),
    KeyNumber("uncertainty", "pearson_step_averaged", "mean", RANKING + ", means by step", None, "0.701",
              RELEASED, SAME),
    KeyNumber("uncertainty", "pearson_within", "mean", RANKING + ", step and trajectory means removed", None,
              "0.42", MEASURED, "same definition; 368 steps, " + OTHER_DATA),
    KeyNumber("uncertainty", "final_l1", "mean", "L1 error at the last step", None, "215.5", RELEASED,
              SUMS),
    KeyNumber("uncertainty", "final_epistemic", "mean", "Epistemic uncertainty at the last step", None, "1.99",
              RELEASED, SUMS),
    KeyNumber("uncertainty", "final_aleatoric", "mean", "Aleatoric uncertainty at the last step", None, "0.0027",
              RELEASED, SUMS),
    KeyNumber("calibration", "coverage", "epistemic", "Within one epistemic std, 1 step", 1, "0.16", MEASURED,
              "nominal 0.683; " + OTHER_DATA),
    KeyNumber("calibration", "coverage", "epistemic", "Within one epistemic std, 100 steps", 100, "0.046", MEASURED,
              "nominal 0.683; " + OTHER_DATA),
    KeyNumber("calibration", "coverage", "epistemic_calibrated", "Within one calibrated std, 100 steps", 100),
    KeyNumber("calibration", "error_over_std", "epistemic", "Error over epistemic std, 1 step", 1, "8.3", MEASURED,
              "0.8 for a Gaussian; " + OTHER_DATA),
    KeyNumber("calibration", "error_over_std", "epistemic", "Error over epistemic std, 100 steps", 100, "33", MEASURED,
              "0.8 for a Gaussian; " + OTHER_DATA),
    KeyNumber("policy", "normalized_score", "undisturbed", "Normalised score, undisturbed", None,
              "0.91 (0.82 from simulated data alone)", "RWM-U, Table 1: ANYmal hardware",
              "not the same: hardware, and normalised otherwise; ours is 0 for random actions, 1 for the expert"),
    KeyNumber("policy", "normalized_score", "disturbed", "Normalised score, disturbed"),
    KeyNumber("policy", "return", "undisturbed", "Return of an episode"),
    KeyNumber("policy", "lin_vel_error", "undisturbed", "Velocity error (m/s)"),
    KeyNumber("policy", "yaw_rate_error", "undisturbed", "Yaw rate error (rad/s)"),
    KeyNumber("policy", "falls_per_minute", "disturbed", "Falls a minute, disturbed"),
)  # fmt: skip


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
