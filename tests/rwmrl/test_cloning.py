"""Behaviour cloning finds the policy that made the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.writer import DatasetWriter
from rwmrl.cloning import CloningConfig, Demonstrations, clone_behaviour, hindsight_commands
from rwmrl.observations import policy_observation
from rwmrl.policy_file import load_policy

GAIN = torch.randn(48, 12, generator=torch.Generator().manual_seed(0)) * 0.1


def write(home, schema, name="cloned", commands=True):
    """Actions are a linear function of what a policy sees before them."""
    rng = np.random.default_rng(0)
    with DatasetWriter(home.data_dir, name, "anymal_d", schema, 50.0, {}) as writer:
        for _ in range(30):
            rows, command = np.zeros((60, 66), np.float32), rng.uniform(-1, 1, (60, 3)).astype(np.float32)
            rows[:, :45] = rng.normal(size=(60, 45))
            for t in range(1, 60):
                last, told = torch.from_numpy(rows[t - 1 : t]), torch.from_numpy(command[t : t + 1])
                saw = policy_observation(last[:, schema.state], told, last[:, schema.action], schema)
                rows[t, schema.action] = (saw @ GAIN).numpy()[0]
            writer.append(Episode(rows, truncated=True, command=command if commands else None))
        return writer.commit()


def test_it_finds_the_policy_that_acted(home, schema):
    dataset = write(home, schema)
    config = CloningConfig(updates=400, batch=256, hidden_dims=(64,), noise=False, lr=3e-3, device="cpu")
    run = clone_behaviour(home, dataset, config)
    assert run.meta.summary["command"] == "recorded" and run.meta.status == "finished"
    demonstrations = Demonstrations(dataset, "auto", torch.device("cpu"))
    assert run.meta.summary["val_action_mse"] < 0.1 * float(demonstrations.actions(np.arange(58)).var())
    policy = load_policy(run.policy_file, "anymal_d")
    held_out = dataset.episodes.start[dataset.split("test")]
    with torch.no_grad():
        error = policy(demonstrations.observations(held_out)) - demonstrations.actions(held_out)
    assert error.square().mean() < 0.1 * demonstrations.actions(held_out).var()
    resumed = clone_behaviour(home, dataset, resume=run)
    assert resumed.id == run.id and len([m for m in resumed.metrics() if m["metric"] == "val/action_mse"]) == 8


def test_a_demonstration_is_an_observation_and_the_action_taken_on_it(home, schema):
    demonstrations = Demonstrations(write(home, schema), "recorded", torch.device("cpu"))
    first = np.array([0, 5, 61])
    torch.testing.assert_close(
        demonstrations.observations(first) @ GAIN, demonstrations.actions(first), rtol=0, atol=1e-5
    )


def test_commands_in_hindsight_by_hand(home, schema):
    dataset = write(home, schema, "without", commands=False)
    rows = dataset.matrix()
    found = hindsight_commands(dataset, rows)
    np.testing.assert_allclose(found[3], rows[3:53][:, [0, 1, 5]].mean(axis=0), atol=1e-5)
    # Twenty rows before the end of the episode only those are averaged; the last row is its own command.
    np.testing.assert_allclose(found[40], rows[40:60][:, [0, 1, 5]].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found[59], rows[59][[0, 1, 5]], atol=1e-5)
    assert Demonstrations(dataset, "auto", torch.device("cpu")).source == "hindsight"
    with pytest.raises(RwmError, match="without a recorded command"):
        Demonstrations(dataset, "recorded", torch.device("cpu"))


def test_a_clone_that_diverges_is_not_kept(home, schema):
    dataset = write(home, schema, "walks")
    with pytest.raises(RwmError, match="held-out error is not finite after 1 updates"):
        clone_behaviour(home, dataset, CloningConfig(updates=3, log_interval=1, lr=1e30, device="cpu"))
    (run,) = home.runs("policy")
    assert run.meta.status == "failed" and not run.policy_file.exists()
