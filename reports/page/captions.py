"""The question each evaluation answers, and the captions of its figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Title of an evaluation and the question it answers."""

    title: str
    question: str


EVALUATIONS = {
    "dynamics": About(
        "Prediction error",
        "The model predicts held-out trajectories from their first rows and the recorded actions alone, beside two "
        "predictors that need no learning: repeat the last state, and a linear model.",
    ),
    "uncertainty": About(
        "Uncertainty against error",
        "Does the ensemble know when it is wrong? Its epistemic uncertainty beside the error it makes, on held-out "
        "trajectories (RWM-U, arXiv:2504.16680, Figure 3).",
    ),
    "calibration": About(
        "Calibration",
        "How often the recorded value lies within one predicted standard deviation; of a Gaussian it is 68.3 %.",
    ),
    "noise": About(
        "Robustness to noise",
        "The error of long predictions when what the model is given is disturbed (RWM, arXiv:2501.10100, Figure 3).",
    ),
    "lambda-sweep": About(
        "How much penalty",
        "Policies trained in the model with different penalty weights: what they imagine, and what they earn in a "
        "simulator the model never saw (RWM-U, arXiv:2504.16680, Figure 4).",
    ),
    "closed-loop": About(
        "Imagined and simulated",
        "The policy walks in the simulator and, from the same start under the same commands, in the model alone.",
    ),
    "policy": About(
        "Walking in the simulator",
        "The policy acts in physics the model never saw, scored by the robot's own reward without any penalty.",
    ),
}
CAPTIONS = {
    "dynamics_error_by_horizon": (
        "Error by horizon",
        "Relative L1 error of all steps up to the one on the axis. Below the grey line the model is better than "
        "repeating the last state; bands are 95 % intervals over trajectories.",
    ),
    "dynamics_trajectory": (
        "One trajectory",
        "The held-out trajectory of median error, a panel for every state group: recorded solid, predicted dashed, the "
        "history the model saw in grey.",
    ),
    "lambda_sweep": (
        "By penalty weight",
        "Left: reward a step, imagined without the penalty, and simulated. Where the imagined line stands far above "
        "the simulated ones the policy exploits the model. Middle: what the penalty takes. Right: episodes without a "
        "fall, and tracking. Every point is one policy, lines join the means.",
    ),
    "closed_loop": (
        "The same policy in both worlds",
        "Error of the model when the policy acts on its predictions, when it is given the simulator's actions, and of "
        "repeating the last state; green, how far the simulator itself parts when the policy sees states as wrong as "
        "the model's predictions one step ahead. Below and right, the walk of median error simulated and imagined.",
    ),
    "uncertainty_error_by_step_mean": (
        "By step, ensemble mean",
        "Error (above) and epistemic uncertainty (below) as the prediction goes on, the ensemble's mean fed back. They "
        "should grow together.",
    ),
    "uncertainty_error_by_step_sampled_member": (
        "By step, one member",
        "The same when every trajectory follows one member of the ensemble.",
    ),
    "uncertainty_error_scatter_mean": (
        "Every prediction, ensemble mean",
        "A point for every trajectory and step. Where the line of median errors rises, uncertainty ranks the errors.",
    ),
    "uncertainty_error_scatter_sampled_member": (
        "Every prediction, one member",
        "The same when every trajectory follows one member of the ensemble.",
    ),
    "uncertainty_sparsification_mean": (
        "Sparsification, ensemble mean",
        "Mean error of what is left when the most uncertain predictions are left out; the lower the line, the better "
        "the uncertainty ranks the errors. Two free scores and the best possible order beside it.",
    ),
    "uncertainty_sparsification_sampled_member": (
        "Sparsification, one member",
        "The same when every trajectory follows one member of the ensemble.",
    ),
    "reference_alignment": (
        "What stale actions cost",
        "The same predictions with the actions that belong to each step, and with actions one row late, as in the "
        "authors' evaluation.",
    ),
    "noise_error_by_step": (
        "Error under noise",
        "Relative error of every step, a line for every scale of the noise on the states and actions the model is "
        "given; dotted: the last state repeated.",
    ),
    "calibration_reliability": (
        "Reliability",
        "Share of recorded values within the central interval of each level, by horizon; on the diagonal the predicted "
        "standard deviations are true.",
    ),
    "calibration_sharpness": (
        "Sharpness",
        "Root mean predicted variance by step, beside the error it should equal.",
    ),
    "calibration_coverage": (
        "Coverage by step",
        "Share of recorded values within one standard deviation. The shaded band is 10 points around what is true of a "
        "Gaussian; dashed lines are the spreads as the ensemble gives them, solid ones with the factors of rwm model "
        "calibrate.",
    ),
    "film": (
        "How it walks",
        "Frames of one undisturbed walk, which feet touch the ground, and the base's velocity beside the command "
        "(dashed).",
    ),
}


def about_evaluation(name: str) -> About:
    """Return an evaluation's title and question; an unknown one is titled by its name."""
    return EVALUATIONS.get(name, About(name.replace("_", " ").replace("-", " ").capitalize(), ""))


def about_figure(stem: str) -> tuple[str, str]:
    """Return a figure's title and caption; an unknown one is titled by its file name."""
    words = stem.replace("_", " ").replace("-", " ")
    return CAPTIONS.get(stem, (words[:1].upper() + words[1:], f"Figure {stem}.png of this evaluation."))
