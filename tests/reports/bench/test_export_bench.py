from __future__ import annotations

import numpy as np
import pytest
import torch

from reports.bench.export import BenchExportConfig, bench_export
from rwmrl.envs.mujoco import MujocoEnv, MujocoEnvConfig


def test_the_bench_states_three_speeds_against_bare_physics():
    found = bench_export(BenchExportConfig(policy="scripted", transitions=500, num_envs=8, steps=5, repeats=1))
    assert [r["name"] for r in found["rows"]] == [
        "mujoco.rollout, bare", "env.step with policy", "export to Parquet"
    ]  # fmt: skip
    assert found["rows"][0]["ratio"] == 1.0
    assert all(r["value"] > 0 and r["ratio"] == pytest.approx(r["value"] / r["baseline"]) for r in found["rows"])


@pytest.mark.parametrize(("steps", "lifted_m"), [(1, 0.0), (10, 1.0)], ids=["one step on the ground", "ten in the air"])
def test_bare_physics_makes_the_same_motion_as_the_environment(robot, steps, lifted_m):
    # Longer on the ground it does not: in one call the contact solver starts each step from the last one's forces, and
    # contact makes of the last digit a centimetre.
    env = MujocoEnv(robot, MujocoEnvConfig(num_envs=4, pushes=False, seed=2))
    height = env.physics.layout.position.stop - 1
    env.physics.state[:, height] += lifted_m
    start, actions = env.physics.state.copy(), 0.2 * torch.randn(steps, 4, 12)
    targets = np.array(robot.default_joint_pos) + robot.action_scale * actions.double().numpy()
    for action in actions:
        env.step(action)
    end = env.physics.replay(start, targets.transpose(1, 0, 2))
    np.testing.assert_allclose(end, env.physics.state, rtol=0, atol=1e-9)
    assert np.abs(end - start)[:, 1:20].max() > 0.02
