"""The simulator against itself: the same when it knows everything, further off the less it knows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reports.bench import predictability
from reports.bench.predictability import (
    OFFSET_GROUPS,
    BenchPredictabilityConfig,
    PushedAgain,
    again,
    bench_predictability,
    moved,
    record_of,
    robot_of,
    settings_of,
)
from rwmdata.errors import RwmError
from rwmdata.shipped import ASSETS
from rwmmodel.checkpoint import load_model
from rwmrl.envs import mujoco
from rwmrl.envs.mujoco import MujocoEnv

SHIPPED = ASSETS / "models" / "anymal_d" / "shipped.safetensors"
CONFIG = BenchPredictabilityConfig(num_envs=6, warm=3, steps=9, offsets=(0.001, 0.1))


@pytest.fixture(scope="module")
def model():
    return load_model(SHIPPED)


@pytest.fixture
def recorded(robot, model, monkeypatch):
    """A record of robots that are pushed every other step, and the environment to go through it again."""
    monkeypatch.setattr(mujoco, "PUSH_INTERVAL_S", (0.03, 0.09))
    settings = settings_of(robot, model, CONFIG)
    first, env = MujocoEnv(robot, settings), PushedAgain(robot, settings)
    yield env, record_of(first, model, CONFIG)
    first.close(), env.close()


def test_a_simulator_that_knows_everything_repeats_the_record(recorded, model):
    env, record = recorded
    assert record.rows.shape == (6, model.config.history + 9, 66) and record.actions.shape == (6, 9, 12)
    assert record.kicks.shape == (6, 9, 2) and record.kicks.any(axis=(1, 2)).all() and not record.kicks.all()
    repeated = again(env, record.start, record.actions, record.kicks)
    assert torch.equal(repeated, record.rows[:, model.config.history :])
    without = again(env, record.start, record.actions, np.zeros_like(record.kicks))
    assert not torch.equal(without, repeated)
    assert torch.equal(record.rows[:, model.config.history :, env.schema.action], record.actions)


def test_a_start_is_off_by_so_many_standard_deviations(recorded):
    env, record = recorded
    state, layout = record.start["physics"]["state"], env.physics.layout
    by = moved(env, record, 0.1, seed=0)["physics"]["state"] - state
    places = (layout.joint_pos, layout.joint_vel, layout.lin_vel_w, layout.ang_vel_b)
    for group, place in zip(OFFSET_GROUPS, places, strict=True):
        std = record.rows[..., env.schema.group(group)].flatten(0, 1).double().std(dim=0)
        assert 0.05 < (by[:, place] / std).std() < 0.2
    assert not by[:, layout.position].any() and torch.equal(record.start["physics"]["state"], state)


def test_the_less_the_simulator_knows_the_further_off_it_is(tmp_path):
    found = bench_predictability(SHIPPED, CONFIG, tmp_path / "curves.png")
    rows = {row["name"]: row for row in found["rows"]}
    assert found["trajectories"] == 6 and (tmp_path / "curves.png").stat().st_size > 10_000
    assert set(rows) == {
        f"{name}: {h}"
        for name in (
            "model",
            "simulator, start off by 0.001 std",
            "simulator, start off by 0.1 std",
            "simulator, without the pushes",
            "simulator, with the nominal trunk",
        )
        for h in ("h = 1", "h = 8", "falls within 9 steps")
    }
    little, much = (rows[f"simulator, start off by {by} std: h = 8"]["value"] for by in ("0.001", "0.1"))
    assert 0 < 10 * little < much
    assert rows["simulator, with the nominal trunk: h = 8"]["value"] > 0.01
    assert found["pushed"] == 0 and rows["simulator, without the pushes: h = 8"]["value"] == 0
    assert rows["model: h = 8"]["ratio"] == 1.0
    assert all(row["value"] == 0 for name, row in rows.items() if "falls" in name)


def test_a_robot_that_falls_keeps_its_row_and_is_counted(monkeypatch, recorded):
    env, record = recorded
    step = env.step

    def third_falls(actions):
        made = step(actions)
        made.transition[2, -1], made.terminated[2] = 1.0, True
        return made

    monkeypatch.setattr(env, "step", third_falls)
    rows = again(env, record.start, record.actions, record.kicks)
    assert (rows[2] == rows[2, 0]).all() and not (rows[1] == rows[1, 0]).all()
    assert rows[:, -1, -1].tolist() == [0, 0, 1, 0, 0, 0]


def test_a_fall_does_not_change_what_the_others_meet(recorded, model):
    env, record = recorded
    state = record.start["physics"]["state"].clone()
    layout = env.physics.layout
    state[2, layout.quaternion] = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    state[2, layout.position.stop - 1] = 0.2
    on_its_back = {**record.start, "physics": {**record.start["physics"], "state": state}}
    rows = again(env, on_its_back, record.actions, record.kicks)
    others = [0, 1, 3, 4, 5]
    assert rows[2, -1, -1] == 1 and torch.equal(rows[others], record.rows[others, model.config.history :])


def test_robots_that_fell_are_left_out(monkeypatch, model):
    def one_falls(env, model, config):
        record = record_of(env, model, config)
        return record._replace(upright=torch.tensor([False] + [keep] * 5))

    keep = True
    monkeypatch.setattr(predictability, "record_of", one_falls)
    assert bench_predictability(SHIPPED, CONFIG)["trajectories"] == 5
    keep = False
    with pytest.raises(RwmError, match="All 6 robots fell"):
        bench_predictability(SHIPPED, CONFIG)


def test_a_model_of_no_robot_or_of_other_columns_is_refused(model):
    info = model.info
    try:
        model.info = replace(info, columns=info.columns[::-1])
        with pytest.raises(RwmError, match="columns are not those of a simulated ANYmal D"):
            robot_of(model)
        model.info = None
        with pytest.raises(RwmError, match="does not say which robot"):
            robot_of(model)
    finally:
        model.info = info


def test_the_command_prints_the_rows(rwm, tmp_path):
    words = ("bench", "predictability", "--model", "shipped", "--num-envs", 3, "--steps", 1, "--offset", 0.01)
    found = json.loads(rwm(*words, "--policy", "expert", "--action-noise", 0, "--out", tmp_path / "p.png", "--json"))
    assert np.isfinite([row["value"] for row in found["rows"]]).all() and (tmp_path / "p.png").is_file()
