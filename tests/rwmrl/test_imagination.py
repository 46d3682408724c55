from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.windows import split_starts
from rwmmodel.calibration_factors import Calibration
from rwmmodel.data import RowStore
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.normalizer import Normalizer
from rwmrl.envs.imagination import ImaginationConfig, ImaginationEnv
from rwmrl.observations import policy_observation
from rwmrl.policy_file import MlpPolicy, PolicyInfo
from rwmrl.rewards import RewardModel

HISTORY = 6


def actions(steps, envs=8, seed=1):
    return torch.randn(steps, envs, 12, generator=torch.Generator().manual_seed(seed)) * 0.3


def test_observation_groups_have_their_shapes(make_env):
    env = make_env()
    shapes = {k: tuple(v.shape) for k, v in env.reset().items()}
    assert shapes == {
        "policy": (8, 48), "system_state": (8, 45), "system_action": (8, 12), "system_contact": (8, 8),
        "system_termination": (8, 1),
    }  # fmt: skip


def test_the_penalty_is_exactly_lambda_times_epistemic_times_dt(make_env, watch_model):
    """The same rollout with lambda 0 and 2.5: rewards differ by the epistemic uncertainty the model reports."""
    free, penalised = make_env(lam=0.0, episode_steps=100), make_env(lam=2.5, episode_steps=100)
    calls = watch_model(free)
    for action in actions(10):
        a, b = free.step(action), penalised.step(action)
        torch.testing.assert_close(a.transition, b.transition, rtol=0, atol=0)
        epistemic = calls[-1].prediction.epistemic
        assert (epistemic > 0).all()
        torch.testing.assert_close(a.reward - b.reward, 2.5 * epistemic * 0.02, rtol=1e-4, atol=1e-6)


def test_an_ensemble_of_one_has_no_penalty(make_env):
    free, penalised = make_env(members=1, lam=0.0), make_env(members=1, lam=5.0)
    for action in actions(3):
        torch.testing.assert_close(free.step(action).reward, penalised.step(action).reward, rtol=0, atol=0)


def test_each_environment_follows_its_own_member_or_the_mean(make_env, watch_model, schema):
    for rollout in ("member", "mean"):
        env = make_env(rollout=rollout, push_velocity=0.0)
        calls = watch_model(env)
        reached = env.step(actions(1)[0]).transition[:, schema.state]
        everyone = calls[0].prediction.member_mean
        own = torch.stack([everyone[m, i] for i, m in enumerate(env.member_ids)])
        expected = own if rollout == "member" else everyone.mean(dim=0)
        torch.testing.assert_close(reached, env.model.normalizer.denorm_state(expected))


def test_time_outs_are_truncations_not_deaths(make_env):
    env = make_env(episode_steps=4)
    for k, action in enumerate(actions(4)):
        step = env.step(action)
        assert step.truncated.all() == (k == 3)
    assert not step.terminated.any() and (env.episode_length_buf == 0).all()
    assert float(step.log["imagined/ended_by_time"]) == 1.0 and float(step.log["imagined/ended_by_prediction"]) == 0.0


def test_predicted_falls_end_episodes(make_env):
    env = make_env()
    env.model.auxiliary_head.termination.bias_1.fill_(20.0)
    step = env.step(actions(1)[0])
    assert step.terminated.all() and not step.truncated.any()
    assert (step.transition[:, -1] == 1).all()
    assert (env.current_rows()[:, -1] == 0).all()
    assert float(step.log["imagined/ended_by_prediction"]) == 1.0 and float(step.log["imagined/ended_by_time"]) == 0.0


def test_a_fall_at_the_time_limit_is_a_fall(make_env):
    env = make_env(episode_steps=1)
    env.model.auxiliary_head.termination.bias_1.fill_(20.0)
    step = env.step(actions(1)[0])
    assert step.terminated.all() and not step.truncated.any()


def test_members_are_redrawn_at_reset(make_env):
    env = make_env(num_envs=300)
    before = env.member_ids.clone()
    env.reset()
    assert set(env.member_ids.tolist()) == {0, 1, 2} and 0.5 < (env.member_ids != before).float().mean() < 0.8


def test_pushes_change_the_velocity_that_is_recorded_and_that_the_model_goes_on_from(make_env, watch_model, schema):
    env = make_env(push_interval_steps=(1, 1))
    calls = watch_model(env)
    first, second = actions(2)
    predicted = env.step(first).transition[:, schema.state]
    kick = env.current_rows()[:, :2] - predicted[:, :2]
    assert (kick.abs() <= 0.5).all() and kick.abs().max() > 0.1
    env.step(second)
    change = calls[1].state - env.model.normalizer.state(predicted)
    torch.testing.assert_close(change[:, :2], kick / 0.5)  # reference std of base velocity: 0.5 m/s
    torch.testing.assert_close(change[:, 2:], torch.zeros(8, 43), rtol=0, atol=1e-5)


def test_the_policy_sees_the_pushed_state_that_the_model_goes_on_from(make_env, watch_model):
    env = make_env(push_interval_steps=(1, 1), noise=False)
    calls = watch_model(env)
    first, second = actions(2)
    step = env.step(first)
    seen = step.observations["policy"][:, :2]
    env.step(second)
    torch.testing.assert_close(seen, env.model.normalizer.denorm_state(calls[1].state)[:, :2])
    assert ((seen - step.transition[:, :2]).abs() > 1e-3).any(dim=1).all()


def test_pushes_come_after_48_to_96_steps(make_env):
    env = make_env(num_envs=64, noise=False, episode_steps=500)
    pushed = torch.zeros(64, dtype=torch.int64)
    for k in range(1, 97):
        step = env.step(torch.zeros(64, 12))
        kicked = (env.current_rows()[:, :2] - step.transition[:, :2]).abs().amax(dim=1) > 1e-6
        pushed[kicked & (pushed == 0)] = k
    assert pushed.min() >= 48 and pushed.max() > 80 and (pushed > 0).all()


def test_a_step_is_rewarded_for_the_command_the_policy_saw(make_env, robot, schema):
    """Commands change every step here; the reward is that of the command before the change."""
    env = make_env(lam=0.0, command={"resample_s": (0.02, 0.02), "standing_share": 0.0})
    separate = RewardModel(robot, schema, 8, torch.device("cpu"))
    rows = env.current_rows()
    separate.reset(torch.arange(8), rows[:, schema.state], rows[:, schema.action])
    separate.air_time.air_time.copy_(env.rewards.air_time.air_time)
    for action in actions(3):
        command = env.command.clone()
        step = env.step(action)
        row = step.transition
        torch.testing.assert_close(
            step.reward, separate.compute(row[:, schema.state], row[:, schema.contact], action, command)[0]
        )
        assert (env.command != command).all()


def test_feet_that_are_in_the_air_when_an_episode_begins_keep_their_time_in_the_air(make_env, schema):
    """Recorded contacts end 2, 0 and 5 steps ago, and one foot has not touched the ground at all."""
    env = make_env(num_envs=1)
    start = env.starts.draw(1)
    contact = torch.ones_like(start.contact)
    for foot, steps in enumerate((2, 0, 5, contact.shape[1])):
        contact[:, contact.shape[1] - steps :, 4 + foot] = 0.0
    contact[:, :2, 4] = 0.0  # A former step does not count.
    env._begin(torch.tensor([0]), replace(start, contact=contact))
    seconds = [0.04, 0.0, 0.10, 0.02 * contact.shape[1]]
    assert env.rewards.air_time.air_time[0].tolist() == pytest.approx(seconds)
    assert env.current_rows()[0, schema.contact].tolist() == [1.0] * 4 + [0.0, 1.0, 0.0, 0.0]


def test_actions_far_from_the_anchors_cost_their_squared_distance(make_env, robot, schema):
    """The anchor sees the state without noise, and the command that the policy saw."""
    anchor = MlpPolicy(PolicyInfo.of(robot, (8,))).requires_grad_(False)
    often = {"resample_s": (0.02, 0.02), "standing_share": 0.0}
    env = make_env(lam=0.0, anchor=0.3, policy=anchor, noise=True, command=often)
    for action in actions(3):
        rows, command = env.current_rows(), env.command.clone()
        seen = policy_observation(rows[:, schema.state], command, rows[:, schema.action], schema)
        away = (action - anchor(seen)).square().sum(dim=1)
        step = env.step(action)
        assert float(step.log["imagined/from_anchor"]) == pytest.approx(float(away.mean()))
        cost = float(step.log["imagined/reward"] - step.log["imagined/penalised_reward"])
        assert cost == pytest.approx(float(0.3 * 0.02 * away.mean()), rel=1e-4)
    rows = env.current_rows()
    near = anchor(policy_observation(rows[:, schema.state], env.command, rows[:, schema.action], schema))
    assert float(env.step(near).log["imagined/from_anchor"]) < 1e-9
    with pytest.raises(RwmError, match="no policy for the anchor"):
        make_env(anchor=0.3)


def test_a_command_outlives_its_first_step_by_exactly_its_time(make_env):
    env = make_env(command={"resample_s": (0.08, 0.08), "standing_share": 0.0}, episode_steps=4)
    for _ in range(2):  # the second round begins with a reset
        first, changed = env.command.clone(), []
        for action in actions(4):
            env.step(action)
            changed.append(bool((env.command != first).all()))
        assert changed == [False, False, False, True]


def test_logged_episode_sums_are_those_of_the_ended_episodes(make_env):
    env = make_env(lam=0.0, episode_steps=3)
    total = torch.zeros(8)
    for action in actions(3):
        step = env.step(action)
        total += step.reward
    sums = [v for k, v in step.log.items() if k.startswith("episode_sum/")]
    torch.testing.assert_close(torch.stack(sums).sum(dim=0), total)
    assert not any(k.startswith("episode_sum/") for k in env.step(actions(1)[0]).log)


def test_rewards_are_the_simulators_own(make_env, robot, schema):
    """The same sequence of states through a separate reward model gives the same numbers."""
    env = make_env(lam=0.0, episode_steps=100)
    separate = RewardModel(robot, schema, 8, torch.device("cpu"))
    rows = env.current_rows()
    separate.reset(torch.arange(8), rows[:, schema.state], rows[:, schema.action])
    separate.air_time.air_time.copy_(env.rewards.air_time.air_time)
    for action in actions(5):
        step = env.step(action)
        expected, _ = separate.compute(
            step.transition[:, schema.state], step.transition[:, schema.contact], action, env.command.clone()
        )
        torch.testing.assert_close(step.reward, expected)


@pytest.mark.parametrize(("part", "value"), [("state", torch.nan), ("state", 2e4), ("contact", torch.nan)])
def test_unsound_predictions_are_reset_and_counted(make_env, part, value):
    env = make_env(lam=1.0, push_velocity=0.0)
    before = env.current_rows()[3, :45]
    predict = env.model.step

    def spoil(*arguments, **options):
        prediction, carry = predict(*arguments, **options)
        spoilt = getattr(prediction, part).clone()
        spoilt[3, 0] = value
        return replace(prediction, **{part: spoilt}), carry

    env.model.step = spoil
    step = env.step(actions(1)[0])
    env.model.step = predict
    assert float(step.log["imagined/unsound_count"]) == 1.0 and float(step.log["imagined/ended_by_time"]) == 0.0
    assert step.truncated.tolist() == [i == 3 for i in range(8)] and step.reward[3] == 0
    assert not step.terminated.any() and env.episode_length_buf[3] == 0
    torch.testing.assert_close(step.transition[3, :45], before)
    assert torch.isfinite(env.step(actions(1)[0]).reward).all()
    assert all(torch.isfinite(o).all() for o in env.get_observations().values())


def test_the_same_seed_dreams_the_same(make_env):
    first, second, other = make_env(seed=3), make_env(seed=3), make_env(seed=4)
    for action in actions(5):
        a, b, c = (e.step(action).observations["policy"] for e in (first, second, other))
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert (a != c).any()


def test_a_history_longer_than_every_episode_is_refused(dataset, make_model, robot):
    model = make_model()
    model.config = model.config.model_copy(update={"history": 50})
    with pytest.raises(RwmError, match="has the 50 rows a start needs"):
        ImaginationEnv(model, dataset, robot)


def test_noise_does_not_change_what_is_dreamt(make_env):
    clean, noisy = make_env(noise=False), make_env(noise=True)
    for action in actions(5):
        noisy.get_observations()
        a, b = clean.step(action), noisy.step(action)
        torch.testing.assert_close(a.transition, b.transition, rtol=0, atol=0)
        assert (a.observations["policy"] != b.observations["policy"]).any()


def test_a_model_of_other_columns_is_refused_with_every_fault(dataset, robot):
    config = EnsembleConfig(hidden=4, head_hidden=4, history=HISTORY, state_dim=33, action_dim=8, contact_dim=8)
    with pytest.raises(RwmError, match="45 state columns, the model 33; the dataset has 12 action columns"):
        ImaginationEnv(DynamicsEnsemble(config, Normalizer(33, 8)), dataset, robot)


def test_a_broken_model_is_refused(dataset, make_model, robot):
    model = make_model()
    with torch.no_grad():
        model.state_head.mean.bias_1[1, 0, 3] = torch.nan
    with pytest.raises(RwmError, match="parameters that are not finite"):
        ImaginationEnv(model, dataset, robot)


def test_headings_and_empty_push_intervals_are_refused():
    with pytest.raises(ValueError, match="no heading to steer to"):
        ImaginationConfig(command={"heading": True})
    with pytest.raises(ValueError, match="not a range"):
        ImaginationConfig(push_interval_steps=(5, 4))


@pytest.fixture
def penalties(watch_model):
    """Make a list of what one environment takes from the rewards of another, with the model's predictions."""

    def compare(env, plain):
        calls = watch_model(plain)
        rewards = [(plain.step(action).reward, env.step(action).reward) for action in actions(6)]
        return [(free - less, call.prediction) for (free, less), call in zip(rewards, calls, strict=True)]

    return compare


def test_the_largest_member_penalty_by_hand(make_env, penalties):
    for taken, prediction in penalties(make_env(lam=2.0, penalty="largest"), make_env(lam=0.0)):
        means = prediction.member_mean
        distance = torch.stack([(m - means.mean(dim=0)).abs().sum(dim=1) for m in means])
        torch.testing.assert_close(taken, 2.0 * distance.max(dim=0).values * 0.02, rtol=1e-4, atol=1e-6)


def test_the_calibrated_penalty_counts_predictions_since_the_history(make_env, penalties):
    with pytest.raises(RwmError, match="never calibrated"):
        make_env(penalty="calibrated")
    calibration = Calibration(
        dataset="d", split="val", windows=1, seed=0, epistemic=(2.0, 3.0, 5.0), total=(1.0, 1.0, 1.0)
    )
    env = make_env(lam=1.5, penalty="calibrated", calibration=calibration, episode_steps=100)
    plain = make_env(lam=0.0, episode_steps=100)
    factors = (2.0, 3.0, 5.0, 5.0, 5.0, 5.0)
    for _ in range(2):
        env.episode_length_buf += 50  # As a trainer does that wants episodes of all ages.
        for factor, (taken, prediction) in zip(factors, penalties(env, plain), strict=True):
            torch.testing.assert_close(taken, 1.5 * factor * prediction.epistemic * 0.02, rtol=1e-4, atol=1e-6)
        env.reset()
        plain.reset()


def test_lambda_is_ramped_in(make_env, penalties):
    env = make_env(lam=2.0, lam_ramp_steps=4)
    shares = (0, 0.25, 0.5, 0.75, 1, 1)
    for share, (taken, prediction) in zip(shares, penalties(env, make_env(lam=0.0)), strict=True):
        torch.testing.assert_close(taken, 2.0 * share * prediction.epistemic * 0.02, rtol=1e-4, atol=1e-6)
    env.steps_done = 2
    assert env.lam == 1.0


def test_a_predicted_fall_costs_its_penalty_once(make_env):
    free, strict = make_env(lam=0.0), make_env(lam=0.0, fall_penalty=2.0)
    for env in (free, strict):
        env.model.auxiliary_head.termination.bias_1.fill_(50.0)
    action = actions(1)[0]
    a, b = free.step(action), strict.step(action)
    assert a.terminated.all() and b.terminated.all()
    torch.testing.assert_close(a.reward - b.reward, torch.full((8,), 2.0))


def test_episodes_halt_above_the_conformal_threshold(make_env, dataset):
    env = make_env(halt_quantile=0.9, lam=0.0, push_velocity=0.0)
    history = env.model.config.history
    starts = split_starts(dataset, "val", history + 1)
    windows = RowStore(dataset, env.model.normalizer, env.device).windows(starts, history + 1)
    epistemic = env.model(windows.states[:, :-1], windows.actions[:, 1:]).epistemic
    share = (epistemic <= env.halt_above).float().mean().item()
    assert 0.9 <= share <= 0.9 + 2 / len(starts)
    env.halt_above = -1.0
    step = env.step(actions(1)[0])
    assert step.terminated.all() and float(step.log["imagined/halted"]) == 1.0
    assert make_env().halt_above == torch.inf


def test_forgetful_resets_see_their_newest_row_alone(make_env, watch_model, schema):
    env = make_env(forgetful_resets=True, rollout="mean", push_velocity=0.0)
    env.reset()
    calls, action = watch_model(env), actions(1)[0]
    reached = env.step(action).transition[:, schema.state]
    state = calls[0].state
    inputs = torch.cat((state, env.model.normalizer.action(action)), dim=-1).unsqueeze(1)
    features = env.model.state_base.encode(inputs, last=1)[0][:, 0]
    expected = env.model.state_head.predict(features, state).mean(dim=0)
    torch.testing.assert_close(reached, env.model.normalizer.denorm_state(expected))
