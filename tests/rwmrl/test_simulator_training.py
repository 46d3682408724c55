from __future__ import annotations

import pytest
import torch

from rwmdata.errors import RwmError
from rwmrl.policy_file import load_policy
from rwmrl.ppo_config import PPOConfig
from rwmrl.simulator_training import train_in_simulator
from rwmrl.train_config import TrainConfig

TINY = TrainConfig(
    num_envs=4, iterations=2, ppo=PPOConfig(num_steps=4, hidden_dims=(8,), mini_batches=1, epochs=1), seed=3
)


def test_a_run_in_the_simulator_leaves_a_policy_and_can_be_taken_further(home):
    def interrupt(done, total, numbers):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_simulator(home, TINY, interrupt)
    (broken,) = home.runs("train")
    assert broken.meta.status == "interrupted"
    run = train_in_simulator(home, resume=broken)
    assert run.meta.status == "finished" and run.meta.summary["steps"] == 2 * 4 * 4
    assert len(run.series()["reward/track_lin_vel_xy_exp"]) == 2
    assert load_policy(run.policy_file, "anymal_d").info.source == f"train {run.id}"


@pytest.mark.parametrize(("change", "message"), [({"task": "Run-v0"}, "Run-v0"), ({"backend": "gazebo"}, "gazebo")])
def test_what_cannot_be_trained_leaves_no_run(home, change, message):
    with pytest.raises(RwmError, match=message):
        train_in_simulator(home, TINY.model_copy(update=change))
    assert home.runs() == []


def test_a_warm_start_takes_networks_and_normalisers_but_its_own_exploration(home):
    first = train_in_simulator(home, TINY)
    changes = {"warm_start": first.id, "iterations": 1, "exploration_rad": 0.1}
    ppo = TINY.ppo.model_copy(update={"lr": 1e-12, "schedule": "fixed"})
    second = train_in_simulator(home, TINY.model_copy(update={**changes, "ppo": ppo}))
    old, new = (load_policy(run.policy_file, "anymal_d") for run in (first, second))
    for a, b in zip(old.mlp.parameters(), new.mlp.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=0)
    assert second.series()["policy/std"][0] == pytest.approx(0.2, abs=1e-3)
    assert second.meta.parents == {"policy": first.id}
    wider = TINY.ppo.model_copy(update={"hidden_dims": (9,)})
    with pytest.raises(RwmError, match="do not fit ours"):
        train_in_simulator(home, TINY.model_copy(update={**changes, "ppo": wider}))


def test_reward_weights_can_be_given_and_unknown_terms_are_refused(home):
    run = train_in_simulator(home, TINY.model_copy(update={"rewards": {"lin_vel_z_l2": 0.0, "gait": 0.5}}))
    assert "reward/gait" in run.series() and "reward/lin_vel_z_l2" not in run.series()
    with pytest.raises(RwmError, match="Unknown reward term hop"):
        train_in_simulator(home, TINY.model_copy(update={"rewards": {"hop": 1.0}}))


def test_stages_are_kept_and_exploration_is_the_same_motion_for_every_robot(home):
    """Go2's actions are half as large in rad, so its policy starts with twice the standard deviation."""
    stds = {}
    for name in ("anymal_d", "go2"):
        run = train_in_simulator(home, TINY.model_copy(update={"robot": name}))
        stds[name] = run.series()["policy/std"][0]
        assert [p.name for p in sorted(run.checkpoints.glob("policy-*"))] == [
            "policy-000001.safetensors", "policy-000002.safetensors"
        ]  # fmt: skip
    assert stds["anymal_d"] == pytest.approx(0.5, abs=0.02) and stds["go2"] == pytest.approx(1.0, abs=0.04)
