"""Episode ends in a hundred thousand rows of robots that fall, are pushed and jump: all found, none made up."""

from __future__ import annotations

import math

import pytest
import torch

from rwmdata.episode_ends import find_episode_starts
from rwmrl import export
from rwmrl.behaviour_base import Behaviour
from rwmrl.export import ExportConfig, export_dataset

ROWS = 34_000


class Jumper(Behaviour):
    """Crouches and thrusts all legs at once, robots out of step with each other."""

    name = "jumper"

    def __init__(self, context):
        self.num_envs = context.num_envs
        self.time = torch.arange(context.num_envs) * 0.11
        joints = context.robot.joints
        self.shape = torch.tensor([{"KFE": -2.4, "alf": -3.6, "HFE": 1.2, "igh": 1.8}.get(j[-3:], 0.0) for j in joints])

    def act(self, observations):
        self.time += 0.02
        phase = torch.sin(2 * math.pi * 1.7 * self.time)
        return torch.where(phase[:, None] > 0.2, self.shape * 0.6, -0.4 * self.shape)


@pytest.mark.parametrize(
    ("robot", "policy", "noise"),
    [("anymal_d", "expert", 0.1), ("anymal_d", "random", 1.5), ("go2", "jumper", 0.0)],
    ids=["pushed", "falling", "jumping"],
)
def test_every_boundary_is_found_and_none_made_up(home, monkeypatch, robot, policy, noise):
    if policy == "jumper":
        monkeypatch.setattr(export, "make_behaviour", lambda *arguments: Jumper(arguments[1]))
    config = ExportConfig(
        robot=robot, policy=policy, transitions=ROWS, num_envs=128, pushes=True, action_noise=noise, name="d"
    )
    dataset = export_dataset(home, config)
    found = {s.row for s in find_episode_starts(dataset.matrix(), dataset.schema, 1 / dataset.control_hz)}
    true = set(dataset.episodes.start[1:].tolist())
    assert found - true == set()
    assert true - found == set()
    if policy != "expert":
        assert dataset.episodes.terminated.sum() > 20 or policy == "jumper"
    feet = dataset.matrix()[:, dataset.schema.group("foot_contact")]
    if policy == "jumper":
        assert (feet.sum(axis=1) == 0).mean() > 0.1, "it does not leave the ground"
