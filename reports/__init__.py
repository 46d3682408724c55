"""Evaluations: each computes a table, writes ``summary.json`` and draws its figures.

Names are looked up when they are used: plotting and simulation are loaded only then.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "demo.from_scratch": "FromScratch FromScratchConfig",
    "demo.walking": "Walking WalkingConfig",
    "evaluate.calibration": "CalibrationConfig calibrate evaluate_calibration",
    "evaluate.closed_loop": "ClosedLoopConfig evaluate_closed_loop",
    "evaluate.dynamics": "DynamicsConfig evaluate_dynamics",
    "evaluate.falls": "FallsConfig evaluate_falls",
    "evaluate.judgement": "JudgementConfig evaluate_judgement",
    "evaluate.lambda_sweep": "LambdaSweepConfig evaluate_lambda_sweep",
    "evaluate.learning": "LearningConfig evaluate_learning",
    "evaluate.noise": "NoiseConfig evaluate_noise",
    "evaluate.policy_score": "PolicyScoreConfig evaluate_policy",
    "evaluate.summary": "finish_evaluation",
    "evaluate.uncertainty": "UncertaintyConfig evaluate_uncertainty",
    "page.compare": "build_comparison",
    "page.report": "build_report",
    "visualize.view": "RecordedViewConfig SimulatedViewConfig visualize_episode visualize_policy",
    "references": "ReferenceConfig build_references",
}
_WHERE = {name: f"reports.{module}" for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _WHERE:
        raise AttributeError(f"module 'reports' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
