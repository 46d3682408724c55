from __future__ import annotations

from functools import partial

import pytest
import torch

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel import checkpoint, fastest
from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.ensemble import DynamicsEnsemble, ModelInfo
from rwmrl import imagination_training
from rwmrl.cloning import CloningConfig, clone_behaviour
from rwmrl.envs.imagination import ImaginationEnv
from rwmrl.imagination_training import train_policy
from rwmrl.policy_config import PolicyConfig
from rwmrl.policy_file import load_policy
from rwmrl.ppo import Runner
from rwmrl.sweep import sweep_policies


def small(**options):
    return build(
        PolicyConfig, "smoke", {"iterations": 3, "num_envs": 16, "hidden_dims": (16,), "episode_steps": 20, **options}
    )


def test_presets_take_flat_overrides_and_name_what_they_do_not_know():
    config = build(PolicyConfig, "paper", {"lam": 0.5, "rollout": "mean", "lr": 1e-4, "seed": 7})
    assert (config.imagination.lam, config.imagination.rollout, config.ppo.lr) == (0.5, "mean", 1e-4)
    assert (config.imagination.num_envs, config.ppo.num_steps, config.iterations) == (4096, 100, 2500)
    assert config.seed == config.imagination.seed == 7
    with pytest.raises(RwmError, match="Unknown policy preset 'huge'; presets: smoke"):
        build(PolicyConfig, "huge")
    with pytest.raises(RwmError, match="lambda_weight"):
        build(PolicyConfig, "smoke", {"lambda_weight": 1.0})
    with pytest.raises(RwmError, match="lam: "):
        build(PolicyConfig, "smoke", {"lam": -1.0})


def test_a_policy_run_keeps_parents_config_metrics_and_policy(home, dataset, model_run):
    run = train_policy(home, dataset, model_run.checkpoint, small(lam=2.0))
    meta = Run.open(run.path).meta
    assert meta.status == "finished" and meta.parents == {"dataset": "small", "model": model_run.id}
    assert meta.config["imagination"]["lam"] == meta.summary["lam"] == 2.0
    assert meta.summary["epistemic"] > 0 and meta.summary["unsound_predictions"] == 0
    policy = load_policy(run.policy_file, "anymal_d")
    assert policy(torch.zeros(2, 48)).shape == (2, 12)
    assert list((run.path / "tensorboard").iterdir())


def test_reported_rewards_differ_by_lambda_epistemic_dt(home, dataset, model_run):
    run = train_policy(home, dataset, model_run.checkpoint, small(lam=2.0))
    rows = {}
    for m in run.metrics():
        rows.setdefault(m["step"], {})[m["metric"]] = m["value"]
    for row in rows.values():
        gap = row["imagined/reward"] - row["imagined/penalised_reward"]
        assert gap == pytest.approx(2.0 * row["imagined/epistemic"] * 0.02, rel=1e-4)


def test_a_few_iterations_raise_the_imagined_reward(home, dataset, model_run, steerable_model):
    """Velocities become what three of the actions say, so there is something to learn at once."""
    save_model(steerable_model, model_run.model_file)
    config = small(
        iterations=15, num_envs=64, num_steps=12, hidden_dims=(32,), noise=False, push_velocity=0.0, gamma=0.5,
        lr=3e-3, schedule="fixed", entropy_coef=0.0, obs_normalization=False,
    )  # fmt: skip
    run = train_policy(home, dataset, model_run.checkpoint, config)
    found = run.series()
    tracking = found["reward/track_lin_vel_xy_exp"]
    assert len(tracking) == 15 and tracking[-1] > 2 * tracking[0]
    assert run.meta.summary["mean_reward"] == found["imagined/reward"][-1] > found["imagined/reward"][0]
    assert run.meta.summary["imagined_reward_after"] > run.meta.summary["imagined_reward_before"]


def test_the_model_computes_in_the_precision_asked_for(home, dataset, model_run, monkeypatch):
    used, step, told = set(), DynamicsEnsemble.step, []
    for module in (checkpoint, imagination_training):
        monkeypatch.setattr(module, "use_precision", lambda precision, device: told.append(precision))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(DynamicsEnsemble, "step", lambda self, *a, **k: used.add(self.precision) or step(self, *a, **k))
    run = train_policy(home, dataset, model_run.checkpoint, small(iterations=1, precision="bfloat16"))
    assert told == ["float32", "bfloat16"]  # A model is loaded in float32; what was asked for comes after.
    assert used == {"bfloat16"} and run.meta.config["precision"] == "bfloat16"
    with pytest.raises(RwmError, match="no TF32"):
        train_policy(home, dataset, model_run.checkpoint, small(precision="tf32"))


def test_a_policy_in_the_fastest_arithmetic_says_which_and_is_resumed_in_it(home, dataset, model_run, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    asked = []
    monkeypatch.setattr(
        fastest, "pass_seconds", lambda *arguments: asked.append(arguments) or {"float32": 2.0, "bfloat16": 1.0}
    )
    run = train_policy(home, dataset, model_run.checkpoint, small(iterations=1))
    assert run.meta.config["precision"] == "bfloat16"
    ((sizes, robots, _, learning),) = asked
    assert (sizes.hidden, robots, learning) == (load_model(model_run.model_file).config.hidden, 16, False)
    assert sweep_policies(home, dataset, model_run.checkpoint, [small(iterations=1)])[0].id == run.id
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(RwmError, match="'cpu' has no bfloat16 arithmetic") as fault:
        train_policy(home, dataset, model_run.checkpoint, resume=run)
    assert "where it began" in fault.value.hint


def test_how_often_checkpoints_are_written_does_not_change_what_is_learnt(home, dataset, model_run):
    often, once = (train_policy(home, dataset, model_run.checkpoint, small(checkpoint_interval=n)) for n in (1, 100))
    weights = [load_policy(run.policy_file, "anymal_d").state_dict() for run in (often, once)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_interrupted_policy_run_is_resumed_to_its_end(home, dataset, model_run):
    def interrupt(done, total, numbers):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_policy(home, dataset, model_run.checkpoint, small(iterations=4), interrupt)
    (broken,) = home.runs("policy")
    assert broken.meta.status == "interrupted" and broken.policy_file.exists()
    resumed = train_policy(home, dataset, model_run.checkpoint, resume=broken)
    steps = [m["step"] for m in resumed.metrics() if m["metric"] == "imagined/reward"]
    assert resumed.meta.status == "finished" and steps == [1, 2, 3, 4]


def test_a_model_of_another_robot_is_refused(home, dataset, model_run, make_model):
    model = make_model()
    model.info = ModelInfo("go2", dataset.schema.csv_names, 50.0, "other")
    save_model(model, model_run.model_file)
    with pytest.raises(RwmError, match="was fitted on 'go2', dataset 'small' is of 'anymal_d'"):
        train_policy(home, dataset, model_run.checkpoint, small())


@pytest.mark.parametrize("normalised", [True, False])
def test_a_policy_begins_with_a_clone(home, dataset, model_run, normalised):
    clone = clone_behaviour(home, dataset, CloningConfig(updates=5, hidden_dims=(16,), device="cpu"))
    config = small(iterations=1, warm_start=clone.id, obs_normalization=normalised)
    run = train_policy(home, dataset, model_run.checkpoint, config)
    assert run.meta.parents == {"dataset": "small", "model": model_run.id, "policy": clone.id}
    env = ImaginationEnv(load_model(model_run.model_file), dataset, load_robot("anymal_d"),
                         config.imagination)  # fmt: skip
    runner = Runner(env, config.ppo, Run.create(home, "policy", {}, {}, 0), load_robot("anymal_d"), 0)
    runner.warm_start(clone.checkpoint)
    x = torch.randn(7, 48)
    torch.testing.assert_close(runner.policy()(x), load_policy(clone.policy_file)(x), rtol=1e-4, atol=1e-5)
    wider = small(hidden_dims=(8,), warm_start=clone.id)
    with pytest.raises(RwmError, match="do not fit ours: its hidden layers are 16"):
        train_policy(home, dataset, model_run.checkpoint, wider)
    other = small(hidden_dims=(16,), activation="relu", warm_start=clone.id)
    with pytest.raises(RwmError, match="do not fit ours: it has other activations"):
        train_policy(home, dataset, model_run.checkpoint, other)


def test_a_clone_is_made_where_there_is_none_and_taken_where_there_is(home, dataset, model_run, monkeypatch):
    monkeypatch.setattr("rwmrl.imagination_training.CloningConfig", partial(CloningConfig, updates=5))
    runs = [
        train_policy(home, dataset, model_run.checkpoint, small(iterations=1, warm_start="bc", lam=lam))
        for lam in (0.0, 1.0)
    ]
    (clone,) = [r for r in home.runs("policy") if "algo" in r.meta.config]
    assert [r.meta.config["warm_start"] for r in runs] == [clone.id] * 2 and clone.meta.config["hidden_dims"] == [16]
    train_policy(home, dataset, model_run.checkpoint, small(iterations=1, warm_start="bc", seed=1))
    assert len([r for r in home.runs("policy") if "algo" in r.meta.config]) == 2
    assert build(PolicyConfig, None, {"warm_start": "none"}).warm_start is None
