from __future__ import annotations

import math

import pytest
import torch

from rwmrl.observations import NOISE, add_noise, noise_scale, observation_names, policy_observation
from rwmrl.velocity_commands import CommandConfig, CommandSampler

CPU = torch.device("cpu")


def sampler(count=4000, **options):
    made = CommandSampler(count, CommandConfig(**options), 0.02, torch.Generator().manual_seed(0), CPU)
    made.reset(torch.arange(count))
    return made


def test_commands_fill_their_ranges_and_some_stand():
    made = sampler(lin_vel_x=(-0.5, 1.0))
    standing = (made.command == 0).all(dim=1)
    assert 0.01 < standing.float().mean() < 0.03
    moving = made.command[~standing]
    assert moving[:, 0].min() == pytest.approx(-0.5, abs=0.01) and moving[:, 0].max() == pytest.approx(1.0, abs=0.01)
    assert moving[:, 1:].abs().max() <= 1.0 and abs(float(moving.mean(dim=0)[1])) < 0.05


def test_a_command_is_held_for_its_time_then_drawn_again():
    made = sampler(resample_s=(0.1, 0.2), standing_share=0.0)
    held = torch.zeros(len(made.command), dtype=torch.int64)
    alive = torch.ones_like(held, dtype=torch.bool)
    first = made.command.clone()
    for _ in range(12):
        made.advance()
        alive &= (made.command == first).all(dim=1)
        held += alive
    assert held.min() == 4 and held.max() == 9  # drawn anew at step 5 to 10
    assert torch.bincount(held, minlength=10)[4:10].min() > 400


def test_reset_touches_only_its_environments():
    made = sampler(10)
    before = made.command.clone()
    made.reset(torch.tensor([3]))
    assert [i for i in range(10) if (made.command[i] != before[i]).any()] == [3]


def test_heading_is_steered_to_and_the_rate_is_bounded():
    made = sampler(3, heading=True, standing_share=0.0)
    made.heading[:] = torch.tensor([0.4, math.pi - 0.1, 3.0])
    made.advance(torch.tensor([[0, 0, 0.0], [0, 0, -math.pi + 0.1], [0, 0, 0.0]]))
    # stiffness 0.5 x error; across +-pi the short way round; clipped at 1
    assert made.command[:, 2].tolist() == pytest.approx([0.2, -0.1, 1.0], abs=1e-5)


def follow(made, steps):
    """Return the path ``(T, E, 2)`` of robots that follow their commands exactly."""
    pose, path = torch.zeros(len(made.command), 3), []
    made.reset(torch.arange(len(pose)), pose)
    for _ in range(steps):
        x, y, rate = made.command.unbind(dim=1)
        yaw = pose[:, 2]
        moved = torch.stack((x * yaw.cos() - y * yaw.sin(), x * yaw.sin() + y * yaw.cos(), rate), dim=1)
        pose = pose + 0.02 * moved
        made.advance(pose)
        path.append(pose[:, :2])
    return torch.stack(path)


@pytest.mark.parametrize("heading", [True, False])
def test_within_bounds_nobody_leaves_everybody_moves_and_corners_are_seen(heading):
    made = sampler(900, bounds_m=(4.0, 3.0), resample_s=(1.0, 3.0), heading=heading)
    path = follow(made, 600)
    assert path[..., 0].abs().max() <= 2.0 and path[..., 1].abs().max() <= 1.5
    assert path[..., 0].abs().max() > 1.4 and path[..., 1].abs().max() > 0.9
    assert path.diff(dim=0).norm(dim=-1).mean() > 0.004  # 0.2 m/s
    assert sampler(300, heading=heading, resample_s=(1.0, 3.0)).config.bounds_m is None
    free = follow(sampler(300, heading=heading, resample_s=(1.0, 3.0)), 500)
    assert free.abs().max() > 3


def test_a_robot_at_the_edge_is_driven_straight_to_the_centre_and_then_released():
    made = sampler(1, bounds_m=(4.0, 4.0), standing_share=0.0, resample_s=(0.2, 0.2))
    made.advance(torch.tensor([[1.9, 0.0, math.pi / 2]]))  # facing +y: the centre is to its left
    assert made.homing.all() and made.command[0].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    made.advance(torch.tensor([[0.6, 0.0, math.pi / 2]]))
    assert made.homing.all() and made.command[0].tolist() == pytest.approx([0.0, 0.6, 0.0], abs=1e-6)
    made.steps_left[:] = 50
    made.advance(torch.tensor([[0.1, 0.0, math.pi / 2]]))
    assert not made.homing.any() and made.steps_left.tolist() == [10]


def test_bounds_too_small_to_turn_in_are_refused():
    with pytest.raises(ValueError, match="below the 2 m a robot needs"):
        CommandConfig(bounds_m=(4.0, 0.5))


def test_the_observation_has_its_48_numbers_in_order(schema):
    state = torch.arange(45.0)[None]
    observation = policy_observation(state, torch.tensor([[100.0, 101, 102]]), torch.full((1, 12), -1.0), schema)
    assert observation[0].tolist() == [*range(9), 100, 101, 102, *range(9, 33), *[-1] * 12]


def test_every_entry_of_the_observation_has_its_name(schema):
    """A state whose columns hold their own index is observed at the names of those columns."""
    names = observation_names(schema)
    observation = policy_observation(torch.arange(45.0)[None], torch.zeros(1, 3), torch.zeros(1, 12), schema)[0]
    assert len(names) == len(set(names)) == 48
    for k, name in enumerate(names[:9] + names[12:36]):
        assert schema.names[int(observation[k if k < 9 else k + 3])] == name
    assert names[9:12] == ("command_lin_vel_x", "command_lin_vel_y", "command_ang_vel_z")
    assert names[36] == "last_action_LF_HAA"


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="lin_vel_x begins at 1.0, above its end -1.0; resample_s begins at 2.0"):
        CommandConfig(lin_vel_x=(1.0, -1.0), resample_s=(2.0, 1.0))


def test_noise_is_uniform_within_its_bounds_and_leaves_command_and_action_alone(schema):
    scale = noise_scale(schema, CPU)
    noisy = add_noise(torch.zeros(20_000, 48), scale, torch.Generator().manual_seed(0))
    expected = [NOISE["base_lin_vel"]] * 3 + [NOISE["base_ang_vel"]] * 3 + [NOISE["projected_gravity"]] * 3
    expected += [0.0] * 3 + [NOISE["joint_pos"]] * 12 + [NOISE["joint_vel"]] * 12 + [0.0] * 12
    assert scale.tolist() == pytest.approx(expected)
    assert noisy.abs().amax(dim=0).tolist() == pytest.approx(expected, rel=0.01)
    assert noisy.std(dim=0).tolist() == pytest.approx([e / math.sqrt(3) for e in expected], rel=0.03)
