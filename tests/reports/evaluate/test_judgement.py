from __future__ import annotations

import json

import pytest

from rwmdata.errors import RwmError


@pytest.fixture
def dataset(rwm):
    rwm("data", "export", "--policy", "medium", "--transitions", 4000, "--name", "d", "--set", "num_envs=8")


def test_a_model_judges_a_policy_and_says_whether_it_is_its_own(rwm, home, dataset):
    rwm("fit", "d", "--preset", "smoke", "--updates", 2)
    model = home.run("model", None)
    short = ("--episodes", 4, "--backend", "model")
    judged = json.loads(rwm("eval", "policy", "--policy", "medium", *short, "--model", model.id, "--json"))
    values = {s["metric"]: s for s in judged["scalars"]}
    assert {"reward", "share_without_fall", "tilted", "epistemic"} <= values.keys()
    assert judged["episodes"] == 4 and judged["model"] == model.id and judged["own_model"] is False
    assert values["epistemic"]["low"] <= values["epistemic"]["value"] <= values["epistemic"]["high"]
    with pytest.raises(RwmError, match="does not read --robot"):
        rwm("eval", "policy", "--policy", "medium", *short, "--robot", "anymal_d")
