"""Environments go on from a saved state bit for bit, in the process that saved it and in a new one."""

from __future__ import annotations

import io

import pytest
import torch

from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.velocity_commands import CommandConfig


@pytest.fixture(params=["member", "mean", "starts anywhere", "no room", "many environments", "headings", "bounds"])
def make(request, make_env, robot, monkeypatch):
    """Make an environment of 30 steps an episode, the same each time."""
    if request.param in ("headings", "bounds"):
        bounds = {"bounds_m": (4.0, 3.0)} if request.param == "bounds" else {}
        command = CommandConfig(heading=True, resample_s=(0.2, 0.4), **bounds)
        config = MujocoEnvConfig(num_envs=6, threads=0, episode_length_s=0.6, command=command)
        return lambda: MujocoEnv(robot, config)
    if request.param == "no room":
        monkeypatch.setattr("rwmrl.envs.recorded_starts.KEPT_BYTES", 4 * 256)
    monkeypatch.setattr("rwmrl.envs.recorded_starts.AHEAD", 40)
    monkeypatch.setattr("rwmrl.envs.recorded_starts.BLOCK", 4)
    options = {
        "member": {}, "mean": {"rollout": "mean", "lam_ramp_steps": 50}, "starts anywhere": {"init_share": 0.3},
        "no room": {}, "many environments": {"num_envs": 60},
    }[request.param]  # fmt: skip
    return lambda: make_env(episode_steps=30, push_interval_steps=(5, 9), **options)


def play(env, first, last):
    """Return everything the steps ``first`` to ``last - 1`` give; random ages make some environments end in each."""
    results = []
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        step = env.step(0.5 * torch.randn(env.num_envs, 12, generator=generator))
        numbers = {k: torch.as_tensor(v) for k, v in step.log.items()}
        results.append([*step.observations.values(), step.reward, step.terminated, step.truncated, step.transition,
                        env.command.clone(), *numbers.values()])  # fmt: skip
    return results


def scatter_ages(env):
    env.episode_length_buf = torch.randint(30, (env.num_envs,), generator=torch.Generator().manual_seed(1))


def through_a_file(state):
    """Return what is read of a state that is written to a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(first, second):
    return all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("before", [0, 7, 45])
def test_a_restored_environment_goes_on_bit_for_bit(make, before):
    """For more than two episodes, from the first state, within the first episode, and later."""
    env = make()
    scatter_ages(env)
    play(env, 0, before)
    state = through_a_file(env.state())
    undisturbed = play(env, before, before + 70)
    other = make()
    play(other, 500, 520)
    other.restore(state)
    assert same(undisturbed, play(other, before, before + 70))
    env.restore(state)
    assert same(undisturbed, play(env, before, before + 70))


def test_saving_disturbs_nothing_and_later_steps_leave_what_was_saved_alone(make):
    env, other = make(), make()
    state = env.state()
    written = through_a_file(state)
    for number in range(40):
        env.state()
        assert same(play(env, number, number + 1), play(other, number, number + 1))
    env.restore(state)
    state_again = io.BytesIO(), io.BytesIO()
    for file, saved in zip(state_again, (through_a_file(env.state()), through_a_file(written)), strict=True):
        torch.save(saved, file)
    assert state_again[0].getvalue() == state_again[1].getvalue()


def test_the_state_of_other_environments_is_refused(make, make_env):
    with pytest.raises((KeyError, ValueError)):
        make().restore(make_env(num_envs=3).state())
