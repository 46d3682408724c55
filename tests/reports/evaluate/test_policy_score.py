from __future__ import annotations

import numpy as np
import pytest
import torch

from reports.evaluate.policy_score import PolicyScoreConfig, episode_sums, evaluate_policy, parents_of, score
from rwmdata.errors import RwmError
from rwmdata.progress import silent
from rwmdata.runs import Checkpoint, Run
from rwmrl.backends import make_env
from rwmrl.behaviour_base import Behaviour
from rwmrl.envs.base import EnvOptions
from rwmrl.policy_file import MlpPolicy, PolicyInfo, save_policy


class Still(Behaviour):
    """Stands: the default pose is the zero action."""

    name = "still"

    def act(self, observations):
        return torch.zeros(len(observations["policy"]), 12)


@pytest.fixture
def short(robot):
    return robot.model_copy(update={"episode_length_s": 1.0})


def test_sums_are_those_of_the_environment_itself(short):
    config = PolicyScoreConfig(policy="still", episodes=3, seed=4)
    sums = episode_sums(config, short, Still(), disturbed=False, progress=silent)
    env = make_env("auto", short, EnvOptions(num_envs=3, seed=4, pushes=False, noise=False, randomize=False))
    env.reset()
    steps = [env.step(torch.zeros(3, 12)) for _ in range(50)]
    assert sums["steps"].tolist() == [50] * 3 and sums["fell"].tolist() == [0] * 3
    np.testing.assert_allclose(sums["return"], torch.stack([s.reward for s in steps]).sum(dim=0), rtol=1e-4, atol=1e-5)
    terms = sum(v for k, v in sums.items() if k.startswith("reward/"))
    np.testing.assert_allclose(sums["return"], terms, rtol=1e-5, atol=1e-6)


def test_scores_by_hand():
    """Two episodes of 100 and 300 steps of 0.02 s; the first ends in a fall."""
    sums = {"return": [1.0, 5.0], "steps": [100, 300], "fell": [1, 0], "lin_vel_error": [10.0, 90.0],
            "yaw_rate_error": [20.0, 20.0], "reward/x": [2.0, 4.0]}  # fmt: skip
    rows = score("undisturbed", {k: np.array(v, np.float64) for k, v in sums.items()}, 0.02)
    found = {r.metric: r.value for r in rows}
    assert found["return"] == 3.0 and found["reward/x"] == 3.0
    assert found["lin_vel_error"] == pytest.approx(0.25) and found["yaw_rate_error"] == pytest.approx(0.1)
    assert found["falls_per_minute"] == pytest.approx(1 / (8 / 60))
    assert found["share_without_fall"] == 0.5 and found["episode_steps"] == 200
    assert all(r.low <= r.value <= r.high for r in rows)


def test_a_policy_file_is_scored_and_kept_as_a_run(home, robot, tmp_path):
    policy = MlpPolicy(PolicyInfo.of(robot, (8,)))
    save_policy(policy, tmp_path / "mine.safetensors")
    run = evaluate_policy(home, PolicyScoreConfig(policy=str(tmp_path / "mine.safetensors"), episodes=2))
    modes = {s["mode"] for s in run.meta.summary["scalars"]}
    assert modes == {"undisturbed", "disturbed"} and (run.path / "summary.json").is_file()
    with pytest.raises(RwmError, match="Unknown policy 'nobody'"):
        evaluate_policy(home, PolicyScoreConfig(policy="nobody"))


def test_a_run_s_policy_is_traced_to_the_run_and_what_it_was_made_from(home, robot):
    run = Run.create(home, "policy", {}, {"dataset": "d", "model": "m"}, seed=0)
    file = run.policy_file
    save_policy(MlpPolicy(PolicyInfo.of(robot, (8,))), file)
    assert parents_of(home, str(file)) == {"dataset": "d", "model": "m", "policy": run.id}
    stage = file.with_name("policy-000001.safetensors")
    stage.write_bytes(file.read_bytes())
    assert parents_of(home, str(stage)) == {"policy": Checkpoint.of_file(stage).id}
    assert parents_of(home, "expert") == {"policy": "expert"}
