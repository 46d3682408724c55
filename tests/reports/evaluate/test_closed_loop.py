"""A policy in the model against a slow twin that reads all anew at each step, and rewards against the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from reports.evaluate import closed_loop
from reports.evaluate.closed_loop import (
    ClosedLoopConfig,
    Misled,
    Walks,
    evaluate_closed_loop,
    horizons,
    imagine,
    mean_reward,
    one_step_errors,
    simulate,
)
from rwmdata.errors import RwmError
from rwmrl.backends import make_env
from rwmrl.behaviour_base import Behaviour
from rwmrl.envs.base import EnvOptions
from rwmrl.observations import policy_observation

HISTORY = 4
"""Of the fixture ``model``."""


class Reaching(Behaviour):
    """Acts on all it sees: a fixed linear map of the observation."""

    def __init__(self, gain=0.02):
        self.map = gain * torch.randn(48, 12, generator=torch.Generator().manual_seed(3))

    def act(self, observations):
        return observations["policy"] @ self.map


def random_walks(seed):
    rng = np.random.default_rng(seed)
    rows, command = rng.normal(size=(3, HISTORY + 5, 66)), rng.normal(size=(3, HISTORY + 5, 3))
    return Walks(rows.astype(np.float32), command.astype(np.float32), np.arange(3))


def test_imagination_agrees_with_reading_everything_anew(model, schema):
    behaviour, normalizer, walks = Reaching(), model.normalizer, random_walks(1)
    states, contact, actions = imagine(model, behaviour, walks, schema)
    assert states.shape == (3, 5, 45) and contact.shape == (3, 5, 8) and actions.shape == (3, 5, 12)
    rows = torch.from_numpy(walks.rows)
    seen, done = [rows[:, k, schema.state] for k in range(HISTORY)], [rows[:, k, schema.action] for k in range(HISTORY)]
    with torch.no_grad():
        for k in range(5):
            command = torch.from_numpy(walks.command[:, HISTORY + k])
            done.append(behaviour.act({"policy": policy_observation(seen[-1], command, done[-1], schema)}))
            prediction = model(
                torch.stack([normalizer.state(s) for s in seen], dim=1),
                torch.stack([normalizer.action(a) for a in done[1:]], dim=1),
            )
            seen.append(normalizer.denorm_state(prediction.state))
            np.testing.assert_allclose(states[:, k], prediction.state, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(actions[:, k], done[-1], rtol=1e-4, atol=1e-4)
            assert (contact[:, k] == (prediction.contact > 0).float().numpy()).all()


def test_rewards_of_a_walk_are_the_simulators_own(robot, schema):
    """The robots stand still, so no foot's time in the air is known to one side alone."""
    config = ClosedLoopConfig(policy="still", robots=3, settle=60, seed=2)
    behaviour = Reaching(gain=0.0)
    walks = simulate(config, robot, behaviour, rows=15)
    assert walks.rows.shape == (3, 15, 66) and walks.command.shape == (3, 15, 3)
    env = make_env(
        "auto",
        robot,
        EnvOptions(num_envs=3, seed=2, episode_length_s=76 * 0.02, pushes=False, noise=False, randomize=False),
    )
    env.reset()
    steps = [env.step(torch.zeros(3, 12)) for _ in range(75)]
    np.testing.assert_array_equal(walks.rows, torch.stack([s.transition for s in steps[60:]], dim=1))
    found = mean_reward(robot, schema, walks, HISTORY)
    np.testing.assert_allclose(found, torch.stack([s.reward for s in steps[64:]], dim=1), rtol=1e-4, atol=1e-6)


def test_one_step_errors_agree_with_reading_everything_anew(model, schema):
    walks, normalizer = random_walks(4), model.normalizer
    found = one_step_errors(model, walks, schema)
    assert found.shape == (3, 5, 45)
    rows = torch.from_numpy(walks.rows)
    states, actions = normalizer.state(rows[..., schema.state]), normalizer.action(rows[..., schema.action])
    for k in range(5):
        with torch.no_grad():
            prediction = model(states[:, : HISTORY + k], actions[:, 1 : HISTORY + k + 1])
        wanted = normalizer.denorm_state(prediction.state) - rows[:, HISTORY + k, schema.state]
        torch.testing.assert_close(found[:, k], wanted, rtol=1e-4, atol=1e-4)


def test_a_policy_is_misled_from_the_step_on_at_which_it_sees_an_error(robot, schema):
    config, behaviour = ClosedLoopConfig(policy="still", robots=3, settle=20, seed=2), Reaching()
    walks = simulate(config, robot, behaviour, rows=12)
    assert walks.robot.tolist() == [0, 1, 2]
    misled = Misled(torch.zeros(3, 8, 45), torch.from_numpy(walks.command[:, 4:]))
    again = simulate(config, robot, behaviour, rows=12, misled=misled)
    np.testing.assert_array_equal(again.rows, walks.rows)
    misled.errors[:, 5] = torch.randn(3, 45)
    again = simulate(config, robot, behaviour, rows=12, misled=misled)
    np.testing.assert_array_equal(again.rows[:, :9], walks.rows[:, :9])
    difference = policy_observation(misled.errors[:, 5], torch.zeros(3, 3), torch.zeros(3, 12), schema) @ behaviour.map
    acted = (again.rows - walks.rows)[:, 9, schema.action]
    np.testing.assert_allclose(acted, difference, rtol=1e-4, atol=1e-5)
    assert (again.rows - walks.rows)[:, 10, schema.state].any()


def test_a_policy_is_misled_by_the_error_of_the_step_before(model, robot, schema, monkeypatch):
    """Robots 0, 1 and 3 of four walked; the second time 1 and 2 do."""
    walks, told = replace(random_walks(5), robot=np.array([0, 1, 3])), []
    again = Walks(random_walks(6).rows[:2], random_walks(6).command[:2], np.array([1, 2]))
    monkeypatch.setattr(closed_loop, "simulate", lambda *rest: told.append(rest[-1]) or again)
    monkeypatch.setattr(closed_loop, "make_behaviour", lambda *rest: None)
    found = closed_loop.mislead(ClosedLoopConfig(policy="any", robots=4), robot, model, walks)
    errors, (misled,) = one_step_errors(model, walks, schema), told
    assert misled.errors.shape == (4, 5, 45) and misled.command.shape == (4, 5, 3)
    assert not misled.errors[2].any() and not misled.errors[:, 0].any()
    assert torch.equal(misled.errors[[0, 1, 3], 1:], errors[:, :-1])
    assert torch.equal(misled.command[[0, 1, 3]], torch.from_numpy(walks.command[:, HISTORY:]))
    assert np.isnan(found[[0, 2]]).all()
    states = torch.from_numpy(again.rows[0, HISTORY:, schema.state])
    np.testing.assert_array_equal(found[1], model.normalizer.state(states))


def test_horizons_are_times():
    assert horizons(200, 0.02) == [1, 10, 25, 50, 100, 200]
    assert horizons(60, 0.02) == [1, 10, 25, 50]


def test_an_evaluation_writes_numbers_and_figure(home, model_run, robot, constant):
    config = ClosedLoopConfig(policy=constant(robot, 0.0), robots=4, settle=2, steps=12)
    run = evaluate_closed_loop(home, model_run.checkpoint, config)
    assert run.meta.status == "finished" and run.meta.summary["robots"] == 4
    values = {(s["metric"], s["mode"], s["horizon"]): s for s in run.meta.summary["scalars"]}
    assert {h for _, _, h in values} == {1, 10}
    table = pl.read_parquet(run.path / "closed_loop.parquet")
    first = table.filter((pl.col("mode") == "hold_last") & (pl.col("step") == 1))["rel_l1"].item()
    assert values["rel_l1", "hold_last", 1]["value"] == pytest.approx(first, rel=1e-5)
    # A zero policy's actions are the recorded ones, so both ways through the model are one.
    both = [values["rel_l1", mode, 10]["value"] for mode in ("imagined", "recorded_actions")]
    assert both[0] == pytest.approx(both[1], rel=1e-4)
    # And nothing it sees can mislead it.
    assert values["rel_l1", "misled", 10]["value"] == 0.0 and run.meta.summary["misled_fell"] == 0
    assert (run.path / "closed_loop.png").stat().st_size > 10_000


def test_robots_that_all_fall_leave_nothing_to_compare(home, model_run, robot, constant):
    config = ClosedLoopConfig(policy=constant(robot, 4.0), robots=2, settle=60, steps=2)
    with pytest.raises(RwmError, match="did not fall"):
        evaluate_closed_loop(home, model_run.checkpoint, config)
    assert [r.meta.status for r in home.runs("eval")] == ["failed"]
