"""The loop of control, with an environment and a behaviour that live on different devices."""

from __future__ import annotations

import pytest
import torch

from rwmrl.behaviour_base import Behaviour
from rwmrl.control_loop import act, play
from rwmrl.envs.base import Step, VecEnv

FAR = torch.device("meta")
"""A device whose tensors no other can compute with."""


class Counting(VecEnv):
    """Its command counts the steps; episodes last three."""

    num_envs, num_actions, max_episode_length, control_dt_s = 2, 3, 3, 0.02

    def __init__(self, device="cpu"):
        self.device, self.taken, self.resets = torch.device(device), [], 0
        self._command = torch.zeros(2, 3, device=device)

    @property
    def command(self):
        return self._command

    def reset(self):
        self.resets += 1
        return self.get_observations()

    def get_observations(self):
        return {"policy": self._command.clone()}

    def step(self, actions):
        assert actions.device == self.device
        self.taken.append(actions)
        self._command += 1
        done = torch.full((2,), len(self.taken) % 3 == 0, device=self.device)
        return Step(self.get_observations(), done.float(), done & False, done, actions)

    def current_rows(self):
        return self._command


class Copying(Behaviour):
    """Does what it sees."""

    name, num_envs = "copying", 2

    def __init__(self, device="cpu"):
        self.device, self.begun, self.seen = torch.device(device), [], []

    def reset(self, env_ids):
        self.begun += env_ids.tolist()

    def act(self, observations):
        assert observations["policy"].device == self.device
        self.seen.append(observations["policy"])
        return observations["policy"] + 0.5


def test_a_step_is_given_with_its_action_and_the_command_it_was_made_under():
    env = Counting()
    played = list(play(env, Copying(), 4))
    assert [p.command[0, 0].item() for p in played] == [0, 1, 2, 3]
    assert [p.action[0, 0].item() for p in played] == [0.5, 1.5, 2.5, 3.5]
    assert [p.step.done.all().item() for p in played] == [False, False, True, False]
    assert all(torch.equal(p.action, taken) for p, taken in zip(played, env.taken, strict=True))


@pytest.mark.parametrize(("simulator", "policy"), [(FAR, "cpu"), ("cpu", FAR), (FAR, FAR)])
def test_observations_go_to_the_behaviours_device_and_actions_to_the_environments(simulator, policy, monkeypatch):
    def moved(tensor, device):
        return torch.zeros(tensor.shape, device=device)

    monkeypatch.setattr(torch.Tensor, "to", moved)  # Nothing can be read back from the far device.
    env, behaviour = Counting(simulator), Copying(policy)
    played = list(play(env, behaviour, 2))
    assert len(env.taken) == len(behaviour.seen) == 2
    assert {p.command.device for p in played} == {p.action.device for p in played} == {env.device}
    assert act(behaviour, env.get_observations(), env.device).device == env.device


def test_episodes_begin_before_the_first_step_is_asked_for():
    env, behaviour = Counting(), Copying()
    steps = play(env, behaviour)
    assert env.resets == 1 and behaviour.begun == [0, 1] and env.taken == []
    for _ in range(7):
        next(steps)
    assert len(env.taken) == 7 and env.resets == 1


def test_what_the_behaviour_sees_can_be_changed():
    def negated(k, observations):
        return {"policy": -observations["policy"] - 10 * k}

    behaviour = Copying()
    list(play(Counting(), behaviour, 3, negated))
    assert [seen[0, 0].item() for seen in behaviour.seen] == [0, -11, -22]
