"""What holds of the model-free baselines where d3rlpy is not installed; the others are in tests/d3rlpy."""

from __future__ import annotations

import sys

import pytest

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmrl.offline_rl import OfflineRLConfig, train_offline_rl


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
