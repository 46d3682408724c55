"""Evaluations: each computes a table, writes ``summary.json`` and draws its figures.

Names are looked up when they are used: plotting and simulation are loaded only then.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "CalibrationConfig": "reports.calibration",
    "ClosedLoopConfig": "reports.closed_loop",
    "Demo": "reports.demo",
    "DemoConfig": "reports.demo",
    "DynamicsConfig": "reports.dynamics",
    "LambdaSweepConfig": "reports.lambda_sweep",
    "NoiseConfig": "reports.noise",
    "PolicyScoreConfig": "reports.policy_score",
    "ReferenceConfig": "reports.references",
    "UncertaintyConfig": "reports.uncertainty",
    "build_comparison": "reports.compare",
    "build_references": "reports.references",
    "build_report": "reports.report",
    "calibrate": "reports.calibration",
    "evaluate_calibration": "reports.calibration",
    "evaluate_closed_loop": "reports.closed_loop",
    "evaluate_dynamics": "reports.dynamics",
    "evaluate_lambda_sweep": "reports.lambda_sweep",
    "evaluate_noise": "reports.noise",
    "evaluate_policy": "reports.policy_score",
    "evaluate_uncertainty": "reports.uncertainty",
    "finish_evaluation": "reports.summary",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _WHERE:
        raise AttributeError(f"module 'reports' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
