"""What holds of the model-free baselines where d3rlpy is not installed; the others are in tests/d3rlpy."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmrl import offline_rl
from rwmrl.offline_rl import Learner, OfflineRLConfig, train_offline_rl
from rwmrl.policy_network import MlpPolicy, PolicyInfo


@pytest.mark.parametrize("algo", ["cql", "iql"])
def test_a_missing_library_is_named_with_its_extra_and_no_run_is_left(home, dataset, monkeypatch, algo):
    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    with pytest.raises(RwmError, match="need the package d3rlpy") as error:
        train_offline_rl(home, dataset, build(OfflineRLConfig, algo))
    assert "rwm[d3rlpy]" in str(error.value) + str(error.value.hint)
    assert home.runs("policy") == []


def test_configurations_name_what_they_do_not_know():
    assert build(OfflineRLConfig, "iql", {"updates": 7}).updates == 7
    with pytest.raises(RwmError, match="configuration is not valid: expectile: is no option"):
        build(OfflineRLConfig, "cql", {"expectile": 0.9})
    with pytest.raises(RwmError, match="updates: "):
        build(OfflineRLConfig, "cql", {"updates": 0})


class OneLayer(Learner):
    """In place of d3rlpy's networks one layer that is pulled to zero; saving and resuming are the real ones."""

    ended_at = 0

    def __init__(self, dataset, config):
        self.config, self.done, self.device = config, 0, torch.device("cpu")
        self.data = SimpleNamespace(source="recorded")
        self.algo = SimpleNamespace(set_grad_step=lambda step: None)
        torch.manual_seed(config.seed)
        self.layer = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.Adam(self.layer.parameters(), lr=0.1)

    def update(self):
        loss = sum(p.square().sum() for p in self.layer.parameters())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        if self.done == self.ended_at:
            assert callable(signal.getsignal(signal.SIGTERM))  # Or the next line would end the tests.
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": float(loss.detach())}

    def score(self):
        return {"val/action_mse": float(self.layer.weight.detach().square().mean()), "val/value": 0.0}

    def policy(self, source=""):
        return MlpPolicy(PolicyInfo.of(offline_rl.load_robot("anymal_d"), (2,), source=source))

    def _parts(self):
        return {"layer": self.layer, "optimizer": self.optimizer}


@pytest.mark.usefixtures("usual_signals")
def test_a_training_that_is_told_to_end_saves_the_update_it_is_in_and_goes_on_to_the_same(home, dataset, monkeypatch):
    monkeypatch.setattr(offline_rl, "Learner", OneLayer)
    sizes = {"updates": 12, "log_interval": 2, "checkpoint_interval": 100}
    config = build(OfflineRLConfig, "iql", sizes)
    undisturbed = train_offline_rl(home, dataset, config)
    monkeypatch.setattr(OneLayer, "ended_at", 7)
    with pytest.raises(KeyboardInterrupt):
        train_offline_rl(home, dataset, config)
    run = home.runs("policy")[0]
    assert (run.meta.status, run.meta.error) == ("interrupted", "interrupted by SIGTERM")
    saved = torch.load(run.state_file, weights_only=True)
    assert saved["completed"] == 7 and run.policy_file.exists()
    monkeypatch.setattr(OneLayer, "ended_at", 0)
    resumed = train_offline_rl(home, dataset, resume=run)
    assert resumed.meta.status == "finished" and resumed.metrics() == undisturbed.metrics()
    layers = [torch.load(r.state_file, weights_only=True)["parts"]["layer"] for r in (resumed, undisturbed)]
    assert torch.equal(layers[0]["weight"], layers[1]["weight"])
    assert not torch.equal(layers[0]["weight"], saved["parts"]["layer"]["weight"])
