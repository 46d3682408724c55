from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ConfigDict

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import Run


def new_run(home, kind="model", **parents):
    return Run.create(home, kind, {"lr": 1e-3}, parents, seed=4)


def test_home_is_argument_then_variable_then_here(monkeypatch, tmp_path):
    monkeypatch.setenv("RWM_HOME", str(tmp_path))
    assert Home.resolve("elsewhere").root.name == "elsewhere"
    assert Home.resolve().root == tmp_path
    monkeypatch.delenv("RWM_HOME")
    assert str(Home.resolve().root) == "."


def test_no_dataset_and_no_run_say_what_to_type(home):
    with pytest.raises(RwmError) as caught:
        home.dataset()
    assert caught.value.hint == "rwm data export --task Pretrain-v0, or name the one that comes along: sample"
    with pytest.raises(RwmError) as caught:
        home.run("model")
    assert caught.value.hint == "rwm fit, or --model shipped"


def test_a_run_keeps_config_parents_and_summary(home):
    run = new_run(home, dataset="set")
    with run.running():
        run.log(1, {"loss": 2.0, "bad": float("nan")})
        run.finish({"best": 1.0})
    again = home.run("model")
    assert (again.meta.status, again.meta.parents, again.meta.summary) == (
        "finished",
        {"dataset": "set"},
        {"best": 1.0},
    )
    assert json.loads((run.path / "config.json").read_text()) == {"lr": 1e-3}
    assert again.metrics() == [
        {"step": 1, "metric": "loss", "value": 2.0},
        {"step": 1, "metric": "bad", "value": None},
    ]
    assert "torch" in again.meta.versions


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_a_run_that_breaks_says_how(home, error, status):
    run = new_run(home)
    with pytest.raises(error), run.running():
        raise error("x")
    assert Run.open(run.path).meta.status == status


def test_a_run_that_runs_is_not_run_twice(home):
    run = new_run(home)
    with run.running(), pytest.raises(RwmError, match="is being written by another process"):
        Run.open(run.path).running().__enter__()
    with Run.open(run.path).running():
        pass


def test_only_finished_runs_are_taken_by_default_and_prefixes_work(home):
    first, second = new_run(home), new_run(home)
    first.finish({})
    assert home.run("model").id == first.id
    assert home.run("model", second.id[:-1]).id == second.id
    with pytest.raises(RwmError, match="fits 2 models"):
        home.run("model", "20")
    with pytest.raises(RwmError, match="No model 'x'"):
        home.run("model", "x")


def test_truncate_drops_later_metrics_and_torn_lines(home):
    run = new_run(home)
    for step in (1, 2, 3):
        run.log(step, {"loss": step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "met')
    run.truncate_metrics(2)
    run.log(3, {"loss": 30})
    assert [(m["step"], m["value"]) for m in run.metrics()] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_series_are_the_values_of_every_metric_in_order(home):
    run = new_run(home)
    assert run.series() == {}
    for step in (1, 2):
        run.log(step, {"loss": step, "reward": float("nan") if step == 2 else 0.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n{"step": 3, "metric": "loss", "value": 9')
    assert run.series() == {"loss": [1.0, 2.0], "reward": [0.5, None]}


def test_a_broken_run_record_is_named(home):
    run = new_run(home)
    (run.path / "run.json").write_text("nonsense")
    with pytest.raises(RwmError, match="run.json is not a readable run record"):
        Run.open(run.path)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lam: float
    sizes: tuple[int, ...] = (2, 3)
    added_later: int = 7
    wandb: str | None = None


def test_a_run_is_found_again_by_its_configuration(home):
    parents = {"dataset": "d"}
    runs = [
        Run.create(home, "policy", config, parents, 0)
        for config in ({"lam": 1.0, "sizes": [2, 3]}, {"lam": 1.0, "added_later": 8}, {"other": 1})
    ]
    assert home.run_of("policy", Settings(lam=1.0), parents).id == runs[0].id
    assert home.run_of("policy", Settings(lam=1.0, wandb="mine"), parents).id == runs[0].id
    assert home.run_of("policy", Settings(lam=1.0, added_later=8), parents).id == runs[1].id
    assert home.run_of("policy", Settings(lam=1.0, sizes=(2,)), parents) is None
    assert home.run_of("policy", Settings(lam=1.0), {"dataset": "e"}) is None
    later = Run.create(home, "policy", Settings(lam=1.0).model_dump(mode="json"), parents, 0)
    assert home.run_of("policy", Settings(lam=1.0), parents).id in {runs[0].id, later.id}
    runs[0].finish({})
    assert home.run_of("policy", Settings(lam=1.0), parents).id == runs[0].id
