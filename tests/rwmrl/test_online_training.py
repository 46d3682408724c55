"""A model and a policy learnt together: what runs leave, what resumes, what is refused."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch

import rwmrl.simulator_training
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.runs import Run, state_before
from rwmdata.validate import validate
from rwmmodel import fastest
from rwmmodel.calibration_factors import Calibration
from rwmmodel.checkpoint import load_model, load_state, save_model
from rwmrl.backends import make_env
from rwmrl.envs.base import EnvOptions
from rwmrl.envs.mujoco import MujocoEnv
from rwmrl.online_config import FinetuneConfig, PretrainConfig
from rwmrl.online_model import draw_starts
from rwmrl.online_training import OnlineTraining
from rwmrl.policy_file import load_policy
from rwmrl.ppo import Runner
from rwmrl.simulator_training import train_in_simulator, with_rewards
from rwmrl.train_config import TrainConfig

SMALL = {"num_envs": 16, "ppo.num_steps": 12, "ppo.hidden_dims": (8,), "ppo.checkpoint_interval": 1, "fit.held_out": 4}


def pretraining(**changes) -> PretrainConfig:
    return build(PretrainConfig, "smoke", SMALL, changes)


@pytest.fixture
def pretrained(home):
    return train_in_simulator(home, pretraining(iterations=3))


def finetuning(run, **changes) -> FinetuneConfig:
    begun = {"warm_start": run.id, "model": run.id, "imagination.num_envs": 8, "imagination.episode_steps": 5}
    return build(FinetuneConfig, "smoke", SMALL, begun, changes)


def interrupt_at(k):
    def progress(done, total, numbers):
        if done == k:
            raise KeyboardInterrupt

    return progress


def content(run):
    """Return what a run ends with: its files' bytes, the tensors of its state, and its metrics but for times."""
    state = load_state(run.state_file, torch.device("cpu"))
    metrics = {k: v for k, v in run.series().items() if not k.startswith("perf/")}
    return run.policy_file.read_bytes(), run.model_file.read_bytes(), repr(state["model_optimizer"]), metrics


def test_pretraining_leaves_a_policy_a_model_and_scores_on_robots_it_never_saw(home):
    """The authors' code crashes at the end of the first iteration of this task."""
    run = train_in_simulator(home, pretraining(iterations=4))
    assert run.meta.status == "finished" and run.meta.summary["steps"] == 4 * 12 * 16
    assert load_policy(run.policy_file, "anymal_d").info.robot == "anymal_d"
    model = load_model(home.model(run.id).file)
    assert model.config.members == 2 and model.info.robot == "anymal_d"
    metrics = run.series()
    assert len(metrics["loss/value"]) == 4 and len(metrics["model/total"]) >= 3
    for name in ("val/rel_l1_h1", "val/rel_l1_h8", "val/hold_last_h8", "val/rel_l1_noise0.1_h8", "val/total"):
        assert np.isfinite(metrics[name][-1]), name
    assert metrics["model/total"][-1] < metrics["model/total"][0]
    assert load_state(run.state_file, torch.device("cpu"))["moment"] is None  # no replay that nobody needs any more
    assert not state_before(run.state_file).exists()


def test_an_online_fit_in_the_fastest_arithmetic_says_which(home, pretrained, monkeypatch):
    assert pretrained.meta.config["fit"]["precision"] == "float32"  # As of tests/conftest.py.
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    asked = []
    monkeypatch.setattr(
        fastest, "pass_seconds", lambda *arguments: asked.append(arguments) or {"float32": 2.0, "bfloat16": 1.0}
    )
    begun = finetuning(pretrained, iterations=1, **{"fit.hidden": 99})
    with pytest.raises(KeyboardInterrupt):
        train_in_simulator(home, begun.model_copy(update={"iterations": 2}), interrupt_at(1))
    run = home.runs("train")[0]
    assert run.meta.config["fit"]["precision"] == "bfloat16"
    ((sizes, windows, _, learning),) = asked
    assert (sizes.hidden, windows, learning) == (16, 16, True)  # The model's own sizes.
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(RwmError, match="'cpu' has no bfloat16 arithmetic"):
        train_in_simulator(home, resume=run)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_pretraining_ends_as_an_undisturbed_one(home, at):
    config = pretraining(iterations=4, export="mixed", export_transitions=100)
    undisturbed = train_in_simulator(home, config)
    first = home.dataset("mixed")
    other = config.model_copy(update={"export": "again"})
    with pytest.raises(KeyboardInterrupt):
        train_in_simulator(home, other, interrupt_at(at))
    broken = home.runs("train")[0]
    resumed = train_in_simulator(home, resume=broken)
    ours, theirs = content(undisturbed), content(resumed)
    assert ours[3] == theirs[3]
    assert ours[2] == theirs[2]
    weights = [load_model(r.model_file).state_dict() for r in (undisturbed, resumed)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    np.testing.assert_array_equal(first.matrix(), home.dataset("again").matrix())


def kill(*_):
    raise KeyboardInterrupt


def parts_of(run):
    return sorted(p.name for p in (run.path / "replay").glob("part-*"))


def test_a_run_killed_behind_its_export_takes_it_for_its_own(home, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "finish", kill)
        train_in_simulator(home, pretraining(iterations=2, export="mixed"))
    (run,) = home.runs("train")
    left = run.path / "replay" / "part-000003"
    left.mkdir(parents=True)  # as a kill within the removal of the parts leaves them
    written = home.dataset("mixed").manifest
    resumed = train_in_simulator(home, resume=run)
    assert resumed.meta.status == "finished" and resumed.meta.summary["exported"] == "mixed"
    assert home.dataset("mixed").manifest == written and not left.exists()


def test_a_resumed_run_does_not_take_anothers_dataset_for_its_export(home, make_dataset, schema):
    with pytest.raises(KeyboardInterrupt):
        train_in_simulator(home, pretraining(iterations=3, export="mixed"), interrupt_at(2))
    make_dataset(np.zeros((2, 5, schema.width), np.float32), "mixed")
    with pytest.raises(RwmError, match="exists already") as error:
        train_in_simulator(home, resume=home.runs("train")[0])
    assert error.value.hint == "rwm data rm mixed"


@pytest.mark.parametrize("at", [1, 2])
def test_a_part_of_the_export_that_no_state_counts_is_written_again(home, monkeypatch, at):
    """Killed between the part and the state of checkpoint ``at``, before the first state too."""
    short = partial(EnvOptions, episode_length_s=0.4)  # Episodes end in every iteration.
    monkeypatch.setattr(rwmrl.simulator_training, "EnvOptions", short)
    config = pretraining(iterations=3, export="mixed")
    save = Runner._save_state

    def killed(runner, moment, resumable=True):
        if runner.completed == at:
            raise KeyboardInterrupt
        save(runner, moment, resumable)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Runner, "_save_state", killed)
        train_in_simulator(home, config)
    (run,) = home.runs("train")
    newest = f"part-{at:06d}"
    assert parts_of(run)[-1] == newest
    shutil.copytree(run.path / "replay" / newest, run.path / "replay" / f".tmp-{2**30}-{newest}")
    train_in_simulator(home, resume=run)
    train_in_simulator(home, config.model_copy(update={"export": "undisturbed"}))
    dataset = home.dataset("undisturbed")
    np.testing.assert_array_equal(home.dataset("mixed").matrix(), dataset.matrix())
    assert dataset.rows == 16 * 3 * 12 + len(dataset.episodes)  # a row each step and each episode's first


def test_a_part_that_no_state_counts_goes_though_no_episode_ends_this_time(home):
    """As on a GPU, where a resumed training is not the same to the last bit."""
    robot, config = load_robot("anymal_d"), pretraining(export="mixed")
    real = make_env("mujoco", robot, EnvOptions(task="Pretrain-v0", num_envs=16, seed=0))
    online, run = OnlineTraining(home, config, robot, real), Run.create(home, "train", {}, {}, 0)
    (run.path / "replay" / "part-000001").mkdir(parents=True)
    online.restore(run, {"completed": 0}, anew=True)
    assert parts_of(run) == []
    real.close()


@pytest.mark.parametrize(("at", "critic_first"), [(1, 2), (3, 3), (4, 1)])
def test_an_interrupted_finetuning_ends_as_an_undisturbed_one(home, pretrained, at, critic_first):
    config = finetuning(pretrained, iterations=5, **{"ppo.critic_first": critic_first})
    undisturbed = train_in_simulator(home, config)
    with pytest.raises(KeyboardInterrupt):
        train_in_simulator(home, config, interrupt_at(at))
    resumed = train_in_simulator(home, resume=home.runs("train")[0])
    ours, theirs = content(undisturbed), content(resumed)
    assert ours[3] == theirs[3]
    assert ours[2] == theirs[2]


def test_the_critic_learns_from_imagined_steps_before_the_policy_does(home, pretrained):
    """So it knows what they are worth when the policy begins to learn from them."""
    config = finetuning(pretrained, iterations=4, imagine_after=2, **{"ppo.critic_first": 4})
    run = train_in_simulator(home, config)
    assert [row["step"] for row in run.metrics() if row["metric"] == "imagined/reward"] == [3, 4]
    before, after = load_policy(pretrained.policy_file), load_policy(run.policy_file)
    observation = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before(observation), after(observation))


def test_where_the_simulators_state_is_lost_the_replay_goes_on_with_new_episodes(home, pretrained, monkeypatch):
    """As with Isaac Lab and mjlab; imagination needs the replay at once, the critic's iterations being over."""
    monkeypatch.setattr(MujocoEnv, "state", lambda self: None)
    config = finetuning(pretrained, iterations=5, export="mixed", **{"ppo.critic_first": 2})
    with pytest.raises(KeyboardInterrupt):
        train_in_simulator(home, config, interrupt_at(4))
    (run, _) = home.runs("train")
    kept = load_state(run.state_file, torch.device("cpu"))["replay"]["_written"]
    assert len(kept) == 16 and kept.min() >= 1 + 3 * 12
    resumed = train_in_simulator(home, resume=run)
    assert resumed.series()["replay/rows"][-1] >= kept.sum() + 16 * (1 + 2 * 12)
    assert [row["step"] for row in run.metrics() if row["metric"] == "imagined/reward"] == [3, 4, 5]
    assert home.dataset("mixed").manifest.episodes.behaviour.count("iteration-000003") >= 16
    assert "replay" not in load_state(run.state_file, torch.device("cpu"))


def test_new_episodes_are_recorded_behind_the_rows_there_are(home):
    robot, config = load_robot("anymal_d"), pretraining(iterations=10, export="mixed", export_transitions=1000)
    real = make_env("mujoco", robot, EnvOptions(task="Pretrain-v0", num_envs=16, seed=0))
    online = OnlineTraining(home, config, robot, real)
    for _ in range(3):
        online.env.step(torch.zeros(16, 12))
    recorded = len(online.recorder._length)
    online.env.begin_anew(online.env.replay.state(), steps_done=5 * 12, recorded=1000 - recorded + 2, dropped=1)
    assert online.recorder.full and online.recorder.dropped == 1
    online.recorder.finish()
    episodes = online.recorder.take()
    assert [len(e.rows) for e in episodes] == [1] * (recorded - 2)
    assert {e.behaviour for e in episodes} == {"iteration-000005"}
    assert online.env.replay.count == 16 * 5
    real.close()


def test_the_exported_replay_is_a_dataset_of_every_stage(home, schema):
    config = pretraining(iterations=10, num_envs=8, export="mixed", export_transitions=200)
    run = train_in_simulator(home, config)
    dataset = home.dataset("mixed")
    assert dataset.rows == 200 and not [fault for fault in validate(dataset) if fault.check != "length"]
    stages = set(dataset.manifest.episodes.behaviour)
    assert "iteration-000000" in stages and len(stages) > 1
    assert dataset.manifest.provenance["policy"] == f"train {run.id}"
    assert not (run.path / "replay").exists()
    assert home.model(run.id).parent("dataset") == "mixed"  # what an evaluation of the model takes
    with pytest.raises(RwmError, match="exists already"):
        train_in_simulator(home, config)
    assert len(home.runs("train")) == 1


def test_finetuning_waits_with_imagination_and_with_the_policy_until_the_critic_knows_something(home, pretrained):
    run = train_in_simulator(home, finetuning(pretrained, iterations=4, **{"ppo.critic_first": 2}))
    first = load_policy(run.stage_file(2))
    begun = load_policy(pretrained.policy_file)
    for name, weight in begun.mlp.state_dict().items():
        assert torch.equal(first.mlp.state_dict()[name], weight)
    after = load_policy(run.policy_file).mlp.state_dict()
    assert any(not torch.equal(after[k], v) for k, v in begun.mlp.state_dict().items())
    imagined = [row["step"] for row in run.metrics() if row["metric"] == "imagined/reward"]
    assert imagined == [3, 4]
    assert run.meta.parents == {"policy": pretrained.id, "model": pretrained.id}
    assert run.meta.summary["steps"] == 4 * 12 * 16  # imagined ones are not counted


def test_finetuning_runs_with_five_members_and_a_penalty(home):
    first = train_in_simulator(home, pretraining(iterations=2, **{"fit.members": 5}))
    run = train_in_simulator(home, finetuning(first, iterations=3, **{"imagination.lam": 1.0, "ppo.critic_first": 1}))
    metrics = run.series()
    assert metrics["imagined/epistemic"][-1] > 0
    assert metrics["imagined/penalised_reward"][-1] < metrics["imagined/reward"][-1]


def test_without_imagination_finetuning_is_ppo_from_the_same_start(home, pretrained):
    run = train_in_simulator(home, finetuning(pretrained, iterations=3, imagine=False))
    assert "imagined/reward" not in run.series()


def test_a_robot_without_constants_gets_the_statistics_of_its_replay(home):
    run = train_in_simulator(home, pretraining(robot="go2", iterations=2))
    normalizer = load_model(run.model_file).normalizer
    assert not torch.equal(normalizer.state_std, torch.ones_like(normalizer.state_std))


def test_both_kinds_of_robots_stand_side_by_side(home, pretrained):
    robot = load_robot("anymal_d")
    real = make_env("mujoco", robot, EnvOptions(task="Finetune-v0", num_envs=16, seed=0))
    online = OnlineTraining(home, finetuning(pretrained, imagine_after=0), robot, real)
    for _ in range(20):
        online.env.step(torch.zeros(16, 12))
    online.begin(0)
    env = online.env
    assert env.imagined.episode_length_buf.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]  # Of episodes of 5 steps.
    assert env.num_envs == 24 and env.command.shape == (24, 3) and env.current_rows().shape == (24, 66)
    step = env.step(torch.zeros(24, 12))
    assert step.reward.shape == (24,) and step.observations["policy"].shape == (24, 48)
    torch.testing.assert_close(step.observations["system_state"][16:], env.imagined.current_rows()[:, :45])
    env.episode_length_buf = torch.arange(24)
    assert env.real.episode_length_buf.tolist() == list(range(16))
    assert env.imagined.episode_length_buf.max() < 5
    env.close()


def test_imagined_steps_earn_what_simulated_ones_do(home, pretrained):
    robot = load_robot("anymal_d")
    config = finetuning(pretrained, imagine_after=0, rewards={"action_rate_l2": -7.0})
    robot = robot.model_copy(update={"task_reward_weights": {"Finetune-v0": config.rewards}})
    real = make_env("mujoco", robot, EnvOptions(task="Finetune-v0", num_envs=16, seed=0))
    online = OnlineTraining(home, config, robot, real)
    for _ in range(20):
        online.env.step(torch.zeros(16, 12))
    online.begin(0)
    assert online.env.imagined.rewards.weights == real._rewards.weights
    real.close()


@pytest.mark.parametrize(("begun_with", "air_time"), [(None, {"Pretrain-v0": 0.25}), ("expert", {})])
def test_a_first_policy_is_trained_with_the_rewards_of_one(begun_with, air_time):
    config, robot = pretraining(robot="go2", warm_start=begun_with), load_robot("go2")
    rewarded = with_rewards(config, robot)
    first = robot.task_reward_weights["Init-v0"] if begun_with is None else {}
    assert rewarded.task_reward_weights == {"Pretrain-v0": first} and rewarded.task_air_time_s == air_time


def test_a_model_that_is_gone_on_from_keeps_its_architecture_and_loses_its_calibration(home, pretrained):
    """The run's record has the architecture; a replay too short for that of the configuration is no fault."""
    model = load_model(pretrained.model_file)
    factors = (1.0, 2.0)
    about = {"dataset": "mixed", "split": "val", "windows": 4, "seed": 0}
    model.calibration = Calibration(**about, epistemic=factors, total=factors)
    save_model(model, pretrained.model_file)
    sizes = {"fit.history": 32, "fit.members": 7, "fit.replay_steps": 20}
    run = train_in_simulator(home, pretraining(iterations=2, model=pretrained.id, **sizes))
    kept = load_model(run.model_file)
    recorded = {k: run.meta.config["fit"][k] for k in ("history", "members", "hidden")}
    assert recorded == {"history": 8, "members": 2, "hidden": 16} == {k: getattr(kept.config, k) for k in recorded}
    assert kept.calibration is None and run.series()["model/total"]


def test_windows_that_end_with_a_fall_have_their_share_of_the_draws():
    others, falls = np.arange(100), np.arange(100, 103)
    drawn = draw_starts(np.random.default_rng(0), 4000, others, falls, 0.25)
    assert np.mean(drawn >= 100) == pytest.approx(0.25, abs=0.03) and set(drawn) == set(range(103))
    again = draw_starts(np.random.default_rng(0), 4000, others, falls, 0.25)
    np.testing.assert_array_equal(drawn, again)
    assert draw_starts(np.random.default_rng(0), 50, others, falls[:0], 0.25).max() < 100


def test_an_averaged_model_is_bounded_by_what_the_replay_holds(home):
    """Its bounds were infinite when it was made, and infinity has no average."""
    run = train_in_simulator(home, pretraining(iterations=3, **{"fit.ema": 0.9, "fit.bounded": True}))
    model = load_model(run.model_file)
    assert torch.isfinite(model.state_low).all() and torch.isfinite(model.state_high).all()
    assert np.isfinite(run.series()["val/rel_l1_h8"][-1])


def test_what_does_not_fit_is_refused_and_leaves_no_run(home, pretrained):
    one = train_in_simulator(home, pretraining(iterations=1, **{"fit.members": 1}))
    begun = len(home.runs("train"))
    for config, message in (
        (TrainConfig(task="Pretrain-v0"), "takes a PretrainConfig"),
        (build(FinetuneConfig, "smoke"), "begins with a policy and a model"),
        (finetuning(pretrained, robot="go2", warm_start=None), "begins with a policy and a model"),
        (finetuning(pretrained, robot="go2"), "is a model of anymal_d|policy of|networks"),
        (pretraining(**{"fit.history": 2000}), "does not fit into"),
        (pretraining(**{"fit.held_out": 40}), "held out, which is none"),
        (pretraining(**{"fit.normalizer": "reference", "robot": "go2"}), "no reference normaliser"),
        (finetuning(pretrained, **{"imagination.lam": 1.0}, model=one.id), "one member"),
    ):
        with pytest.raises(RwmError, match=message):
            train_in_simulator(home, config)
    assert len(home.runs("train")) == begun


def test_the_command_says_where_to_look_and_what_to_give(rwm):
    with pytest.raises(RwmError, match="rwm visualize"):
        rwm("train", "--task", "Visualize-v0")
    with pytest.raises(RwmError, match="does not read --export"):
        rwm("train", "--export", "x")
    small = ["--preset", "smoke", "--iterations", "2", "--num-envs", "8", "--set", "fit.held_out=4"]
    assert json.loads(rwm("train", "--task", "Pretrain-v0", *small, "--json"))["task"] == "Pretrain-v0"
