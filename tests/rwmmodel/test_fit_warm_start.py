"""A fit that begins with another model's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmdata.config import build
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.writer import DatasetWriter
from rwmmodel.checkpoint import load_model
from rwmmodel.fit import fit_model
from rwmmodel.fit_config import FitConfig

TINY = {"hidden": 16, "head_hidden": 8, "members": 2, "history": 4, "forecast": 2, "batch": 16, "normalizer": "fitted"}
SHORT = {"updates": 60, "val_interval": 20, "checkpoint_interval": 20, "val_windows": 64, "device": "cpu", "lr": 5e-3}


@pytest.fixture(scope="module")
def first(tmp_path_factory, linear_dataset):
    home = Home(tmp_path_factory.mktemp("home"))
    return fit_model(home, linear_dataset, FitConfig(**TINY, **SHORT, bounded=True))


@pytest.fixture
def home(first):
    return Home(first.path.parents[2])


def held_out(run, step: int) -> float:
    return next(r["value"] for r in run.metrics_file.rows() if (r["step"], r["metric"]) == (step, "val/total"))


def test_it_goes_on_where_the_other_ended(home, first, linear_dataset):
    run = fit_model(home, linear_dataset, FitConfig(**SHORT, forecast=2, batch=16, warm_start=first.id))
    assert held_out(run, 0) == pytest.approx(first.meta.summary["val/total"], rel=1e-5)
    assert run.meta.summary["val/total"] < held_out(run, 0)
    assert run.meta.parents == {"dataset": str(linear_dataset.path), "model": first.id}
    old, new = load_model(first.model_file), load_model(run.model_file)
    assert new.config == old.config  # Sizes are the model's, not those of the options.
    assert torch.equal(new.normalizer.state_mean, old.normalizer.state_mean)
    assert bool((new.state_low <= old.state_low).all())


def test_a_model_that_gets_no_better_is_kept_as_it_was(home, first, linear_dataset):
    ruinous = FitConfig(**SHORT | {"lr": 3.0, "updates": 20}, forecast=2, batch=16, warm_start=first.id)
    run = fit_model(home, linear_dataset, ruinous)
    assert run.meta.summary["best_update"] == 0
    old, new = (load_model(r.model_file).state_dict() for r in (first, run))
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_it_is_resumed_bit_for_bit(home, first, linear_dataset):
    config = FitConfig(**SHORT, forecast=2, batch=16, warm_start=first.id, seed=2)
    whole = fit_model(home, linear_dataset, config)

    def cut(done: int, *_: object) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, config, cut)
    resumed = fit_model(home, linear_dataset, resume=home.runs("model")[0])
    assert resumed.id != whole.id
    one, other = (load_model(r.model_file).state_dict() for r in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_of_other_columns_is_refused(home, first, schema):
    with DatasetWriter(home.data_dir, "walks", "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(4):
            writer.append(Episode(np.zeros((60, 66), np.float32), truncated=True))
        walks = writer.commit()
    with pytest.raises(RwmError, match="takes 12 state"):
        fit_model(home, walks, FitConfig(warm_start=first.id))


def test_the_preset_reads_nothing_that_the_model_decides():
    preset = build(FitConfig, "finetune")
    assert preset.hidden == FitConfig().hidden and preset.lr < build(FitConfig).lr
