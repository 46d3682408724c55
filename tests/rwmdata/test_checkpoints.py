"""A model or a policy is named by its run or by its file; lineage names the one or the other."""

from __future__ import annotations

import pytest

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import DIGEST, Run


@pytest.fixture
def model_run(home):
    run = Run.create(home, "model", {}, {"dataset": "d"}, seed=0)
    run.model_file.write_bytes(b"best")
    run.finish({})
    return run


@pytest.mark.parametrize("name", [None, "{0.id}", "{0.path}", "{0.model_file}"])
def test_a_run_s_own_model_is_called_by_its_run(home, model_run, name):
    checkpoint = home.model(name and name.format(model_run))
    assert checkpoint.file == model_run.model_file and checkpoint.id == model_run.id
    assert checkpoint.parent("dataset") == "d"


def test_another_file_of_a_run_is_itself(home, model_run):
    other = model_run.checkpoints / "other.safetensors"
    other.write_bytes(b"other")
    checkpoint = home.model(str(other))
    assert checkpoint.file == other.resolve() and checkpoint.run is None
    assert checkpoint.id.startswith(f"{other.resolve()}{DIGEST}") and home.model(checkpoint.id) == checkpoint


def test_a_recorded_file_that_changed_or_is_gone_is_refused(home, tmp_path):
    file = tmp_path / "sent.safetensors"
    file.write_bytes(b"sent")
    recorded = home.model(str(file)).id
    file.write_bytes(b"another")
    with pytest.raises(RwmError, match="sent.safetensors has changed since"):
        home.model(recorded)
    file.unlink()
    with pytest.raises(RwmError, match="Cannot read .*sent.safetensors: No such file"):
        home.model(recorded)


def test_a_run_of_another_home_is_named_by_its_file(tmp_path, model_run):
    for name in (model_run.path, model_run.model_file):
        checkpoint = Home(tmp_path / "other").model(str(name))
        assert checkpoint.file == model_run.model_file.resolve() and DIGEST in checkpoint.id


def test_policies_come_from_policy_and_train_runs_only(home, model_run):
    train, policy = (Run.create(home, kind, {}, {}, seed=0) for kind in ("train", "policy"))
    policy.finish({})
    assert home.policy().file == policy.policy_file
    for run in (train, policy):
        assert home.policy(run.id).id == home.policy(str(run.path)).id == run.id
    assert home.find_policy("expert") is None and home.find_policy(model_run.id) is None
    with pytest.raises(RwmError, match="neither a policy or train run .* nor a policy file"):
        home.policy(str(model_run.path))
    with pytest.raises(RwmError, match="is a policy run, not a model run"):
        home.model(str(policy.path))
