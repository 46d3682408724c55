"""Transitions at rest: schema, catalog, conversion, validation, windows, runs, queries.

Names are looked up when they are used: the command line shows its help without a library for tables.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwmdata.catalog import Dataset
    from rwmdata.config import build
    from rwmdata.episodes import Episode, read_episodes
    from rwmdata.errors import RwmError
    from rwmdata.evaluation_summary import EvaluationSummary, read_summary
    from rwmdata.formats.convert import convert
    from rwmdata.formats.csv66 import write_csv
    from rwmdata.home import Home
    from rwmdata.robots import RobotSpec, load_robot
    from rwmdata.runs import Run
    from rwmdata.schema import Schema
    from rwmdata.validate import Fault, validate
    from rwmdata.views import open_views, run_sql
    from rwmdata.windows import WindowSampler, gather, window_starts
    from rwmdata.writer import DatasetWriter

__all__ = ["Dataset", "DatasetWriter", "Episode", "EvaluationSummary", "Fault", "Home", "RobotSpec",
           "Run", "RwmError", "Schema", "WindowSampler", "build", "convert", "gather", "load_robot",
           "open_views", "read_episodes", "read_summary", "run_sql", "validate", "window_starts",
           "write_csv"]  # fmt: skip
_NAMES = {
    "catalog": "Dataset",
    "config": "build",
    "episodes": "Episode read_episodes",
    "errors": "RwmError",
    "evaluation_summary": "EvaluationSummary read_summary",
    "formats.convert": "convert",
    "formats.csv66": "write_csv",
    "home": "Home",
    "robots": "RobotSpec load_robot",
    "runs": "Run",
    "schema": "Schema",
    "validate": "Fault",
    "views": "open_views run_sql",
    "windows": "WindowSampler gather window_starts",
    "writer": "DatasetWriter",
}
_WHERE = {name: f"rwmdata.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rwmdata' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)


class _Package(ModuleType):
    """This package: its ``validate`` is the function, also once the module of that name was imported."""

    @property
    def validate(self) -> Any:
        return import_module("rwmdata.validate").validate

    @validate.setter
    def validate(self, module: ModuleType) -> None:
        """Leave out what an import of the module sets."""


sys.modules[__name__].__class__ = _Package
