"""Evaluations: each computes a table, writes ``summary.json`` and draws its figures.

Names are looked up when they are used: plotting and simulation are loaded only then.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "CalibrationConfig": "reports.evaluate.calibration",
    "ClosedLoopConfig": "reports.evaluate.closed_loop",
    "Demo": "reports.demo",
    "DemoConfig": "reports.demo",
    "DynamicsConfig": "reports.evaluate.dynamics",
    "LambdaSweepConfig": "reports.evaluate.lambda_sweep",
    "NoiseConfig": "reports.evaluate.noise",
    "PolicyScoreConfig": "reports.evaluate.policy_score",
    "ReferenceConfig": "reports.references",
    "UncertaintyConfig": "reports.evaluate.uncertainty",
    "build_comparison": "reports.page.compare",
    "build_references": "reports.references",
    "build_report": "reports.page.report",
    "calibrate": "reports.evaluate.calibration",
    "evaluate_calibration": "reports.evaluate.calibration",
    "evaluate_closed_loop": "reports.evaluate.closed_loop",
    "evaluate_dynamics": "reports.evaluate.dynamics",
    "evaluate_lambda_sweep": "reports.evaluate.lambda_sweep",
    "evaluate_noise": "reports.evaluate.noise",
    "evaluate_policy": "reports.evaluate.policy_score",
    "evaluate_uncertainty": "reports.evaluate.uncertainty",
    "finish_evaluation": "reports.evaluate.summary",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _WHERE:
        raise AttributeError(f"module 'reports' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
