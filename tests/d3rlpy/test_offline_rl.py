"""CQL and IQL by d3rlpy, for real: they learn, resume to the same weights and become policies like any other.

Run by ``make test-d3rlpy``; skipped where d3rlpy is not installed.
"""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.main import app
from cli.runs import continue_run
from rwmdata.config import build
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmrl.offline_rl import Learner, OfflineRLConfig, train_offline_rl
from rwmrl.policy_file import load_policy
from rwmrl.transitions import Transitions

d3rlpy = pytest.importorskip("d3rlpy")
SMALL = {"updates": 12, "batch": 16, "hidden_dims": (16, 16), "log_interval": 4, "checkpoint_interval": 4,
         "device": "cpu"}  # fmt: skip
ALGORITHMS = pytest.mark.parametrize("algo", ["cql", "iql"])


@pytest.fixture
def dataset(make_dataset, schema):
    """Velocities are what the first actions say, so that rewards depend on what is done."""
    rng = np.random.default_rng(0)
    rows = np.zeros((20, 40, schema.width), np.float32)
    rows[:, 1:, schema.action] = rng.uniform(-1, 1, (20, 39, 12))
    rows[..., :2] = rows[..., schema.action][..., :2]
    rows[..., 5] = rows[..., schema.action][..., 2]
    rows[..., schema.group("projected_gravity")] = (0, 0, -1)
    rows[..., schema.group("foot_contact")] = 1
    rows[::4, -1, -1] = 1
    commands = rng.uniform(-1, 1, (20, 40, 3)).astype(np.float32)
    episodes = zip(rows, commands, strict=True)
    return make_dataset([Episode(e, truncated=not e[-1, -1], command=c) for e, c in episodes], "steered")


@ALGORITHMS
def test_it_trains_and_the_run_is_a_policy_run_like_any_other(home, dataset, algo):
    run = train_offline_rl(home, dataset, build(OfflineRLConfig, algo, SMALL))
    assert run.meta.status == "finished" and run.meta.parents == {"dataset": "steered"}
    assert run.meta.summary["algo"] == algo and run.meta.summary["command"] == "recorded"
    assert [m["step"] for m in run.metrics() if m["metric"] == "val/action_mse"] == [4, 8, 12]
    policy = load_policy(run.policy_file, "anymal_d")
    assert policy(torch.zeros(3, 48)).shape == (3, 12)


@ALGORITHMS
def test_our_policy_acts_as_the_librarys_actor(dataset, algo):
    learner = Learner(dataset, build(OfflineRLConfig, algo, SMALL))
    for _ in range(6):
        learner.update()
    x = torch.randn(200, 48, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        ours = learner.policy()(x).numpy()
    np.testing.assert_allclose(ours, learner.algo.predict(x.numpy()), rtol=0, atol=1e-5)
    assert ours.std() > 1e-3 and np.abs(ours).max() <= 1.0 + 1e-5


@ALGORITHMS
def test_a_broken_run_is_resumed_to_the_same_weights_and_numbers(home, dataset, algo):
    def interrupt(done, total, numbers):
        if done == 8:
            raise KeyboardInterrupt

    whole = train_offline_rl(home, dataset, build(OfflineRLConfig, algo, SMALL))
    with pytest.raises(KeyboardInterrupt):
        train_offline_rl(home, dataset, build(OfflineRLConfig, algo, SMALL), interrupt)
    broken = home.runs("policy")[0]
    assert broken.meta.status == "interrupted"
    again = continue_run(home, broken, lambda *_: None)
    assert again.id == broken.id and again.meta.status == "finished" and again.metrics() == whole.metrics()
    weights, expected = (load_file(r.policy_file) for r in (again, whole))
    assert all(torch.equal(weights[k], expected[k]) for k in expected)
    states = [torch.load(r.state_file, weights_only=True)["parts"]["q_funcs"] for r in (again, whole)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[1])


@ALGORITHMS
@pytest.mark.usefixtures("usual_signals")
def test_one_that_is_told_to_end_saves_the_update_it_is_in(home, dataset, algo):
    def end(done, total, numbers):
        if done == 4:
            assert callable(signal.getsignal(signal.SIGTERM))  # Or the next line would end the tests.
            os.kill(os.getpid(), signal.SIGTERM)

    config = build(OfflineRLConfig, algo, {**SMALL, "checkpoint_interval": 100})
    whole = train_offline_rl(home, dataset, config)
    with pytest.raises(KeyboardInterrupt):
        train_offline_rl(home, dataset, config, end)
    broken = home.runs("policy")[0]
    assert (broken.meta.status, broken.meta.error) == ("interrupted", "interrupted by SIGTERM")
    assert torch.load(broken.state_file, weights_only=True)["completed"] == 4
    again = continue_run(home, broken, lambda *_: None)
    assert again.metrics() == whole.metrics()
    weights, expected = (load_file(r.policy_file) for r in (again, whole))
    assert all(torch.equal(weights[k], expected[k]) for k in expected)


def test_the_library_is_given_the_transitions_of_the_train_split(dataset):
    learner = Learner(dataset, build(OfflineRLConfig, "iql", {**SMALL, "noise": False}))
    first = learner.sampler.starts
    batch, found = learner.batch(first), Transitions(dataset, "recorded", torch.device("cpu")).batch(first)
    np.testing.assert_array_equal(batch.observations, found.observation)
    np.testing.assert_array_equal(batch.next_observations, found.next_observation)
    np.testing.assert_array_equal(batch.actions, found.action)
    np.testing.assert_array_equal(batch.rewards[:, 0], found.reward)
    np.testing.assert_array_equal(batch.terminals[:, 0], found.terminal)
    train = dataset.split("train")
    assert len(first) == 39 * len(train) and batch.terminals.sum() == (train % 4 == 0).sum()


def test_noise_is_drawn_anew_for_what_is_seen_next(dataset):
    learner = Learner(dataset, build(OfflineRLConfig, "iql", SMALL))
    first = learner.sampler.starts[:50]
    clean, noisy = learner.batch(first), learner.batch(first, torch.Generator().manual_seed(0))
    a, b = noisy.observations - clean.observations, noisy.next_observations - clean.next_observations
    scale = learner.noise.numpy()
    assert (np.abs(a) <= scale + 1e-5).all() and np.abs(a).max() > 1 and np.abs(a - b).max() > 1


def test_iql_finds_what_pays(dataset):
    """Actions were random; those that follow the command earn most, and that is what the policy learns."""
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate"), 3e-3)
    config = build(
        OfflineRLConfig,
        "iql",
        {
            "updates": 200,
            "batch": 128,
            "hidden_dims": (64,),
            "noise": False,
            "device": "cpu",
            "gamma": 0.0,
            "options": {**rates, "weight_temp": 10.0, "tau": 0.05},
        },
    )
    learner = Learner(dataset, config)
    for _ in range(config.updates):
        learner.update()
    seen, acted = (f(learner.sampler.starts) for f in (learner.data.observations, learner.data.actions))
    told = seen[:, 9:12]
    with torch.no_grad():
        done = learner.policy()(seen)[:, :3]

    def tracking(action):
        return torch.exp(-(action[:, :2] - told[:, :2]).square().sum(dim=1) / 0.25).mean()

    assert torch.corrcoef(torch.stack((done.flatten(), told.flatten())))[0, 1] > 0.5
    assert tracking(done) > 2 * tracking(acted) and tracking(done) > 1.3 * tracking(torch.zeros(len(told), 2))


def test_the_command_line_trains_with_the_librarys_own_options(home, dataset):
    runner = CliRunner()
    words = ["policy", "--algo", "iql", "--iterations", "2", "--set", "hidden_dims=[8]", "--set", "batch=8", "--json"]
    result = runner.invoke(app, [*words, "--set", "options.expectile=0.9"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["algo"] == "iql" and shown["updates"] == 2
    config = home.run("policy", shown["run"]).meta.config
    assert config["options"] == {"expectile": 0.9} and config["hidden_dims"] == [8]


def test_an_option_the_library_does_not_have_is_named(dataset):
    with pytest.raises(RwmError, match=r"cql has no number expectile; it has .*conservative_weight"):
        Learner(dataset, build(OfflineRLConfig, "cql", {**SMALL, "options": {"expectile": 0.9}}))


def test_code_in_a_checkpoint_is_never_run(home, dataset, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    run = train_offline_rl(home, dataset, build(OfflineRLConfig, "iql", SMALL))
    torch.save({"parts": Evil(), "completed": 3}, run.state_file)
    with pytest.raises(RwmError, match="cannot be read"):
        train_offline_rl(home, dataset, build(OfflineRLConfig, "iql", SMALL), resume=run)
    assert not marker.exists()
