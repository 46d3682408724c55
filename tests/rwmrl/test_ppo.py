from __future__ import annotations

import copy
import importlib
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDict

import rwmrl.ppo
from rwmdata.errors import RwmError
from rwmdata.runs import Checkpoint, Run
from rwmrl.envs.base import Step, VecEnv
from rwmrl.policy_file import load_policy
from rwmrl.policy_network import linear_layers
from rwmrl.ppo import LEAST_LR, Runner
from rwmrl.ppo_config import PPOConfig
from rwmrl.rsl_config import to_rsl_rl
from rwmrl.rsl_env import RslVecEnv
from rwmrl.run_logger import _reduce

SMALL = PPOConfig(num_steps=8, epochs=4, mini_batches=2, hidden_dims=(16,), checkpoint_interval=2, init_std=0.5)


class Target(VecEnv):
    """Reward is highest where the action equals the observation's first entries; episodes last 10 steps."""

    def __init__(self, schema, num_envs=64):
        self.schema, self.num_envs, self.num_actions = schema, num_envs, 12
        self.max_episode_length, self.control_dt_s, self.device = 10, 0.02, torch.device("cpu")
        self.generator = torch.Generator().manual_seed(0)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.int64)
        self.observation = torch.zeros(num_envs, 48)
        self.reset()

    @property
    def command(self):
        return torch.zeros(self.num_envs, 3)

    def reset(self):
        self.observation = torch.rand(self.num_envs, 48, generator=self.generator) * 4 + 1
        return self.get_observations()

    def get_observations(self):
        return {"policy": self.observation}

    def current_rows(self):
        return torch.zeros(self.num_envs, 66)

    def step(self, actions):
        reward = -(actions - (self.observation[:, :12] - 3)).square().mean(dim=1)
        self.episode_length_buf += 1
        truncated = self.episode_length_buf >= 10
        self.episode_length_buf[truncated] = 0
        never = torch.zeros_like(truncated)
        return Step(self.reset(), reward, never, truncated, self.current_rows(), {"task/reward": reward.mean()})


@pytest.fixture
def run(home):
    return Run.create(home, "train", {}, {}, seed=0)


def values(run, metric):
    return [m["value"] for m in run.metrics() if m["metric"] == metric]


def test_rsl_rl_config_is_new_each_time_and_maps_every_setting():
    config = PPOConfig(lr=3e-4, entropy_coef=0.01, hidden_dims=(32, 16), init_std=0.3, gae_lambda=0.9)
    first = to_rsl_rl(config)
    kept = copy.deepcopy(first)
    first["algorithm"].pop("class_name")
    first["actor"]["distribution_cfg"].pop("class_name")
    assert to_rsl_rl(config) == kept
    assert kept["algorithm"]["lam"] == 0.9 and kept["algorithm"]["learning_rate"] == 3e-4
    assert kept["actor"]["distribution_cfg"]["init_std"] == 0.3 and kept["critic"]["hidden_dims"] == [32, 16]
    assert "distribution_cfg" not in kept["critic"]


def test_a_time_out_is_bootstrapped_and_a_death_is_not(schema, robot, run):
    """Environment 0 times out, 1 dies, 2 goes on: only 0 gets gamma times the value of the state it was in."""

    class Ending(Target):
        def step(self, actions):
            step = super().step(actions)
            return replace(
                step, reward=torch.ones(3), terminated=torch.tensor([False, True, False]),
                truncated=torch.tensor([True, False, False]),
            )  # fmt: skip

    alg = Runner(Ending(schema, 3), SMALL, run, robot, seed=0).alg
    env = RslVecEnv(Ending(schema, 3))
    observations = env.get_observations()
    alg.act(observations)
    values = alg.critic(observations).squeeze(1)
    alg.process_env_step(*env.step(torch.zeros(3, 12)))
    expected = [1 + 0.99 * float(values[0].detach()), 1.0, 1.0]
    assert alg.storage.rewards[0, :, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert alg.storage.dones[0, :, 0].tolist() == [1, 1, 0]


def test_ppo_learns_and_the_saved_policy_acts_as_rsl_rls(schema, robot, run):
    runner = Runner(Target(schema), SMALL, run, robot, seed=0)
    runner.train(12)
    reward = values(run, "task/reward")
    assert len(reward) == 12 and reward[-1] > reward[0] + 0.05
    policy = load_policy(run.policy_file, "anymal_d")
    observation = torch.rand(5, 48) * 4
    runner.alg.eval_mode()
    expected = runner.alg.get_policy()(TensorDict({"policy": observation}, batch_size=[5]))
    torch.testing.assert_close(policy(observation), expected, rtol=1e-5, atol=1e-5)
    assert policy.mean.abs().max() > 0.5  # observations lie in 1..5, so the normaliser has moved


def test_the_saved_policy_is_the_moving_average_of_the_actors_that_learnt(schema, robot, home):
    config = SMALL.model_copy(update={"ema": 0.75, "critic_first": 2, "checkpoint_interval": 1})
    weights = []

    def note(done, total, numbers):
        weights.append([layer.weight.detach().clone() for layer in linear_layers(runner.alg.actor.mlp)])

    run = Run.create(home, "train", {}, {}, seed=0)
    runner = Runner(Target(schema), config, run, robot, 0, progress=note)
    runner.train(6)
    for k in range(len(weights[0])):
        average = weights[2][k]  # The first two iterations hold the actor.
        for later in weights[3:]:
            average = 0.75 * average + 0.25 * later[k]
        saved = linear_layers(load_policy(run.policy_file).mlp)[k].weight
        torch.testing.assert_close(saved, average, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(saved, weights[-1][k])
    later = Runner(Target(schema), SMALL, Run.create(home, "train", {}, {}, seed=0), robot, 1)
    later.warm_start(Checkpoint(run.policy_file, run.id, run))
    begun, kept = linear_layers(later.policy().mlp), linear_layers(load_policy(run.policy_file).mlp)
    assert all(torch.equal(ours.weight, theirs.weight) for ours, theirs in zip(begun, kept, strict=True))


def test_mixed_precision_learns_alike_and_rounds_no_outputs(schema, robot, home):
    learnt = {}
    for precision in ("float32", "bfloat16"):
        run = Run.create(home, "train", {}, {}, seed=0)
        runner = Runner(Target(schema), SMALL, run, robot, seed=0, precision=precision)
        runner.train(12)
        learnt[precision] = values(run, "task/reward")[-1]
        network, observation = runner.alg.actor.mlp, torch.rand(5, 48)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(observation)
        assert output.dtype == torch.float32
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
        if precision == "bfloat16":  # Hidden layers are rounded, so the check above is not of float32 throughout.
            assert not torch.equal(output, network(observation))
            torch.testing.assert_close(output, network(observation), rtol=0.05, atol=0.05)
    assert learnt["bfloat16"] == pytest.approx(learnt["float32"], abs=0.1)


def test_a_resumed_run_has_the_same_iterations_and_no_doubled_metrics(schema, robot, run):
    def stop_at(done, total, numbers):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run.running():
        Runner(Target(schema), SMALL, run, robot, 0, progress=stop_at).train(8)
    assert Run.open(run.path).meta.status == "interrupted"
    runner = Runner(Target(schema), SMALL, run, robot, 0)
    runner.train(8)
    steps = [m["step"] for m in run.metrics() if m["metric"] == "task/reward"]
    assert steps == list(range(1, 9)) and runner.completed == 8
    runner.train(8)
    assert [m["step"] for m in run.metrics() if m["metric"] == "task/reward"] == steps


def test_the_critic_learns_first_and_then_both(schema, robot, run):
    config = SMALL.model_copy(update={"critic_first": 3, "obs_normalization": False})
    runner = Runner(Target(schema), config, run, robot, 0)

    def networks():
        return [[p.detach().clone() for p in net.parameters()] for net in (runner.alg.actor, runner.alg.critic)]

    def same(before, after):
        return [all(map(torch.equal, *pair)) for pair in zip(before, after, strict=True)]

    before = networks()
    runner.train(2)
    between = networks()
    assert same(before, between) == [True, False] and set(values(run, "policy/learning_rate")) == {config.lr}
    runner.train(5)
    assert same(between, networks()) == [False, False] and runner.alg.schedule == "adaptive"
    assert [m["step"] for m in run.metrics() if m["metric"] == "task/reward"] == [1, 2, 3, 4, 5]


def test_after_the_critic_alone_the_actor_begins_with_small_steps(schema, robot, run, monkeypatch):
    """Adam's first step moves every weight by the learning rate, whatever the gradient."""
    config = SMALL.model_copy(update={"critic_first": 2, "obs_normalization": False})
    runner = Runner(Target(schema), config, run, robot, 0)
    step, moved = runner.alg.optimizer.step, []

    def watched(*arguments):
        weight = runner.alg.actor.mlp[0].weight
        before = weight.detach().clone()
        step(*arguments)
        moved.append(float((weight - before).detach().abs().max()))

    monkeypatch.setattr(runner.alg.optimizer, "step", watched)
    runner.train(3)
    first = next(size for size in moved if size > 0)
    assert first <= 1.01 * LEAST_LR < 0.1 * config.lr
    assert max(moved) > 3 * first  # It grows at once.


@pytest.mark.parametrize("begun_with", ["a file", "a run", None])
def test_while_the_critic_learns_alone_the_policy_acts_the_same(schema, robot, home, run, begun_with):
    """Bit for bit: its normaliser stays too, and the critic's moves."""
    if begun_with:
        first = Run.create(home, "train", {}, {}, seed=1)
        Runner(Target(schema), SMALL, first, robot, 1).train(2)
    runner = Runner(Target(schema), SMALL.model_copy(update={"critic_first": 3}), run, robot, 0)
    if begun_with:
        runner.warm_start(first.checkpoint if begun_with == "a run" else Checkpoint.of_file(first.policy_file))
    observation = torch.rand(20, 48) * 4 + 1
    before, seen_by_critic = runner.policy()(observation), runner.alg.critic.obs_normalizer.mean
    runner.train(3)
    assert torch.equal(load_policy(run.policy_file)(observation), before)
    assert not torch.equal(runner.alg.critic.obs_normalizer.mean, seen_by_critic)
    runner.train(4)
    assert not torch.equal(load_policy(run.policy_file).mean, load_policy(run.stage_file(3)).mean)


def test_a_crash_while_saving_leaves_no_policy_out(schema, robot, run, monkeypatch):
    """Killed after the stage of iteration 3 is written, before anything else of that checkpoint."""

    def crash(policy, path):
        save(policy, path)
        if path.name == "policy-000003.safetensors":
            raise KeyboardInterrupt

    save = rwmrl.ppo.save_policy
    monkeypatch.setattr(rwmrl.ppo, "save_policy", crash)
    with pytest.raises(KeyboardInterrupt):
        Runner(Target(schema), SMALL, run, robot, 0).train(3)
    monkeypatch.setattr(rwmrl.ppo, "save_policy", save)
    Runner(Target(schema), SMALL, run, robot, 0).train(3)
    newest, stage = (load_file(run.checkpoints / f) for f in ("policy.safetensors", "policy-000003.safetensors"))
    trained = torch.load(run.state_file, weights_only=True)
    assert trained["completed"] == 3
    for weights in (newest, stage):
        assert torch.equal(weights["mlp.0.weight"], trained["actor_state_dict"]["mlp.0.weight"])


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/rwm_pickle_was_executed", "w"))


def test_a_malicious_checkpoint_is_refused_and_not_executed(schema, robot, run, tmp_path):
    marker = tmp_path / "executed"
    Evil.__reduce__ = lambda self: (open, (str(marker), "w"))
    torch.save({"actor_state_dict": Evil()}, run.state_file)
    with pytest.raises(RwmError, match="cannot be read"):
        Runner(Target(schema), SMALL, run, robot, 0).train(2)
    assert not marker.exists()


def test_a_diverged_run_fails_says_so_and_keeps_its_last_sound_checkpoint(schema, robot, run):
    class Infinite(Target):
        def step(self, actions):
            step = super().step(actions)
            broken = self.steps >= 8  # from the second iteration on
            self.steps += 1
            return replace(step, reward=step.reward + torch.inf) if broken else step

    env = Infinite(schema)
    env.steps = 0
    with pytest.raises(RwmError, match="PPO diverged: "), run.running():
        Runner(env, SMALL, run, robot, seed=0).train(4)
    assert Run.open(run.path).meta.status == "failed"
    state = torch.load(run.state_file, weights_only=True)
    assert state["completed"] == 1 and all(torch.isfinite(v).all() for v in state["actor_state_dict"].values())


def test_logged_numbers_are_averaged_summed_or_their_maximum_taken():
    steps = [torch.tensor([1.0, 3.0]), torch.tensor(8.0), 0.0]
    assert _reduce("episode_sum/x", steps) == 3.0  # over all four values: episodes weigh the same
    assert _reduce("imagined/epistemic_max", steps) == 8.0
    assert _reduce("imagined/unsound_count", steps) == 12.0


def test_environments_do_not_all_time_out_together(schema, robot, run):
    env = Target(schema)
    ages = []
    step = env.step
    env.step = lambda actions: (ages.append(env.episode_length_buf.clone()), step(actions))[1]
    Runner(env, SMALL, run, robot, seed=0).train(1)
    assert len(ages[0].unique()) > 5 and ages[0].max() < 10


def test_nothing_is_printed_and_no_repository_is_copied(schema, robot, run, capsys):
    Runner(Target(schema), SMALL, run, robot, seed=0).train(2)
    assert capsys.readouterr().out == ""
    assert "Learning iteration" in (run.path / "train.log").read_text()
    assert not list(run.path.rglob("*.diff"))


def test_without_rsl_rl_the_extra_to_install_is_named(monkeypatch):
    ours = ("rwmrl.ppo", "rwmrl.rsl_env", "rwmrl.run_logger")
    for name in [m for m in sys.modules if m.split(".")[0] == "rsl_rl" or m in ours]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rsl_rl", None)
    with pytest.raises(RwmError, match="rsl-rl-lib 5.4 or newer") as error:
        importlib.import_module("rwmrl.ppo")
    assert "pip install 'rwm[rl]'" in str(error.value.hint)
