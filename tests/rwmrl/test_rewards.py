"""Every reward term against a number worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmrl.rewards import TERMS, FeetAirTime, RewardModel

DT = 0.02
CPU = torch.device("cpu")
ALL = torch.arange(1)


@pytest.fixture
def model(robot, schema):
    """One environment, every term with weight 1, started at rest."""
    model = RewardModel(robot, schema, 1, CPU, dict.fromkeys(TERMS, 1.0))
    model.reset(ALL, torch.zeros(1, 45))
    return model


def evaluate(model, schema, command=(0.0, 0.0, 0.0), contact=None, action=None, **groups):
    """Return each term's value (weight and dt taken out) for a state given by groups."""
    state = torch.zeros(1, 45)
    state[:, 8] = -1
    for name, values in groups.items():
        state[:, schema.group(name)] = torch.as_tensor(values, dtype=torch.float32)
    contact = torch.ones(1, 8) * torch.tensor([0.0] * 4 + [1.0] * 4) if contact is None else torch.tensor([contact])
    action = torch.zeros(1, 12) if action is None else torch.tensor([action])
    _, terms = model.compute(state, contact, action, torch.tensor([command]))
    return {name: float(value) / DT for name, value in terms.items()}


def test_tracking_terms(model, schema):
    values = evaluate(
        model, schema, command=(1.0, 0.0, 0.5), base_lin_vel=(0.7, 0.4, 0.0), base_ang_vel=(0.0, 0.0, -0.25)
    )
    assert values["track_lin_vel_xy_exp"] == pytest.approx(math.exp(-(0.3**2 + 0.4**2) / 0.25), rel=1e-5)
    assert values["track_ang_vel_z_exp"] == pytest.approx(math.exp(-(0.75**2) / 0.25), rel=1e-5)


def test_motion_terms(model, schema):
    values = evaluate(
        model, schema, base_lin_vel=(0, 0, -0.5), base_ang_vel=(0.3, 0.4, 9.0), projected_gravity=(0.6, 0.0, -0.8),
        joint_torque=[2.0] * 12,
    )  # fmt: skip
    assert values["lin_vel_z_l2"] == pytest.approx(0.25)
    assert values["ang_vel_xy_l2"] == pytest.approx(0.25)
    assert values["flat_orientation_l2"] == pytest.approx(0.36)
    assert values["dof_torques_l2"] == pytest.approx(48.0)


@pytest.mark.parametrize(
    ("feet", "command", "expected"),
    [
        ("LF RH", (0.5, 0.0, 0.0), 1.0),
        ("RF LH", (0.0, -0.5, 0.0), 1.0),
        ("LF RF", (0.5, 0.0, 0.0), -1.0),
        ("LF LH", (0.5, 0.0, 0.0), 0.0),
        ("LF RF LH RH", (0.5, 0.0, 0.0), 0.0),
        ("LF RH", (0.0, 0.0, 1.0), 0.0),
    ],
)
def test_gait_tells_a_trot_from_a_bound(model, schema, robot, feet, command, expected):
    contact = [0.0] * 4 + [float(leg in feet.split()) for leg in robot.legs]
    assert evaluate(model, schema, command=command, contact=contact)["gait"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("feet", "command", "expected"),
    [
        ((1.0, 0.0), (0.5, 0.0, 0.0), 1.0),
        ((0.0, 1.0), (0.5, 0.0, 0.0), 1.0),
        ((1.0, 1.0), (0.5, 0.0, 0.0), 0.0),
        ((0.0, 0.0), (0.5, 0.0, 0.0), 0.0),
        ((1.0, 0.0), (0.0, 0.0, 1.0), 0.0),
    ],
)
def test_gait_of_two_feet_is_one_that_carries(feet, command, expected):
    biped = load_robot("g1")
    model = RewardModel(biped, Schema.from_robot(biped), 1, CPU, {"gait": 1.0})
    contact = torch.tensor([[0.0, 0.0, *feet]])
    _, terms = model.compute(torch.zeros(1, 45), contact, torch.zeros(1, 12), torch.tensor([command]))
    assert float(terms["gait"]) / DT == pytest.approx(expected)


def test_joint_acceleration_is_the_finite_difference(model, schema):
    evaluate(model, schema, joint_vel=[0.5] + [0.0] * 11)
    values = evaluate(model, schema, joint_vel=[0.1] + [0.0] * 11)
    assert values["dof_acc_l2"] == pytest.approx((0.4 / DT) ** 2, rel=1e-4)


def test_action_rate_compares_with_the_previous_action_and_starts_at_zero(model, schema):
    assert evaluate(model, schema, action=[0.5] * 12)["action_rate_l2"] == pytest.approx(3.0)
    assert evaluate(model, schema, action=[0.5] * 12)["action_rate_l2"] == pytest.approx(0.0)
    model.reset(ALL, torch.zeros(1, 45), torch.full((1, 12), 1.0))
    assert evaluate(model, schema, action=[0.5] * 12)["action_rate_l2"] == pytest.approx(3.0)


def test_undesired_contacts_counts_thighs_only(model, schema):
    assert evaluate(model, schema, contact=[1.0, 0, 1, 0, 1, 1, 1, 1])["undesired_contacts"] == pytest.approx(2.0)


@pytest.mark.parametrize(("command", "expected"), [((0.0, 0.0, 0.04), 2.4), ((0.0, 0.0, 0.06), 0.0)])
def test_stand_still_only_without_a_command(model, schema, command, expected):
    values = evaluate(model, schema, command=command, joint_pos=[0.2, -0.2] * 6)
    assert values["stand_still"] == pytest.approx(expected)


def test_joint_limits_count_from_the_soft_limit(model, schema, robot):
    low, high = robot.joint_pos_limits[0]
    soft = (low + high) / 2 + 0.9 * (high - low) / 2
    pose = [soft + 0.1 - robot.default_joint_pos[0]] + [0.0] * 11
    assert evaluate(model, schema, joint_pos=pose)["dof_pos_limits"] == pytest.approx(0.1, abs=1e-5)


def test_air_time_pays_at_landing_what_exceeds_half_a_second(model, schema):
    """Foot LF leaves for 30 steps; at the landing 31 * 0.02 s have passed."""
    grounded, lifted = [0.0] * 4 + [1.0] * 4, [0.0] * 4 + [0.0, 1.0, 1.0, 1.0]
    walk = (0.5, 0.0, 0.0)
    evaluate(model, schema, command=walk, contact=grounded)
    for _ in range(30):
        assert evaluate(model, schema, command=walk, contact=lifted)["feet_air_time"] == 0.0
    assert evaluate(model, schema, command=walk, contact=grounded)["feet_air_time"] == pytest.approx(
        0.62 - 0.5, abs=1e-5
    )
    assert evaluate(model, schema, command=walk, contact=grounded)["feet_air_time"] == 0.0


def test_air_time_does_not_pay_when_standing_is_commanded(model, schema):
    grounded, lifted = [0.0] * 4 + [1.0] * 4, [0.0] * 8
    for contact in (grounded, *[lifted] * 40):
        evaluate(model, schema, contact=contact)
    assert evaluate(model, schema, contact=grounded, command=(0.09, 0.0, 1.0))["feet_air_time"] == 0.0


def test_a_flight_before_the_reset_does_not_pay_after_it(model, schema):
    grounded, lifted, walk = [0.0] * 4 + [1.0] * 4, [0.0] * 8, (0.5, 0.0, 0.0)
    for _ in range(40):
        evaluate(model, schema, command=walk, contact=lifted)
    model.reset(ALL, torch.zeros(1, 45))
    assert evaluate(model, schema, command=walk, contact=grounded)["feet_air_time"] == 0.0


def test_air_time_bookkeeping_is_per_foot_and_forgotten_at_reset():
    feet = FeetAirTime(2, 2, DT, CPU)
    up, down = torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    for _ in range(5):
        feet.update(up)
    feet.reset(torch.tensor([1]))
    first, air_time = feet.update(down)
    assert first.tolist() == [[True, True], [False, False]]
    assert air_time[0].tolist() == pytest.approx([0.12, 0.12])


def test_total_is_dt_times_the_weighted_sum_with_the_robots_weights(robot, schema):
    model = RewardModel(robot, schema, 3, CPU)
    state, action = torch.randn(3, 45), torch.randn(3, 12)
    contact, command = (torch.rand(3, 8) > 0.5).float(), torch.rand(3, 3)
    unit = RewardModel(robot, schema, 3, CPU, dict.fromkeys(TERMS, 1.0))
    total, _ = model.compute(state, contact, action, command)
    _, plain = unit.compute(state, contact, action, command)
    expected = sum(plain[k] * robot.reward_weights.get(k, 0.0) for k in TERMS)
    torch.testing.assert_close(total, expected)
    assert robot.reward_weights["track_lin_vel_xy_exp"] == 1.0 and robot.reward_weights["feet_air_time"] == 0.5


def test_episode_sums_add_up_and_start_anew_at_reset(robot, schema):
    model = RewardModel(robot, schema, 2, CPU)
    contact, command = torch.zeros(2, 8), torch.ones(2, 3)
    rewards = [model.compute(torch.randn(2, 45), contact, torch.randn(2, 12), command)[0] for _ in range(3)]
    torch.testing.assert_close(torch.stack(list(model.episode_sums.values())).sum(dim=0), sum(rewards))
    model.reset(torch.tensor([0]), torch.zeros(1, 45))
    assert all(v[0] == 0 for v in model.episode_sums.values())
    assert any(v[1] != 0 for v in model.episode_sums.values())


def test_without_any_weight_the_reward_is_zero(robot, schema):
    model = RewardModel(robot, schema, 2, CPU, dict.fromkeys(TERMS, 0.0))
    reward, terms = model.compute(torch.ones(2, 45), torch.ones(2, 8), torch.ones(2, 12), torch.ones(2, 3))
    assert reward.tolist() == [0.0, 0.0] and terms == {}


def test_an_unknown_term_lists_the_known_ones(robot, schema):
    with pytest.raises(RwmError, match="Unknown reward term jump_height; terms: track_lin_vel_xy_exp"):
        RewardModel(robot, schema, 1, CPU, {"jump_height": 1.0})
