"""The fit as a tool: it learns, it is interrupted and resumed, and it says what is wrong."""

from __future__ import annotations

import math
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch

from rwmdata.config import build
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import silent
from rwmdata.runs import Run
from rwmdata.windows import ending_in_fall
from rwmdata.writer import DatasetWriter
from rwmmodel import fastest
from rwmmodel import fit as fit_module
from rwmmodel import updates as updates_module
from rwmmodel.checkpoint import load_model
from rwmmodel.data import RowStore
from rwmmodel.distributed import Ranks
from rwmmodel.fit import fit_model, resume_fit
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import LossConfig

NOISE_STD = 0.3
"""Of the linear system in conftest.py."""
TINY = {"hidden": 8, "head_hidden": 8, "members": 2, "history": 4, "forecast": 2, "batch": 8, "normalizer": "fitted"}
SHORT = {"updates": 12, "val_interval": 4, "checkpoint_interval": 3, "val_windows": 8, "log_interval": 1}


def tiny(**changes) -> FitConfig:
    return FitConfig(**{**TINY, **SHORT, "device": "cpu", **changes})


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.state_file, weights_only=True)["model"]


@pytest.fixture(scope="module")
def fitted(linear_dataset, tmp_path_factory):
    """One fit on the linear system, good enough to be near its noise floor."""
    config = tiny(hidden=32, head_hidden=48, layers=1, members=3, history=3, batch=64, updates=500, lr=5e-3,
                  val_interval=50, checkpoint_interval=250, val_windows=200)  # fmt: skip
    home = Home(tmp_path_factory.mktemp("home"))
    run = fit_model(home, linear_dataset, config)
    return run, load_model(run.model_file)


def one_step_error(model, dataset, shift: int = 0) -> float:
    """Mean over held-out windows of the summed squared one-step error, physical units."""
    history = model.config.history
    store = RowStore(dataset, model.normalizer, torch.device("cpu"))
    episodes = dataset.split("test")
    starts = np.concatenate([dataset.episodes.start[e] + np.arange(1, 40) for e in episodes])
    w = store.windows(starts - 1, history + 2)
    states, actions = w.states[:, 1:-1], w.actions[:, 2 - shift : 2 - shift + history]
    with torch.no_grad():
        predicted = model(states, actions).state
    error = (predicted - w.states[:, -1]) * model.normalizer.state_std
    return float(error.square().sum(dim=-1).mean())


def test_the_ensemble_learns_a_linear_system_to_its_noise_floor(fitted, linear_dataset):
    floor = 12 * NOISE_STD**2
    error = one_step_error(fitted[1], linear_dataset)
    assert floor * 0.9 < error < floor * 1.25


def test_a_stale_action_column_predicts_measurably_worse(fitted, linear_dataset):
    assert one_step_error(fitted[1], linear_dataset, shift=1) > 3 * one_step_error(fitted[1], linear_dataset)


def test_a_fit_leaves_its_record(fitted, linear_dataset):
    run, model = fitted
    assert run.meta.status == "finished" and run.meta.parents == {"dataset": str(linear_dataset.path)}
    summary = run.meta.summary
    assert summary["updates"] == 500 and summary["stopped"] == "updates"
    assert summary["parameters"] == model.parameter_count and summary["windows_per_second"] > 0
    held_out = {r["step"]: r["value"] for r in run.metrics() if r["metric"] == "val/total"}
    assert list(held_out) == list(range(50, 501, 50))
    assert summary["val/total"] == pytest.approx(min(held_out.values()))
    assert held_out[summary["best_update"]] == summary["val/total"]
    names = {r["metric"] for r in run.metrics()}
    assert {"val/contact_f1"} <= names and 0.5 < summary["val/contact_f1"] <= 1
    assert {"train/state", "val/contact", "val/rel_l1_h1", "val/rel_l1_h8", "val/rel_l1_h32"} <= names
    assert model.info.robot == "toy" and model.info.columns == linear_dataset.schema.csv_names
    assert FitConfig(**run.meta.config).updates == 500


def test_held_out_error_is_below_predicting_no_change(fitted):
    assert fitted[0].meta.summary["val/rel_l1_h1"] < 0.5


def interrupting(at: int):
    def progress(done, total, numbers):
        if done == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("at", [5, 8, 12])
def test_an_interrupted_fit_resumes_to_the_same_weights(home, linear_dataset, at):
    undisturbed = fit_model(home, linear_dataset, tiny())
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(), interrupting(at))
    run = next(r for r in home.runs("model") if r.meta.status == "interrupted")
    torch.manual_seed(12345)
    resumed = fit_model(home, linear_dataset, resume=run)
    assert resumed.meta.status == "finished" and resumed.id == run.id
    expected, got = weights_of(undisturbed), weights_of(resumed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    best = [r.model_file.read_bytes() for r in (undisturbed, resumed)]
    assert best[0] == best[1]
    assert resumed.metrics() == undisturbed.metrics()


def test_a_fit_in_the_fastest_arithmetic_says_which_and_is_resumed_in_it(home, linear_dataset, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(fastest, "pass_seconds", lambda *arguments: {"float32": 2.0, "bfloat16": 1.0})
    undisturbed, exact = (fit_model(home, linear_dataset, tiny(precision=p)) for p in ("auto", "float32"))
    assert [r.meta.config["precision"] for r in (undisturbed, exact)] == ["bfloat16", "float32"]
    assert not torch.equal(*(weights_of(r)["state_base.rnn.weight_hh_l0"] for r in (undisturbed, exact)))
    for change in ({}, {"precision": "auto"}):
        with pytest.raises(KeyboardInterrupt):
            fit_model(home, linear_dataset, tiny(precision="auto"), interrupting(5))
        with monkeypatch.context() as later:
            later.setattr(fastest, "pass_seconds", lambda *arguments: {"float32": 1.0, "bfloat16": 2.0})
            config = tiny(**change) if change else None
            resumed = fit_model(home, linear_dataset, config, resume=home.runs("model")[0])
        expected, got = weights_of(undisturbed), weights_of(resumed)
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    resumed.update(status="interrupted")
    with pytest.raises(RwmError, match="'cpu' has no bfloat16 arithmetic") as fault:
        fit_model(home, linear_dataset, resume=Run.open(resumed.path))
    assert "where it began" in fault.value.hint and Run.open(resumed.path).meta.status == "interrupted"


def test_a_fit_whose_newest_state_is_damaged_goes_on_from_the_one_before_to_the_same_weights(
    home, linear_dataset, caplog
):
    undisturbed = fit_model(home, linear_dataset, tiny(checkpoint_interval=3))
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(checkpoint_interval=3), interrupting(8))
    run = next(r for r in home.runs("model") if r.meta.status == "interrupted")
    raw = bytearray(run.state_file.read_bytes())
    raw[len(raw) // 2] ^= 1
    run.state_file.write_bytes(raw)
    resumed = fit_model(home, linear_dataset, resume=run)
    assert "goes on from the state before it" in caplog.text
    expected, got = weights_of(undisturbed), weights_of(resumed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert resumed.metrics() == undisturbed.metrics()
    assert sorted(p.name for p in resumed.checkpoints.iterdir()) == ["model.safetensors", "state.pt"]


def test_an_interrupted_validation_is_made_up_for(home, linear_dataset, monkeypatch):
    undisturbed = fit_model(home, linear_dataset, tiny())
    real = fit_module.Validator.__call__

    def interrupted(self, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module.Validator, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny())
    monkeypatch.setattr(fit_module.Validator, "__call__", real)
    run = next(r for r in home.runs("model") if r.meta.status == "interrupted")
    assert fit_model(home, linear_dataset, resume=run).metrics() == undisturbed.metrics()


def test_a_killed_fit_resumes_from_its_last_state(home, linear_dataset):
    """After kill -9 nothing is saved on the way out: the run still says running and logged past its last state."""
    undisturbed = fit_model(home, linear_dataset, tiny())
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(), interrupting(6))
    run = next(r for r in home.runs("model") if r.meta.status == "interrupted")
    run.update(status="running")
    run.log(8, {"train/total": 99.0})
    resumed = fit_model(home, linear_dataset, resume=run)
    assert resumed.metrics() == undisturbed.metrics()
    assert all(
        torch.equal(a, b) for a, b in zip(weights_of(undisturbed).values(), weights_of(resumed).values(), strict=True)
    )


def test_a_half_made_update_is_not_saved(home, linear_dataset, monkeypatch):
    """Ctrl-C inside the optimiser leaves weights of no update; the periodic state stays."""
    real, calls = torch.optim.Adam.step, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny())
    run = home.runs("model")[0]
    assert torch.load(run.state_file, weights_only=True)["fit"]["step"] == 3


def test_a_loss_that_is_not_finite_stops_the_fit_and_keeps_the_last_state(home, linear_dataset, monkeypatch):
    real = updates_module.ensemble_loss
    calls = []

    def spoiled(*args):
        calls.append(1)
        terms = real(*args)
        return terms if len(calls) < 5 else type(terms)(*[terms.total * math.nan] * len(fields(terms)))

    monkeypatch.setattr(updates_module, "ensemble_loss", spoiled)
    with pytest.raises(RwmError, match=r"At update 5 the loss is nan.*last good state is update 3"):
        fit_model(home, linear_dataset, tiny())
    run = home.runs("model")[0]
    assert run.meta.status == "failed" and "update 5" in run.meta.error
    assert all(torch.isfinite(w).all() for w in weights_of(run).values())


def test_a_value_that_ruins_a_fit_is_refused_by_column_and_row(home, make_dataset, schema):
    parts = [np.random.default_rng(k).normal(size=(60, schema.width)).astype(np.float32) for k in range(4)]
    parts[2][7, schema.group("joint_vel").start] = 65535
    dataset = make_dataset(parts)
    message = "joint_vel_LF_HAA in row 127 is 6.554e\\+04, and usually between -"
    with pytest.raises(RwmError, match=message) as fault:
        fit_model(home, dataset, tiny())
    assert fault.value.hint == "rwm data filter true --cut-spikes --dataset set --name set-cut"
    assert home.runs("model") == []


def test_patience_stops_a_fit_that_no_longer_improves(home, linear_dataset):
    run = fit_model(home, linear_dataset, tiny(lr=1e-12, updates=60, val_interval=2, patience=3))
    assert run.meta.summary["stopped"] == "patience" and run.meta.summary["updates"] < 60


def test_a_resumed_fit_keeps_its_configuration_and_dataset(home, linear_dataset):
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(), interrupting(2))
    run = home.runs("model")[0]
    with pytest.raises(RwmError, match="these differ: members"):
        fit_model(home, linear_dataset, tiny(members=3), resume=run)
    run.update(parents={"dataset": "other"})
    with pytest.raises(RwmError, match="fitted on 'other'"):
        fit_model(home, linear_dataset, resume=run)


def test_a_fit_is_resumed_by_its_run_alone(home, linear_dataset):
    shutil.copytree(linear_dataset.path, home.data_dir / "linear")
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(), interrupting(2))
    resumed = resume_fit(home, home.runs("model")[0], device="cpu")
    assert resumed.meta.status == "finished" and resumed.meta.summary["updates"] == 12
    with pytest.raises(RwmError, match="is finished"):
        resume_fit(home, resumed)


def test_of_two_datasets_of_a_name_a_fit_is_resumed_on_its_own(home, linear_dataset):
    shutil.copytree(linear_dataset.path, home.data_dir / "linear")
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(), interrupting(2))
    run = home.runs("model")[0]
    with pytest.raises(RwmError, match=f"fitted on '{linear_dataset.path}', not 'linear'"):
        fit_model(home, home.dataset("linear"), resume=run)
    shutil.rmtree(home.data_dir / "linear")
    assert resume_fit(home, run, device="cpu").meta.status == "finished"


def test_a_batch_in_parts_takes_the_same_step(home, linear_dataset):
    whole, parts = (fit_model(home, linear_dataset, tiny(updates=3, accumulate=n)) for n in (1, 3))
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weights_of(parts)[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    losses = [[r["value"] for r in run.metrics() if r["metric"] == "train/total"] for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_averaged_weights_are_the_running_mean_and_survive_a_resume(home, linear_dataset):
    decay = 0.75
    with pytest.raises(KeyboardInterrupt):
        fit_model(home, linear_dataset, tiny(updates=4, ema=decay, val_interval=4), interrupting(2))
    run = fit_model(home, linear_dataset, resume=home.runs("model")[0])
    plain = [weights_of(fit_model(home, linear_dataset, tiny(updates=n, schedule="constant"))) for n in (1, 2, 3, 4)]
    same = fit_model(home, linear_dataset, tiny(updates=4, ema=decay, schedule="constant"))
    expected = plain[0]["state_head.mean.weight_0"]
    for weights in plain[1:]:
        expected = decay * expected + (1 - decay) * weights["state_head.mean.weight_0"]
    kept = load_model(same.model_file).state_head.mean.weight_0
    torch.testing.assert_close(kept.detach(), expected)
    undisturbed = fit_model(home, linear_dataset, tiny(updates=4, ema=decay, val_interval=4))
    files = [r.model_file.read_bytes() for r in (run, undisturbed)]
    assert files[0] == files[1]


def test_the_learning_rate_falls_along_a_cosine():
    config = FitConfig(lr=2.0, updates=100)
    assert [config.lr_at(k, 100) for k in (0, 50, 100)] == pytest.approx([2.0, 1.01, 0.02])
    assert FitConfig(lr=2.0, schedule="constant").lr_at(150, 100) == 2.0


def test_a_finished_fit_is_not_resumed(fitted, linear_dataset, home):
    with pytest.raises(RwmError, match="is finished"):
        fit_model(home, linear_dataset, resume=fitted[0])


def test_episodes_shorter_than_a_window_are_named(home, linear_dataset):
    with pytest.raises(RwmError, match=r"train split of 'linear' has the 70 rows.*longest of 60 rows"):
        fit_model(home, linear_dataset, tiny(history=60, forecast=10))
    assert home.runs("model") == []


def test_a_dataset_without_held_out_episodes_is_refused(home, linear_dataset):
    with DatasetWriter(home.data_dir, "single", "toy", linear_dataset.schema, 50.0, {}) as writer:
        writer.append(Episode(linear_dataset.matrix()[:60], truncated=True))
        dataset = writer.commit()
    with pytest.raises(RwmError, match="No episode in the val split of 'single'"):
        fit_model(home, dataset, tiny())


def test_more_parts_than_windows_are_refused():
    with pytest.raises(RwmError, match="a batch of 4 windows has no 5 parts"):
        build(FitConfig, "smoke", {"batch": 4, "accumulate": 5})


def test_presets_can_be_changed_and_mistakes_are_listed():
    paper = build(FitConfig, "paper", {"members": 1})
    assert (paper.batch, paper.lr, paper.weight_decay, paper.members) == (1024, 1e-4, 1e-5, 1)
    assert build(FitConfig, "laptop", {"loss": "nll"}).loss == LossConfig(kind="nll", sequence_weight=1.0, followers=1)
    assert build(FitConfig, "smoke", {"loss": "nll"}).loss == LossConfig(kind="nll")
    with pytest.raises(RwmError, match="smoke, demo, laptop, finetune, reference, paper"):
        build(FitConfig, "huge")
    with pytest.raises(RwmError, match="membres.*") as caught:
        build(FitConfig, "smoke", {"membres": 3, "lr": -1})
    assert "lr" in str(caught.value)


def test_the_second_half_of_the_updates_may_look_further(home, linear_dataset):
    config = tiny(updates=10, forecast=2, late_forecast=5, val_interval=10)
    assert [config.forecast_at(k) for k in range(10)] == [2] * 5 + [5] * 5
    fit, seen = fit_module._Fit(linear_dataset, config, Ranks(), torch.device("cpu")), []
    real = fit.store.windows
    fit.store.windows = lambda starts, length: seen.append(length) or real(starts, length)
    run = Run.create(home, "model", {}, {"dataset": linear_dataset.name}, 0)
    fit.run(run, silent)
    assert seen[:10] == [config.history + 2] * 5 + [config.history + 5] * 5
    assert tiny(forecast=3).forecast_at(10**6) == 3


def test_a_bounded_model_knows_the_range_of_its_training_rows(home, linear_dataset):
    run = fit_model(home, linear_dataset, tiny(updates=2, bounded=True))
    model = load_model(run.model_file)
    episodes = linear_dataset.episodes
    rows = np.concatenate([
        linear_dataset.matrix()[episodes.start[e] : episodes.start[e] + episodes.length[e]]
        for e in linear_dataset.split("train")
    ])  # fmt: skip
    states = np.sort(model.normalizer.state(torch.from_numpy(rows[:, :12])).numpy(), axis=0)
    at = round(1e-4 * (len(states) - 1))
    assert at == 1
    np.testing.assert_allclose(model.state_low, states[at], rtol=1e-5)
    np.testing.assert_allclose(model.state_high, states[-1 - at], rtol=1e-5)


def test_windows_that_end_in_a_fall_are_drawn_as_often_as_asked(make_dataset, schema):
    rows = np.zeros((40, 60, schema.width), np.float32)
    rows[1::2, -1, -1] = 1
    dataset = make_dataset(rows)
    settings = {"hidden": 4, "head_hidden": 4, "history": 4, "forecast": 2, "device": "cpu"}

    def share(**more):
        fit = fit_module._Fit(dataset, FitConfig(**settings, **more), Ranks(), torch.device("cpu"))
        starts = np.concatenate([fit.samplers[2].draw(step, 500) for step in range(20)])
        return ending_in_fall(dataset, starts, 6).mean()

    assert share() == pytest.approx(0.5 / 55, abs=0.005)
    assert share(fall_share=0.2) == pytest.approx(0.2, abs=0.02)
    assert share(fall_share=0.2, balance=True) == pytest.approx(0.2, abs=0.02)


def test_metrics_are_on_the_disk_before_the_state_that_counts_on_them(home, linear_dataset, monkeypatch):
    order, sync, save = [], Run.sync, fit_module.save_fit_state
    monkeypatch.setattr(Run, "sync", lambda run: (order.append("sync"), sync(run)))
    monkeypatch.setattr(fit_module, "save_fit_state", lambda *content: (order.append("state"), save(*content)))
    fit_model(home, linear_dataset, tiny())
    assert order.count("state") > 1
    assert all(order[k - 1] == "sync" for k, what in enumerate(order) if what == "state")
