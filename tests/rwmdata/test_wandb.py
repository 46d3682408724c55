"""Weights & Biases is told every number once, also of a run that was broken and resumed."""

from __future__ import annotations

import sys
import types

import pytest

from rwmdata.errors import RwmError
from rwmdata.runs import Run


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package; remembers what it is asked."""
    module = types.ModuleType("wandb")
    module.started, module.logged, module.ended = [], [], []

    def init(**options):
        module.started.append(options)
        log = lambda metrics, step: module.logged.extend((step, k, v) for k, v in metrics.items())  # noqa: E731
        return types.SimpleNamespace(log=log, finish=lambda exit_code: module.ended.append(exit_code))

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def run(home):
    return Run.create(home, "policy", {"wandb": "robots", "lam": 1.0}, {"dataset": "d"}, seed=0)


def train(run, completed, last, fails_at=None):
    """Steps ``completed + 1`` to ``last``, two logs each; checkpoints are the caller's idea."""
    with run.running():
        run.truncate_metrics(completed)
        for step in range(completed + 1, last + 1):
            run.log(step, {"loss": 0.5 * step})
            if step == fails_at:
                raise KeyboardInterrupt
            run.log(step, {"val": 2.0 * step})
        run.finish({})


def test_it_sees_every_number_once_also_after_a_resume(run, wandb):
    """Broken in step 5, between its two logs, and resumed from a checkpoint after step 2."""
    with pytest.raises(KeyboardInterrupt):
        train(run, 0, 8, fails_at=5)
    train(Run.open(run.path), 2, 8)
    assert sorted(wandb.logged) == sorted(
        (step, name, factor * step) for step in range(1, 9) for name, factor in (("loss", 0.5), ("val", 2.0))
    )
    rows = [(m["step"], m["metric"], m["value"]) for m in run.metrics()]
    assert sorted(rows) == sorted(wandb.logged)
    assert wandb.ended == [1, 0] and [s["id"] for s in wandb.started] == [f"policy-{run.id}"] * 2
    first = wandb.started[0]
    assert (first["project"], first["resume"], first["config"]["lam"]) == ("robots", "allow", 1.0)


def test_a_run_that_does_not_ask_for_it_does_without(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = Run.create(home, "policy", {"wandb": None}, {}, seed=0)
    train(run, 0, 2)
    assert run.meta.status == "finished"


def test_numbers_that_are_not_finite_stay_here(run, wandb):
    with run.running():
        run.log(1, {"a": float("nan"), "b": 1.0})
    assert wandb.logged == [(1, "b", 1.0)] and run.metrics()[0]["value"] is None


def test_a_missing_package_or_a_refusal_is_said(run, wandb, monkeypatch):
    def refuse(**options):
        raise ValueError("no\nkey")

    wandb.init = refuse
    with pytest.raises(RwmError, match="Weights & Biases refuses: no key"):
        train(run, 0, 1)
    assert run.meta.status == "failed"
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RwmError, match="needs the package wandb") as error:
        train(run, 0, 1)
    assert "rwm[wandb]" in error.value.hint
