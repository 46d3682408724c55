"""The scripted behaviours step, follow commands a little, stumble and fall; a robot of other leg names works too."""

from __future__ import annotations

import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmrl.behaviour_base import BehaviourContext, Mixture
from rwmrl.behaviours import BEHAVIOURS, make_behaviour, untrained_policy
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig
from rwmrl.policy_file import save_policy
from rwmrl.scripted import COMMAND, ScriptedTrot, SmoothedRandom
from rwmrl.velocity_commands import CommandConfig

ENVS = 16


def setting_of(robot, envs=ENVS, seed=0):
    return BehaviourContext(robot, envs, torch.Generator().manual_seed(seed))


def observe(envs, command=(0.0, 0.0, 0.0)):
    policy = torch.zeros(envs, 48)
    policy[:, COMMAND] = torch.tensor(command)
    return {"policy": policy}


def walk(robot, behaviour, command, steps=150):
    """Return the rows ``(T, E, width)`` and whether each environment fell."""
    fixed = CommandConfig(
        lin_vel_x=(command[0],) * 2, lin_vel_y=(command[1],) * 2, ang_vel_z=(command[2],) * 2, standing_share=0.0
    )  # fmt: skip
    config = MujocoEnvConfig(num_envs=ENVS, pushes=False, randomize=False, threads=0, command=fixed)
    env, rows = MujocoEnv(robot, config), []
    observations, fell = env.get_observations(), torch.zeros(ENVS, dtype=torch.bool)
    for _ in range(steps):
        step = env.step(behaviour.act(observations))
        observations = step.observations
        rows.append(step.transition)
        fell |= step.terminated
    return torch.stack(rows), fell


def test_the_trot_lifts_diagonal_feet_in_turn_and_stays_up(robot, schema):
    rows, fell = walk(robot, ScriptedTrot(setting_of(robot)), (0.4, 0.0, 0.0))
    feet = rows[50:, :, schema.group("foot_contact")].flatten(0, 1)
    assert fell.float().mean() < 0.2
    assert 0.35 < feet.mean() < 0.85
    correlation = torch.corrcoef(feet.T)
    assert correlation[0, 3] > 0.2 and correlation[1, 2] > 0.2
    assert correlation[0, 1] < -0.2 and correlation[0, 2] < -0.2


@pytest.mark.parametrize("axis", [0, 1])
def test_the_trot_follows_the_velocity_command_a_little(robot, schema, axis):
    speed = []
    for sign in (-0.8, 0.8):
        command = [0.0, 0.0, 0.0]
        command[axis] = sign
        rows, _ = walk(robot, ScriptedTrot(setting_of(robot)), command, steps=100)
        speed.append(float(rows[50:, :, axis].mean()))
    assert speed[0] < -0.1 and speed[1] > 0.1


def test_the_trot_reads_leg_places_from_either_naming(robot):
    """LF, LH, RF, RH and FL, RL, FR, RR are the same places."""
    renamed = robot.model_copy(update={"legs": ["FL", "RL", "FR", "RR"]})
    actions = [ScriptedTrot(setting_of(r)).act(observe(ENVS, (0.5, 0.2, 0.3))) for r in (robot, renamed)]
    assert torch.equal(*actions)


def test_a_robot_that_cannot_trot_sways_and_wanders():
    biped = load_robot("g1")
    with pytest.raises(RwmError, match="needs four legs of three joints; g1 has 2 legs, 12 joints"):
        ScriptedTrot(setting_of(biped))
    behaviour = make_behaviour("scripted", setting_of(biped, 64))
    trace = torch.stack([behaviour.act(observe(64)) for _ in range(100)]).std(dim=(0, 2))
    swaying = torch.tensor([name == "sway" for name in behaviour.names()])
    assert 0 < swaying.sum() < 64
    assert trace[swaying].max() < 0.5 < trace[~swaying].max()


def test_standing_command_makes_the_trot_step_on_the_spot(robot):
    trot = ScriptedTrot(setting_of(robot))
    actions = torch.stack([trot.act(observe(ENVS)) for _ in range(50)])
    assert actions[..., :4].abs().max() == 0
    assert actions[..., 8:].abs().max() > 0.5


def test_smoothed_random_has_the_drawn_strength_and_memory(robot):
    behaviour = SmoothedRandom(setting_of(robot, 64), (0.5, 0.5))
    trace = torch.stack([behaviour.act(observe(64)) for _ in range(400)])[100:]
    assert trace.std() == pytest.approx(0.5, rel=0.1)
    one_step = (trace[1:] * trace[:-1]).mean() / trace.square().mean()
    assert 0.6 < one_step < 0.99
    behaviour.reset(torch.tensor([3]))
    assert behaviour.action[3].abs().max() == 0 and behaviour.action[4].abs().max() > 0


def test_the_mixture_deals_by_share_and_acts_for_each_environment_alone(robot):
    context = setting_of(robot, 2000)
    low, high = SmoothedRandom(context, (0.0, 0.0), "still"), SmoothedRandom(context, (1.0, 1.0), "wild")
    mixture = Mixture((low, high), (0.25, 0.75), context)
    names = mixture.names()
    assert names.count("wild") / 2000 == pytest.approx(0.75, abs=0.04)
    moved = mixture.act(observe(2000)).abs().amax(dim=1) > 0
    assert moved.tolist() == [n == "wild" for n in names]
    before = mixture.choice.clone()
    mixture.reset(torch.arange(1000))
    assert torch.equal(mixture.choice[1000:], before[1000:])
    assert not torch.equal(mixture.choice[:1000], before[:1000])


def test_every_registered_behaviour_is_reproducible_from_its_seed(robot):
    for name in BEHAVIOURS:
        runs = []
        for _ in range(2):
            behaviour = make_behaviour(name, setting_of(robot, seed=4))
            behaviour.reset(torch.arange(0, ENVS, 2))
            runs.append(torch.stack([behaviour.act(observe(ENVS, (0.5, 0, 0))) for _ in range(10)]))
        assert torch.equal(*runs) and runs[0].shape == (10, ENVS, 12)


def test_shares_are_drawn_anew_for_every_episode_and_named(robot):
    behaviour = make_behaviour("wander:3,random:1", setting_of(robot, 2000))
    names = behaviour.names()
    assert names.count("wander") / 2000 == pytest.approx(0.75, abs=0.04) and set(names) == {"wander", "random"}
    behaviour.reset(torch.arange(2000))
    assert behaviour.names() != names
    assert behaviour.act(observe(2000)).shape == (2000, 12)


@pytest.mark.parametrize(
    "text", ["wander:0.5,random", "wander:0,random:1", "wander:-1", "wander:x", ":1", "wander:inf"]
)
def test_shares_that_are_not_positive_numbers_are_named(robot, text):
    with pytest.raises(RwmError, match="is not NAME:SHARE with a positive share"):
        make_behaviour(text, setting_of(robot))


def test_random_is_the_policy_ppo_starts_from(robot):
    """Small means, unit noise; the same network every time, other noise for another seed."""
    first, other = (make_behaviour("random", setting_of(robot, 500, seed)).act(observe(500)) for seed in (0, 1))
    assert first.std() == pytest.approx(1.0, abs=0.05) and not torch.equal(first, other)
    assert torch.equal(untrained_policy(robot).mlp[0].weight, untrained_policy(robot).mlp[0].weight)


def test_action_noise_is_added_and_named(robot, tmp_path):
    policy = untrained_policy(robot)
    policy.info = policy.info.model_copy(update={"noise_std": 0.0})
    save_policy(policy, tmp_path / "mine.safetensors")
    path = str(tmp_path / "mine.safetensors")
    quiet, loud = make_behaviour(path, setting_of(robot, 500)), make_behaviour(path, setting_of(robot, 500), 0.3)
    assert set(quiet.names()) == {"mine"} and set(loud.names()) == {"mine+noise0.3"}
    assert (loud.act(observe(500)) - quiet.act(observe(500))).std() == pytest.approx(0.3, rel=0.05)
    still = make_behaviour("random", setting_of(robot, 500), 0.0)
    assert still.act(observe(500)).std() < 0.2 and set(still.names()) == {"random"}
    mixture = make_behaviour("scripted", setting_of(robot, 500), 0.1)
    assert set(mixture.names()) == {"trot+noise0.1", "stumble+noise0.1", "wander+noise0.1"}


def test_unknown_behaviours_and_unfit_robots_are_named(robot):
    with pytest.raises(RwmError, match="Unknown policy 'dance'; policies for anymal_d: scripted, wander, random"):
        make_behaviour("dance", setting_of(robot))
    with pytest.raises(RwmError, match="needs four legs of three joints; anymal_d has 4 legs, 8"):
        ScriptedTrot(setting_of(robot.model_copy(update={"joints": robot.joints[:8]})))
