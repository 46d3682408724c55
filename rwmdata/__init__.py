"""Transitions at rest: schema, catalog, conversion, validation, windows, runs, queries."""

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
