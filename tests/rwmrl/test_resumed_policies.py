"""An interrupted PPO training ends as an undisturbed one: policy, optimiser, environments and metrics, bit for bit."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from rwmdata.config import build
from rwmrl.envs.mujoco import MujocoEnv
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig
from rwmrl.ppo_config import PPOConfig
from rwmrl.simulator_training import TrainConfig, train_in_simulator

ITERATIONS = 6
PPO = {"num_steps": 4, "hidden_dims": (8,), "mini_batches": 2, "epochs": 2, "ema": 0.5}
IMAGINED = {"num_envs": 8, "episode_steps": 7, "push_interval_steps": (3, 5), "lam_ramp_steps": 12}


def interrupt_at(iteration):
    def progress(done, total, numbers):
        if done == iteration:
            raise KeyboardInterrupt

    return progress


def leaves(content, at=""):
    """Yield all values of nested dicts and lists, each with its place."""
    if isinstance(content, dict | list | tuple):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from leaves(value, f"{at}/{key}")
    else:
        yield at, content


def same_values(first, second):
    first, second = dict(leaves(first)), dict(leaves(second))
    assert list(first) == list(second)
    different = [
        k for k, v in first.items() if not (torch.equal(v, second[k]) if torch.is_tensor(v) else v == second[k])
    ]
    assert not different


def same_outcome(run, undisturbed):
    same_values(*(load_file(r.policy_file) for r in (run, undisturbed)))
    same_values(*(torch.load(r.state_file, weights_only=True) for r in (run, undisturbed)))
    metrics = [[(m["step"], m["metric"], m["value"]) for m in r.metrics() if not m["metric"].startswith("perf/")]
               for r in (run, undisturbed)]  # fmt: skip
    assert metrics[0] == metrics[1] and {m[0] for m in metrics[0]} == set(range(1, ITERATIONS + 1))
    summaries = [{k: v for k, v in r.meta.summary.items() if k != "steps_per_second"} for r in (run, undisturbed)]
    assert summaries[0] == summaries[1]


def sigterm_at(iteration):
    def progress(done, total, numbers):
        if done == iteration:
            assert callable(signal.getsignal(signal.SIGTERM))  # Or the next line would end the tests.
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


def simulated(home, **ppo):
    """Return a function that trains in the simulator, and the arguments of a new run."""
    changes = {**PPO, "checkpoint_interval": 2, **ppo}
    config = TrainConfig(num_envs=4, iterations=ITERATIONS, ppo=PPOConfig(**changes), seed=3)
    return lambda progress=None, run=None: train_in_simulator(home, config, progress or (lambda *_: None), run)


def imagined(home, dataset, model_run, **options):
    config = build(
        PolicyConfig, "smoke",
        {"iterations": ITERATIONS, "checkpoint_interval": 2, **PPO, **IMAGINED, "seed": 3, **options},
    )  # fmt: skip
    return lambda progress=None, run=None: train_policy(
        home, dataset, model_run.checkpoint, config, progress or (lambda *_: None), run
    )


@pytest.fixture(params=["simulated", "imagined"])
def make_training(request, home, dataset, model_run):
    """Make a function that trains a policy; given a run, it resumes that."""
    if request.param == "simulated":
        return lambda **options: simulated(home, **options)
    return lambda **options: imagined(home, dataset, model_run, **options)


def interrupted(home, train, *iterations):
    """Return the run of a training that is interrupted once in each of these iterations, then finished."""
    before, run = {r.id for r in home.runs()}, None
    for iteration in iterations:
        with pytest.raises(KeyboardInterrupt):
            train(interrupt_at(iteration), run)
        (run,) = (r for r in home.runs() if r.id not in before)
        assert run.meta.status == "interrupted"
    return train(None, run)


@pytest.mark.parametrize("critic_first", [0, 3])
def test_an_interrupted_training_ends_as_an_undisturbed_one(home, make_training, critic_first):
    """Before the first checkpoint, right behind one, within and at the end of the critic's iterations, and twice."""
    train = make_training(critic_first=critic_first)
    undisturbed = train()
    for iterations in [(1,), (2,), (3,), (4,), (6,), (3, 5)]:
        same_outcome(interrupted(home, train, *iterations), undisturbed)


def test_a_checkpoint_without_a_moment_is_resumed_with_new_episodes(home, make_training):
    """As those written before there were any, and those of several processes."""
    train = make_training()
    with pytest.raises(KeyboardInterrupt):
        train(interrupt_at(4))
    (run,) = (r for r in home.runs() if r.meta.status == "interrupted")
    state = torch.load(run.state_file, weights_only=True)
    assert state.pop("moment") and state["completed"] == 3
    torch.save(state, run.state_file)
    run = train(None, run)
    assert run.meta.status == "finished"
    assert sorted({m["step"] for m in run.metrics()}) == list(range(1, ITERATIONS + 1))


def test_environments_that_cannot_tell_their_state_begin_anew(home, monkeypatch):
    monkeypatch.setattr(MujocoEnv, "state", lambda self: None)
    run = interrupted(home, simulated(home), 4)
    assert torch.load(run.state_file, weights_only=True)["moment"] is None
    assert sorted({m["step"] for m in run.metrics()}) == list(range(1, ITERATIONS + 1))


@pytest.mark.usefixtures("usual_signals")
def test_a_training_that_gets_sigterm_saves_the_iteration_it_is_in(home):
    train = simulated(home, checkpoint_interval=50)
    undisturbed = train()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        train(sigterm_at(4))
    run = home.runs("train")[0]
    assert run.meta.status == "interrupted" and torch.load(run.state_file, weights_only=True)["completed"] == 4
    same_outcome(train(run=run), undisturbed)
