"""What every evaluation of a model shares: which model on which held-out windows, and the run it is written into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field

from reports.evaluate.rollouts import HELD_OUT, Disturbance, HeldOutWindows, Mode, Rollout, held_out_windows, roll_out
from reports.evaluate.summary import finish_evaluation, start_evaluation
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.runs import Checkpoint, Run
from rwmdata.text import quoted
from rwmmodel.checkpoint import load_model
from rwmmodel.devices import resolve_device
from rwmmodel.ensemble import DynamicsEnsemble
from rwmmodel.matching import refuse_mismatch

FAR, STILL = 60.0, 1e-3
"""Normalised magnitudes between which recorded states lie: a robot on its side reaches 50, degrees for radians more."""


class EvaluationConfig(Frozen):
    """Options every evaluation of a model has."""

    windows: int = Field(64, ge=2)
    """Number of held-out trajectories."""
    steps: int = Field(200, ge=1)
    """Autoregressive steps per trajectory (control steps)."""
    seed: int = 0
    device: str = "auto"


ConfigT = TypeVar("ConfigT", bound=EvaluationConfig)
C_contra = TypeVar("C_contra", bound=EvaluationConfig, contravariant=True)


@dataclass(frozen=True)
class Evaluation(Generic[ConfigT]):
    """A model, the held-out windows it is evaluated on, and the running ``eval`` run that takes the results."""

    run: Run
    dataset: Dataset
    model: DynamicsEnsemble
    windows: HeldOutWindows
    config: ConfigT
    progress: Progress

    @property
    def history(self) -> int:
        """History horizon M of the model, rows."""
        return self.model.config.history

    @property
    def steps(self) -> int:
        """Autoregressive steps per trajectory."""
        return self.windows.rows.shape[1] - self.history

    def roll_out(
        self, mode: Mode = "mean", disturb: Disturbance | None = None, progress: Progress | None = None
    ) -> Rollout:
        """Roll the model out on the windows, see :func:`reports.evaluate.rollouts.roll_out`."""
        shown = progress or self.progress
        return roll_out(self.model, self.dataset.schema, self.windows, mode, self.config.seed, shown, disturb)

    def finish(self, scalars: Sequence[Scalar], units: str, **more: object) -> None:
        """Write ``summary.json`` and finish the run with it."""
        windows, members = self.windows, self.model.config.members
        counts = {"windows": len(windows.start), "episodes": len(np.unique(windows.episode)), "history": self.history}
        about: dict[str, object] = {"split": windows.split, **counts, "steps": self.steps, "members": members}
        finish_evaluation(self.run, self.dataset.robot, scalars, units, **about, **more)


class ModelEvaluation(Protocol[C_contra]):
    """How every evaluation of a model is called: its dataset gives the held-out windows, its results are a run."""

    def __call__(
        self,
        home: Home,
        dataset: Dataset,
        checkpoint: Checkpoint,
        config: C_contra | None = None,
        progress: Progress = silent,
    ) -> Run:
        """Evaluate a model and return the finished ``eval`` run."""


def model_evaluation(
    name: str, config_class: type[ConfigT], shorten: bool = False
) -> Callable[[Callable[[Evaluation[ConfigT]], None]], ModelEvaluation[ConfigT]]:
    """Turn a function that measures a model on held-out windows into one that evaluates a model on a dataset.

    It loads the model, refuses what does not fit it, draws the windows, and gives the function a running ``eval`` run;
    what fails inside is recorded in that run. ``shorten`` takes fewer steps where no held-out episode is long enough.

    Raises:
        RwmError: The dataset or the model's normaliser does not fit, or no held-out episode is long enough.
    """

    def decorate(measure: Callable[[Evaluation[ConfigT]], None]) -> ModelEvaluation[ConfigT]:
        def evaluate(
            home: Home,
            dataset: Dataset,
            checkpoint: Checkpoint,
            config: ConfigT | None = None,
            progress: Progress = silent,
        ) -> Run:
            options = config or config_class()
            model = load_model(checkpoint.file, resolve_device(options.device))
            refuse_mismatch(dataset, checkpoint.id, model)
            history, steps = model.config.history, options.steps
            if shorten:
                steps = min(steps, longest_rollout(dataset, history))
            windows = held_out_windows(dataset, options.windows, history, steps, options.seed)
            refuse_foreign_normalizer(dataset, checkpoint.id, model, windows.rows)
            parents = {"dataset": home.name_of(dataset), "model": checkpoint.id}
            run = start_evaluation(home, name, options, parents, options.seed)
            with run.running():
                measure(Evaluation(run, dataset, model, windows, options, progress))
            return run

        evaluate.__name__, evaluate.__qualname__ = measure.__name__, measure.__qualname__
        evaluate.__doc__, evaluate.__module__ = measure.__doc__, measure.__module__
        return evaluate

    return decorate


def no_disagreement(members: int) -> str:
    """Return in words why a model has no epistemic uncertainty."""
    return f"{'the model has one member' if members == 1 else 'the members agree exactly'}, so there is none"


def longest_rollout(dataset: Dataset, history: int, splits: tuple[str, ...] = HELD_OUT) -> int:
    """Return how many steps can follow a history in the longest episode of the first split there is, at least 1."""
    lengths = (dataset.split_bounds(split)[1] for split in splits)
    return max(1, max(map(int, next((length for length in lengths if len(length)), [])), default=0) - history)


def refuse_foreign_normalizer(dataset: Dataset, name: str, model: DynamicsEnsemble, rows: np.ndarray) -> None:
    """Refuse a model whose normaliser was made for other quantities or units than ``rows (W, rows, width)``.

    Raises:
        RwmError: A column lies typically more than ``FAR`` standard deviations from its mean, or none moves by as much
            as ``STILL``.
    """
    device = next(model.parameters()).device
    states = model.normalizer.state(torch.from_numpy(rows[..., dataset.schema.state]).to(device)).abs().flatten(0, 1)
    typical = states.median(dim=0).values.cpu().numpy()
    far = [dataset.schema.names[k] for k in np.flatnonzero(typical > FAR)]
    if far or float(states.std(dim=0).max()) < STILL:
        what = f"{', '.join(far[:4])} lie more than {FAR:g} standard deviations away" if far else "nothing moves"
        own = quoted(dataset.name)
        raise RwmError(
            f"The normaliser of model {name} is not made for '{dataset.name}': in its terms {what}.",
            f"rwm fit {own} --normalizer fitted, or check the units with rwm data validate {own}",
        )
