"""Fit a dynamics ensemble to a dataset, as a run that can be interrupted and resumed."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch

from rwmdata.atomic import write_json
from rwmdata.catalog import Dataset
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.processes import HeldBack, held_back
from rwmdata.progress import Progress, silent
from rwmdata.runs import Checkpoint, Run
from rwmdata.spikes import far_spikes
from rwmdata.text import quoted
from rwmdata.windows import WindowSampler, balanced_weights, ending_in_fall, split_starts, weights_with_share
from rwmmodel.checkpoint import FitState, load_fit_state, load_model, save_fit_state, save_model
from rwmmodel.data import RowStore
from rwmmodel.devices import RESUMED_ELSEWHERE, require_precision, resolve_device, use_precision
from rwmmodel.distributed import Ranks
from rwmmodel.ensemble import Architecture, DynamicsEnsemble, ModelInfo
from rwmmodel.fastest import with_precision
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import LossTerms
from rwmmodel.matching import refuse_mismatch
from rwmmodel.normalizer import Normalizer
from rwmmodel.updates import NotFiniteError, Updates
from rwmmodel.validation import Validator

SHOWN = ("val/total", "val/rel_l1_h32")
"""Held-out metrics that the progress bar shows."""
BAD_BATCH_FILE = "bad_batch.json"
LOSS_HINT = "a lower --lr, and rwm data validate"


def fit_model(
    home: Home,
    dataset: Dataset,
    config: FitConfig | None = None,
    progress: Progress = silent,
    resume: Run | None = None,
) -> Run:
    """Fit a dynamics ensemble on the train split, validate it on the val split, and return the finished run.

    The run gets ``checkpoints/model.safetensors`` (lowest held-out loss) and ``checkpoints/state.pt`` (newest). A
    resumed fit continues bit for bit on the CPU, because every draw is a function of (seed, update). Under torchrun all
    processes make the same call; see :mod:`rwmmodel.distributed`. With ``config.warm_start`` a model's weights go on:
    it is validated before the first update too, and kept as it was where no update makes it better.

    Args:
        home: Where the run is created.
        dataset: The training data.
        config: The fit; the laptop preset when None. A resumed fit uses its own; only the device may differ.
        progress: Called after every update with the loss and the newest held-out metrics.
        resume: An unfinished run of a fit on the same dataset.

    Raises:
        RwmError: A split has no window, a value lies far outside of what its column holds, the loss is not finite, the
            run cannot be resumed like this, or the model to begin with is of another robot, columns or rate.
        KeyboardInterrupt: Re-raised after the state was saved.
    """
    if resume is not None:
        config = _config_of(resume, config)
        if resume.meta.parents["dataset"] != (name := home.name_of(dataset)):
            raise RwmError(f"Run {resume.id} was fitted on '{resume.meta.parents['dataset']}', not '{name}'.")
    else:
        refuse_spikes(dataset)
    config = config or build(FitConfig)
    ranks = Ranks.from_environment()
    device = ranks.device(resolve_device(config.device))
    if resume and config.precision != "auto":
        require_precision(config.precision, device, RESUMED_ELSEWHERE)
    with ranks.joined(device):
        source = home.model(config.warm_start) if config.warm_start else None
        begun = _begun(dataset, source, device) if source else None
        if source and begun:
            sizes = begun.config.model_dump(include=set(Architecture.model_fields))
            config = config.model_copy(update=sizes | {"warm_start": source.id})
        config = ranks.share(with_precision(config, device) if ranks.main else config)
        fit = _Fit(dataset, config, ranks, device, begun)
        if resume is None and ranks.main:
            parents: dict[str, str | None] = {"dataset": home.name_of(dataset)}
            parents |= {"model": source.id} if source else {}
            resume = Run.create(home, "model", config.model_dump(mode="json"), parents, config.seed)
        path = ranks.share(resume.path if resume else None)
        run = resume if resume else Run.open(cast(Path, path))
        if not ranks.main:
            fit.run(run, silent)
            return Run.open(ranks.share(run.path))
        with run.running():
            run.finish(fit.run(run, progress))
        ranks.share(run.path)
    return run


def refuse_spikes(dataset: Dataset) -> None:
    """Check that no value can ruin a fit: one spike among a thousand rows gives its column another scale.

    Raises:
        RwmError: Values lie far outside of what their columns hold; columns and rows are named.
    """
    if spikes := far_spikes(dataset):
        texts = [f"{found.column} in row {found.rows[0]} {found}" for found in spikes]
        own, cut = quoted(dataset.name), quoted(f"{dataset.name}-cut")
        hint = f"rwm data filter true --cut-spikes --dataset {own} --name {cut}"
        raise RwmError(f"Dataset '{dataset.name}' holds values that no fit bears: {'; '.join(texts)}.", hint)


def resume_fit(home: Home, run: Run, device: str = "auto", progress: Progress = silent) -> Run:
    """Resume an unfinished fit on its own dataset, with its own configuration but for the device.

    Raises:
        RwmError: The run is finished or no fit, or its dataset is gone.
    """
    config = _config_of(run, None).model_copy(update={"device": device})
    return fit_model(home, home.dataset(run.meta.parents["dataset"]), config, progress, resume=run)


def _config_of(run: Run, config: FitConfig | None) -> FitConfig:
    """Return the configuration of a resumed run: its own, or ``config`` if that differs in the device alone."""
    if run.kind != "model":
        raise RwmError(f"Run {run.id} is a {run.kind} run, not a fit.", "rwm runs ls --kind model")
    if run.meta.status == "finished":
        raise RwmError(f"Run {run.id} is finished; there is nothing left to resume.", "rwm fit")
    stored = run.configuration(FitConfig)
    if config is None:
        return stored
    if config.precision == "auto":
        config = config.model_copy(update={"precision": stored.precision})
    changed = [k for k, v in stored if k != "device" and getattr(config, k) != v]
    if changed:
        raise RwmError(f"A resumed fit keeps its configuration, but these differ: {', '.join(changed)}.", "rwm fit")
    return config


def _begun(dataset: Dataset, source: Checkpoint, device: torch.device) -> DynamicsEnsemble:
    """Return the model that a fit on ``dataset`` begins with, ready to learn.

    Raises:
        RwmError: It does not fit the dataset.
    """
    model = load_model(source.file, device)
    refuse_mismatch(dataset, source.id, model)
    model.calibration = None  # Its factors are those of the weights before.
    columns = dataset.schema.csv_names
    model.info = ModelInfo(dataset.robot, columns, dataset.control_hz, dataset.name)
    return model.train().requires_grad_(True)


class _Fit:
    """Model, optimiser, data and counters of one fit."""

    def __init__(
        self,
        dataset: Dataset,
        config: FitConfig,
        ranks: Ranks,
        device: torch.device,
        begun: DynamicsEnsemble | None = None,
    ) -> None:
        self.config, self.ranks, self.device, self.begun = config, ranks, device, begun is not None
        if config.batch < ranks.world * config.accumulate:
            shares = f"{ranks.world} processes and {config.accumulate} parts"
            raise RwmError(f"A batch of {config.batch} windows cannot be shared between {shares}.", "--batch")
        assert config.precision != "auto"
        use_precision(config.precision, device)
        self.samplers = {n: self._sampler(dataset, n) for n in {config.forecast, config.last_forecast}}
        split_starts(dataset, "val", config.history + config.last_forecast)  # Refuse before the rows are read.
        self.model = begun or _new(dataset, config)
        self.store = RowStore(dataset, self.model.normalizer, self.device, config.rows, config.fall_ahead)
        self.model.to(self.device).precision = config.precision
        if config.bounded:
            self.model.widen_bounds(*self.store.state_range(split_starts(dataset, "train", 1)))
        self.updates = Updates(self.model, config, config.seed, ranks)
        self.validator = Validator.of_dataset(dataset, self.store, config)
        self.state = FitState()
        self.newest: dict[str, float] = {}
        self.saved = 0
        """Update of the newest saved state."""

    def _sampler(self, dataset: Dataset, forecast: int) -> WindowSampler:
        """Return the sampler of training windows with a forecast horizon."""
        config, episodes = self.config, dataset.episodes
        window = config.history + forecast
        starts = split_starts(dataset, "train", window)
        weights = balanced_weights(starts, episodes.start, episodes.behaviour) if config.balance else None
        falls = ending_in_fall(dataset, starts, window)
        if config.fall_share and 0 < falls.sum() < len(falls):
            weights = weights_with_share(np.ones(len(starts)) if weights is None else weights, falls, config.fall_share)
        return WindowSampler(starts, config.seed, weights)

    def run(self, run: Run, progress: Progress) -> dict[str, object]:
        """Update until done or out of patience; return the summary of the run."""
        self._restore(run)
        try:
            with held_back() as signals:
                stopped = self._loop(run, progress, signals)
        except KeyboardInterrupt:
            if self.updates.whole and self.ranks.main:
                self._save(run)
            raise
        state = self.state
        counts: dict[str, object] = {"updates": state.step, "stopped": stopped, "best_update": state.best_step}
        speed = state.step * self.config.batch / max(state.seconds, 1e-9)
        return counts | state.best | {"windows_per_second": speed, "parameters": self.model.parameter_count}

    def _loop(self, run: Run, progress: Progress, signals: HeldBack) -> str:
        """Update until done; a signal takes effect between two updates, once all of one is logged and saved."""
        config, state = self.config, self.state
        if (self.begun and not state.best) or (self._due(config.val_interval) and state.validated < state.step):
            self._validate(run)
        while state.step < config.updates:
            if config.patience is not None and state.stale >= config.patience:
                return "patience"
            terms = self._update(run)
            if self._due(config.log_interval) and self.ranks.main:
                run.log(state.step, terms.numbers("train/"))
            if self._due(config.val_interval):
                self._validate(run)
            if self._due(config.checkpoint_interval) and self.ranks.main:
                self._save(run)
            shown = {k.removeprefix("val/"): self.newest[k] for k in SHOWN if k in self.newest}
            progress(state.step, config.updates, {"loss": float(terms.total.detach()), **shown})
            signals.end()
        return "updates"

    def _due(self, interval: int) -> bool:
        return self.state.step > 0 and (self.state.step % interval == 0 or self.state.step == self.config.updates)

    def _update(self, run: Run) -> LossTerms:
        """Make one update.

        Raises:
            RwmError: Loss or gradient is not finite; the weights are still those of the previous update.
        """
        config, state = self.config, self.state
        began = time.perf_counter()
        forecast = config.forecast_at(state.step)
        starts = self.samplers[forecast].draw(state.step, config.batch)
        try:
            terms = self.updates.make(self.store, starts, forecast, config.lr_at(state.step, config.updates))
        except NotFiniteError as exc:
            update, file = state.step + 1, run.path / BAD_BATCH_FILE
            saved = f"the last good state is update {self.saved}" if self.saved else "no state was saved yet"
            if self.ranks.main:
                write_json(file, {"update": update, "loss": str(exc.loss), "window_starts": starts.tolist()})
            text = f"At update {update} {exc}; {saved}. The windows are listed in {file}."
            raise RwmError(text, LOSS_HINT) from exc
        state.step = self.updates.count
        state.seconds += time.perf_counter() - began
        return terms

    def _validate(self, run: Run) -> None:
        """Score the model and save it if it is the best so far.

        Raises:
            RwmError: The held-out loss is not finite.
        """
        state = self.state
        kept = self.updates.kept
        self.newest = self.ranks.share(self.validator(kept) if self.ranks.main else {})
        loss = self.newest["val/total"]
        if self.ranks.main:
            run.log(state.step, self.newest)
        if not math.isfinite(loss):
            raise RwmError(f"After update {state.step} the held-out loss is {loss}.", LOSS_HINT)
        if not state.best or loss < state.best["val/total"]:
            if self.ranks.main:
                save_model(kept, run.model_file)
            state.best, state.best_step, state.stale, state.validated = self.newest, state.step, 0, state.step
        else:
            state.stale, state.validated = state.stale + 1, state.step

    def _save(self, run: Run) -> None:
        self.state.step = self.updates.count  # an interrupt may have come in between
        run.sync()
        save_fit_state(run.state_file, self.state, self.updates.weights(), self.updates.optimizer.state_dict())
        self.saved = self.state.step

    def _restore(self, run: Run) -> None:
        if run.state_file.exists():
            self.state, weights, optimizer = load_fit_state(run.state_file, self.device)
            self.updates.restore(self.state.step, weights, optimizer)
            self.saved = self.state.step
        if self.ranks.main:
            run.truncate_metrics(self.state.step)


def _new(dataset: Dataset, config: FitConfig) -> DynamicsEnsemble:
    """Return an untrained model with the dataset's normaliser."""
    schema = dataset.schema
    normalizer = Normalizer(schema.dims["state"], schema.dims["action"], *dataset.normalizer(config.normalizer))
    info = ModelInfo(dataset.robot, schema.csv_names, dataset.control_hz, dataset.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DynamicsEnsemble(config.ensemble(schema), normalizer, info)
