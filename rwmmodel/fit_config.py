"""Configuration of a fit, and its presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rwmdata.schema import NormalizerKind, Schema
from rwmmodel.data import Rows
from rwmmodel.devices import PrecisionChoice
from rwmmodel.ensemble import Architecture, EnsembleConfig
from rwmmodel.loss import LossConfig

PRESETS: Mapping[str, Mapping[str, object]] = {
    "smoke": {
        "hidden": 64, "head_hidden": 64, "members": 3, "batch": 64, "updates": 60,
        "val_interval": 30, "val_windows": 64, "precision": "auto",
    },
    "demo": {
        "hidden": 128, "head_hidden": 64, "updates": 500,
        "val_interval": 100, "checkpoint_interval": 100, "precision": "auto",
    },
    # Many small steps at a high rate, every row of the history a target too, longer forecasts in the second half while
    # the rate is still high; one member goes on in each window, and contacts and falls do with a smaller base: half the
    # time, and docs/benchmarks.md has what it costs in error.
    "laptop": {
        "auxiliary_hidden": 128, "batch": 64, "updates": 2300, "lr": 4e-3,
        "loss": {"sequence_weight": 1.0, "followers": 1}, "late_forecast": 16, "bounded": True, "fall_ahead": 10,
        "val_interval": 200, "checkpoint_interval": 100, "precision": "auto",
    },
    # Goes on with a model that was fitted before: with longer forecasts, at a rate that leaves it standing.
    "finetune": {
        "batch": 64, "updates": 300, "lr": 1e-3, "forecast": 16, "loss": {"sequence_weight": 1.0, "followers": 1},
        "fall_ahead": 10, "val_interval": 100, "checkpoint_interval": 100, "precision": "auto",
    },
    # The authors' code and RWM-U's Table S10, both with 2500 iterations of 20 mini-batches.
    "reference": {
        "batch": 5000, "updates": 50_000, "schedule": "constant",
        "val_interval": 500, "checkpoint_interval": 500, "val_windows": 1024,
    },
    "paper": {
        "batch": 1024, "updates": 50_000, "schedule": "constant", "lr": 1e-4, "weight_decay": 1e-5,
        "val_interval": 500, "checkpoint_interval": 500, "val_windows": 1024,
    },
}  # fmt: skip
LAST_LR = 0.01
LATE_SHARE = 0.5


class UpdateConfig(Architecture):
    """An architecture and how it is updated, whatever the windows come from."""

    forecast: int = Field(8, ge=1)
    """Forecast horizon N, rows."""
    loss: LossConfig = LossConfig()
    normalizer: NormalizerKind = "auto"
    """The robot's own constants, the data's statistics, or (``auto``) the constants where the robot has them."""
    batch: int = Field(256, ge=1)
    """Windows per update."""
    accumulate: int = Field(1, ge=1)
    """Parts of a batch, processed one after the other: the same gradient in less memory."""
    lr: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    """``cosine`` decays the learning rate to ``LAST_LR`` of itself over the updates."""
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then validated and saved; 0 for none."""
    precision: PrecisionChoice = "float32"
    """``bfloat16`` speeds up the bases' matrix products where the hardware has it, ``tf32`` all of them on CUDA;
    ``auto`` is the fastest here, and what it was stands in the run's record."""
    val_windows: int = Field(256, ge=1)
    fall_share: float = Field(0.0, ge=0, lt=1)
    """Share of the drawn windows that end in a recorded fall, drawn with replacement, where the data has falls. With 0
    falls are hardly ever seen: the last row of an episode lies in a single window, any other in up to M + N."""

    @model_validator(mode="after")
    def _a_window_for_each_part(self) -> Self:
        if self.accumulate > self.batch:
            raise ValueError(f"a batch of {self.batch} windows has no {self.accumulate} parts (accumulate)")
        return self

    def lr_at(self, update: int, updates: int) -> float:
        """Return the learning rate of one of ``updates`` updates; they count from 0."""
        if self.schedule == "constant":
            return self.lr
        share = 0.5 * (1 + math.cos(math.pi * min(update / updates, 1.0)))
        return self.lr * (LAST_LR + (1 - LAST_LR) * share)

    @property
    def last_forecast(self) -> int:
        """Forecast horizon of the last updates; validation always uses it."""
        return self.forecast

    def ensemble(self, schema: Schema) -> EnsembleConfig:
        """Return the architecture for a layout of columns."""
        chosen = {name: getattr(self, name) for name in Architecture.model_fields}
        dims = {f"{part}_dim": size for part, size in schema.dims.items() if part != "termination"}
        return EnsembleConfig(**chosen, **dims)


class FitConfig(UpdateConfig):
    """A fit: an architecture and how it is trained; ``rwm fit`` starts from a preset."""

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "laptop"

    warm_start: str | None = None
    """Model, by run or by file, whose weights this one begins with; its architecture and its normaliser stay."""
    late_forecast: int | None = Field(None, ge=1)
    """N in the last ``LATE_SHARE`` of the updates; a longer one keeps long rollouts stable. None keeps ``forecast``."""
    fall_ahead: int = Field(0, ge=0)
    """Rows before a recorded fall that are labelled as terminated too: the model learns that a fall is about to come,
    and each label lies in as many windows as any other row."""
    balance: bool = False
    """Draw windows of every behaviour equally often, with replacement; else every window once an epoch."""
    updates: int = Field(200, ge=1)
    seed: int = Field(0, ge=0)
    device: str = "auto"
    rows: Rows = "auto"
    """Where the rows are held: in memory, in a memory-mapped file, or in memory if they fit."""
    log_interval: int = Field(10, ge=1)
    """Updates between logged training losses."""
    val_interval: int = Field(50, ge=1)
    """Updates between validations."""
    checkpoint_interval: int = Field(50, ge=1)
    """Updates between saved states."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many validations without a new best loss; None never stops early."""
    wandb: str | None = None
    """Weights & Biases project that the metrics are logged to as well."""

    @property
    def last_forecast(self) -> int:
        """Forecast horizon of the last updates; validation always uses it."""
        return self.late_forecast or self.forecast

    def forecast_at(self, update: int) -> int:
        """Return the forecast horizon of an update; updates count from 0."""
        return self.last_forecast if update >= (1 - LATE_SHARE) * self.updates else self.forecast
