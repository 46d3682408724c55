"""Whole checkpoints of the authors' code: layouts written down by hand come in, and go out again as they were."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.checkpoint import load_model, load_state, save_model, save_state
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.normalizer import Normalizer
from rwmmodel.reference_checkpoint import to_reference
from rwmrl.online_config import FinetuneConfig
from rwmrl.policy_file import load_policy
from rwmrl.ppo import Runner
from rwmrl.ppo_config import PPOConfig
from rwmrl.reference_training import export_training, import_training, keep_training, training_of
from rwmrl.simulator_training import train_in_simulator

CPU, M = torch.device("cpu"), 6
ASSUMED = "the activation of the policy's layers is not in the file and is taken to be ELU (--activation)"
SMALL = PPOConfig(num_steps=4, epochs=2, mini_batches=2, hidden_dims=(16, 8), checkpoint_interval=2)


def linear(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 10), nn.ReLU(), nn.Linear(10, outputs))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.Module()
        self.memory.rnn = nn.GRU(57, 12, 2, batch_first=True)


class StateHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.state_mean_layers, self.state_logstd_layers = linear(12, 45), linear(12, 45)
        self.state_min_logstd = nn.Parameter(torch.full((1, 45), -5.0))
        self.state_log_delta_logstd = nn.Parameter(torch.zeros(1, 45))


class AuxiliaryHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.contact_layers, self.termination_layers = linear(12, 8), linear(12, 1)


class WorldModel(nn.Module):
    """The authors' parts in their order: one base and its heads, then the other."""

    def __init__(self, members=2):
        super().__init__()
        self.state_base = Base()
        self.state_heads = nn.ModuleList(StateHead() for _ in range(members))
        self.auxiliary_base = Base()
        self.auxiliary_heads = nn.ModuleList(AuxiliaryHead() for _ in range(members))


class Statistics(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("_mean", torch.randn(1, size))
        self.register_buffer("_var", torch.rand(1, size) + 0.1)
        self.register_buffer("_std", self._var.sqrt())
        self.register_buffer("count", torch.tensor(1000))


class ActorCritic(nn.Module):
    """The authors' policy: its own parameter comes before those of its networks."""

    def __init__(self, observations=48, actions=12, normalised=False, hidden=(16, 8), critic_observations=48):
        super().__init__()
        a, b = hidden
        body = (nn.Linear(observations, a), nn.ELU(), nn.Linear(a, b), nn.ELU(), nn.Linear(b, actions))
        self.actor = nn.Sequential(*body)
        self.actor_obs_normalizer = Statistics(observations) if normalised else nn.Identity()
        body = (nn.Linear(critic_observations, a), nn.ELU(), nn.Linear(a, b), nn.ELU(), nn.Linear(b, 1))
        self.critic = nn.Sequential(*body)
        self.critic_obs_normalizer = Statistics(critic_observations) if normalised else nn.Identity()
        self.std = nn.Parameter(torch.full((actions,), 0.7))

    def act(self, observation):
        if isinstance(self.actor_obs_normalizer, Statistics):
            n = self.actor_obs_normalizer
            observation = (observation - n._mean) / (n._std + 0.01)
        return self.actor(observation)


def gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def trained(network, steps=3):
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for seed in range(steps):
        gradients(network.parameters(), seed)
        optimizer.step()
    return optimizer


def checkpoint(path, policy=None, world_model=None, **changes):
    """Write the six keys of the authors' code; return both networks and both optimisers."""
    policy, world_model = policy or ActorCritic(), world_model or WorldModel()
    optimizers = trained(policy), trained(world_model)
    content = {
        "model_state_dict": policy.state_dict(),
        "system_dynamics_state_dict": world_model.state_dict(),
        "optimizer_state_dict": optimizers[0].state_dict(),
        "system_dynamics_optimizer_state_dict": optimizers[1].state_dict(),
        "iter": 40,
        "infos": None,
    }
    torch.save(content | changes, path)
    return policy, world_model, *optimizers


@pytest.fixture
def six_keys(tmp_path):
    return tmp_path / "model_40.pt"


def make_runner(run, robot, make_env):
    return Runner(make_env(), SMALL, run, robot, seed=0)


@pytest.fixture
def train_run(home, robot, make_env, dataset):
    """A run as online training leaves it: some iterations of PPO, and a world model with its optimiser."""
    run = Run.create(home, "train", {}, {}, seed=0)
    make_runner(run, robot, make_env).train(2)
    sizes = {"hidden": 12, "head_hidden": 10, "members": 2, "history": M}
    config = EnsembleConfig(**sizes, state_dim=45, action_dim=12, contact_dim=8)
    info = ModelInfo("anymal_d", dataset.schema.csv_names, 50.0, dataset.name)
    model = DynamicsEnsemble(config, Normalizer(45, 12, *dataset.schema.normalizer(robot.normalizer)), info)
    optimizer = trained(model)
    save_model(model, run.model_file)
    state = load_state(run.state_file, CPU)
    save_state(run.state_file, {**state, "model": model.state_dict(), "model_optimizer": optimizer.state_dict()})
    run.finish({})
    return run


def equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(b[key])), key


def equal_moments(a, b):
    assert a["state"].keys() == b["state"].keys() and len(a["state"]) > 0
    for number in a["state"]:
        equal(a["state"][number], b["state"][number])
    for setting in ("lr", "betas", "eps", "weight_decay", "params"):
        assert a["param_groups"][0][setting] == b["param_groups"][0][setting]


@pytest.mark.parametrize("normalised", [False, True])
def test_a_policy_laid_out_as_the_authors_is_taken_over(six_keys, home, robot, make_env, normalised):
    policy, _, optimizer, _ = checkpoint(six_keys, ActorCritic(normalised=normalised))
    training = import_training(six_keys, history=M, activation="elu")
    assert training.notes == () and training.state["completed"] == 41
    run = keep_training(home, training, six_keys.name)
    assert (run.kind, run.meta.status) == ("train", "finished")
    x = torch.randn(9, 48)
    with torch.no_grad():
        torch.testing.assert_close(load_policy(run.policy_file, "anymal_d")(x), policy.act(x), rtol=0, atol=1e-6)
    runner = make_runner(Run.create(home, "train", {}, {}, seed=0), robot, make_env)
    runner.alg.load(load_state(run.state_file, CPU), None, strict=True)
    ours = [*runner.alg.actor.parameters(), *runner.alg.critic.parameters()]
    gradients(policy.parameters(), 9)
    for parameter, theirs in zip(ours, policy.parameters(), strict=True):
        parameter.grad = theirs.grad.clone()
    optimizer.step()
    runner.alg.optimizer.step()
    for parameter, theirs in zip(ours, policy.parameters(), strict=True):
        torch.testing.assert_close(parameter, theirs, rtol=0, atol=1e-7)


def test_a_policy_without_a_normaliser_keeps_none_in_training(six_keys, home, robot, make_env):
    policy, *_ = checkpoint(six_keys)
    run = keep_training(home, import_training(six_keys, history=M), "a.pt")
    runner = make_runner(Run.create(home, "train", {}, {}, seed=0), robot, make_env)
    runner.warm_start(run.checkpoint)
    x = 3 + torch.randn(5000, 48)
    runner.alg.actor.obs_normalizer.update(x)
    with torch.no_grad():
        torch.testing.assert_close(runner.policy()(x), policy.act(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_training_without_normalisers_begins_with_an_imported_policy(six_keys, home, robot, make_env, normalised):
    policy, *_ = checkpoint(six_keys, ActorCritic(normalised=normalised))
    run = keep_training(home, import_training(six_keys, history=M), "a.pt")
    bare = SMALL.model_copy(update={"obs_normalization": False})
    runner = Runner(make_env(), bare, Run.create(home, "train", {}, {}, seed=0), robot, seed=0)
    runner.warm_start(run.checkpoint)
    x = torch.randn(50, 48)
    with torch.no_grad():
        torch.testing.assert_close(runner.policy()(x), policy.act(x), rtol=0, atol=1e-5)
        n = policy.critic_obs_normalizer
        seen = (x - n._mean) / (n._std + 0.01) if normalised else x
        torch.testing.assert_close(runner.alg.critic({"policy": x}), policy.critic(seen), rtol=0, atol=1e-5)


def test_a_training_with_normalisers_begins_with_a_run_without(home, robot, make_env):
    bare = SMALL.model_copy(update={"obs_normalization": False})
    source = Runner(make_env(), bare, Run.create(home, "train", {}, {}, seed=1), robot, seed=1)
    source.train(1)
    runner = make_runner(Run.create(home, "train", {}, {}, seed=0), robot, make_env)
    runner.warm_start(source.run.checkpoint)
    runner.alg.actor.obs_normalizer.update(3 + torch.randn(5000, 48))
    x = torch.randn(50, 48)
    with torch.no_grad():
        torch.testing.assert_close(runner.policy()(x), source.policy()(x), rtol=0, atol=1e-5)


def test_the_activation_is_the_files_or_the_given_one_or_else_assumed(six_keys, home, tmp_path):
    checkpoint(six_keys)
    assert import_training(six_keys, history=M).notes == (ASSUMED,)
    training = import_training(six_keys, history=M, activation="relu")
    assert training.policy.info.activation == "relu" and training.notes == ()
    out = tmp_path / "out.pt"
    (note,) = export_training(keep_training(home, training, "a.pt"), out)
    assert 'activation="relu"' in note
    again = import_training(out, history=M)
    assert again.policy.info.activation == "relu" and again.notes == ()
    for given, said in (("elu", "its layers are relu, not elu"), ("relu", None)):
        notes = import_training(out, history=M, activation=given).notes
        assert notes == ((f"the policy is left out: {said}",) if said else ())
    assert "'sin' is none of elu, relu, tanh" in import_training(six_keys, history=M, activation="sin").notes[0]


def test_a_run_of_another_activation_or_robot_is_no_start(six_keys, home, robot, make_env):
    checkpoint(six_keys)
    relu = keep_training(home, import_training(six_keys, history=M, activation="relu"), "a.pt")
    runner = make_runner(Run.create(home, "train", {}, {}, seed=0), robot, make_env)
    with pytest.raises(RwmError, match="other activations") as error:
        runner.warm_start(relu.checkpoint)
    assert error.value.hint == "--set ppo.activation=relu"
    runner.robot = load_robot("go2")
    elu = keep_training(home, import_training(six_keys, history=M), "a.pt")
    with pytest.raises(RwmError, match="a policy of 'anymal_d', with other observations than 'go2' has"):
        runner.warm_start(elu.checkpoint)


def test_finetuning_begins_with_an_imported_training(six_keys, home):
    """Policy, critic and model come from the authors' file; while only the critic learns, the policy stays."""
    policy, world_model, *_ = checkpoint(six_keys, ActorCritic(normalised=True))
    run = keep_training(home, import_training(six_keys, history=M), "a.pt")
    begun = {"warm_start": run.id, "model": run.id, "num_envs": 16, "iterations": 2, "imagination.num_envs": 8}
    small = {"ppo.num_steps": 12, "ppo.hidden_dims": (16, 8), "ppo.critic_first": 1, "ppo.checkpoint_interval": 1}
    fitted = {"fit.held_out": 4, "fit.batch": 8, "fit.mini_batches": 1, "fit.lr": 1e-9}
    tuned = train_in_simulator(home, build(FinetuneConfig, "smoke", begun, small, fitted))
    x = torch.randn(9, 48)
    with torch.no_grad():
        torch.testing.assert_close(load_policy(tuned.stage_file(1))(x), policy.act(x), rtol=0, atol=1e-5)
    assert not torch.equal(load_policy(tuned.policy_file)(x), policy.act(x))
    own = to_reference(load_model(tuned.model_file).state_dict())
    for name, value in world_model.state_dict().items():
        torch.testing.assert_close(own[name], value, rtol=0, atol=1e-6, msg=name)
    assert tuned.meta.config["fit"]["history"] == M and tuned.meta.config["fit"]["members"] == 2


def test_one_step_of_adam_on_the_world_model_is_the_authors(six_keys, home):
    _, theirs, _, optimizer = checkpoint(six_keys, world_model=WorldModel(3))
    training = import_training(six_keys, history=M)
    model = training.model
    equal(to_reference(model.state_dict()), theirs.state_dict())
    own = torch.optim.Adam(model.parameters())
    own.load_state_dict(training.state["model_optimizer"])
    # The gradient is the same function of every number, whatever its place.
    optimizer.zero_grad()
    for network in (theirs, model):
        sum(p.pow(3).sum() for p in network.parameters()).backward()
    optimizer.step()
    own.step()
    after, expected = to_reference(model.state_dict()), theirs.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-7, msg=name)


def test_frozen_auxiliary_networks_have_no_moments(six_keys):
    world_model = WorldModel()
    optimizer = torch.optim.Adam(world_model.parameters())
    gradients([*world_model.state_base.parameters(), *world_model.state_heads.parameters()], 0)
    optimizer.step()
    checkpoint(six_keys, world_model=world_model, system_dynamics_optimizer_state_dict=optimizer.state_dict())
    training = import_training(six_keys, history=M)
    assert any("world model" in note for note in training.notes) is False
    numbers = training.state["model_optimizer"]["state"].keys()
    names = [name for name, _ in training.model.named_parameters()]
    assert {names[k].split("_")[0] for k in numbers} == {"state"} and len(numbers) == 18


@pytest.mark.parametrize("normalised", [False, True])
def test_in_and_out_again_is_the_same_file(six_keys, home, tmp_path, normalised):
    checkpoint(six_keys, ActorCritic(normalised=normalised))
    run = keep_training(home, import_training(six_keys, history=M), "a.pt")
    assert export_training(run, tmp_path / "b.pt", keep_normalizers=normalised) == ()
    before, after = (torch.load(p, weights_only=True) for p in (six_keys, tmp_path / "b.pt"))
    policies = [c["model_state_dict"] for c in (before, after)]
    if not normalised:
        with pytest.raises(RuntimeError, match="normalizer"):  # Nothing but the plain networks.
            ActorCritic(normalised=True).load_state_dict(policies[1])
    equal(*policies)
    equal(*(c["system_dynamics_state_dict"] for c in (before, after)))
    for key in ("optimizer_state_dict", "system_dynamics_optimizer_state_dict"):
        equal_moments(before[key], after[key])
    assert before["iter"] == after["iter"] == 40 and before.keys() == after.keys()


def test_the_authors_modules_and_optimisers_load_what_a_train_run_exports(train_run, tmp_path):
    """And act as the run's policy: the normalisers are in the first layers, whose weights Adam begins anew with."""
    (note,) = export_training(train_run, tmp_path / "out.pt")
    assert "2 weights have no moments" in note
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    policy, world_model = ActorCritic(), WorldModel()
    policy.load_state_dict(content["model_state_dict"])
    world_model.load_state_dict(content["system_dynamics_state_dict"])
    optimizers = [torch.optim.Adam(network.parameters()) for network in (policy, world_model)]
    optimizers[0].load_state_dict(content["optimizer_state_dict"])
    optimizers[1].load_state_dict(content["system_dynamics_optimizer_state_dict"])
    ours = load_policy(train_run.policy_file)
    assert (ours.mean.abs() > 0).all() and not torch.equal(ours.scale, torch.ones(48))
    x = ours.mean + ours.scale * torch.randn(64, 48)
    with torch.no_grad():
        torch.testing.assert_close(policy.act(x), ours(x), rtol=0, atol=1e-6)
    missing = [name for name, p in policy.named_parameters() if not optimizers[0].state[p]]
    assert missing == ["actor.0.weight", "critic.0.weight"]
    state = load_state(train_run.state_file, CPU)
    own = state["optimizer_state_dict"]["state"]
    assert torch.equal(optimizers[0].state[policy.std]["exp_avg_sq"], own[0]["exp_avg_sq"])
    assert torch.equal(optimizers[0].state[policy.critic[4].weight]["exp_avg"], own[11]["exp_avg"])
    head, stacked = world_model.state_heads[1].state_mean_layers[0], "state_head.mean.weight_0"
    number = [n for n, _ in load_model(train_run.model_file).named_parameters()].index(stacked)
    moment = state["model_optimizer"]["state"][number]["exp_avg_sq"]
    assert torch.equal(optimizers[1].state[head.weight]["exp_avg_sq"], moment[1].T)
    gradients(policy.parameters(), 1)
    gradients(world_model.parameters(), 1)
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("keep", [False, True])
def test_out_and_in_again_is_the_same_training(train_run, home, tmp_path, keep):
    export_training(train_run, tmp_path / "out.pt", keep)
    again = keep_training(home, import_training(tmp_path / "out.pt", history=M), "out.pt")
    equal(load_model(again.model_file).state_dict(), load_model(train_run.model_file).state_dict())
    policies = [load_policy(run.policy_file) for run in (train_run, again)]
    x = policies[0].mean + policies[0].scale * torch.randn(64, 48)
    with torch.no_grad():
        torch.testing.assert_close(policies[1](x), policies[0](x), rtol=0, atol=1e-6)
    before, after = (load_state(run.state_file, CPU) for run in (train_run, again))
    equal_moments(before["model_optimizer"], after["model_optimizer"])
    if keep:
        equal_moments(before["optimizer_state_dict"], after["optimizer_state_dict"])
        for network in ("actor_state_dict", "critic_state_dict"):
            equal(before[network], after[network])
    else:
        kept = after["optimizer_state_dict"]["state"]
        assert [k for k in before["optimizer_state_dict"]["state"] if k not in kept] == [1, 7]
        for number in kept:
            equal(kept[number], before["optimizer_state_dict"]["state"][number])
    assert before["completed"] == after["completed"] == 2


def test_a_model_file_of_other_weights_than_the_state_has_no_moments(train_run, tmp_path):
    model = load_model(train_run.model_file)
    with torch.no_grad():
        model.state_head.min_log_std.add_(1)
    save_model(model, train_run.model_file)
    notes = export_training(train_run, tmp_path / "out.pt")
    assert any("other weights" in note for note in notes)
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert content["system_dynamics_optimizer_state_dict"] == {} and content["optimizer_state_dict"]["state"]


class Recurrent(ActorCritic):
    def __init__(self):
        super().__init__()
        self.memory_a = nn.GRU(48, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ActorCritic(observations=235), "reads 235 numbers and returns 12, the robot's reads 48"),
        (lambda: ActorCritic(actions=24), "returns 24"),
        (Recurrent, r"is recurrent \(memory_a.weight_ih_l0\)"),
        (lambda: nn.ModuleDict({"student": nn.Linear(2, 2)}), "no plain actor and critic"),
    ],
)
def test_a_policy_that_does_not_fit_is_named_and_left_out(six_keys, home, make, said):
    checkpoint(six_keys, make())
    training = import_training(six_keys, history=M)
    assert training.policy is None and training.state is None
    assert keep_training(home, training, "a.pt").kind == "model"
    with pytest.raises(RwmError, match=said):
        import_training(six_keys, history=M, with_policy=True)
    (note,) = training.notes
    assert note.startswith("the policy is left out")


def test_a_policy_that_is_not_finite_or_has_its_normaliser_elsewhere_is_left_out(six_keys):
    policy = ActorCritic()
    checkpoint(six_keys, policy, obs_norm_state_dict={"_mean": torch.zeros(1, 48)})
    assert "obs_norm_state_dict" in import_training(six_keys, history=M).notes[0]
    broken = {k: v * torch.nan for k, v in policy.state_dict().items()}
    checkpoint(six_keys, policy, model_state_dict=broken)
    assert "not finite" in import_training(six_keys, history=M).notes[0]


def test_a_critic_of_other_observations_is_left_out_with_the_optimisers(six_keys, home):
    policy, *_ = checkpoint(six_keys, ActorCritic(critic_observations=60))
    training = import_training(six_keys, history=M, activation="elu")
    assert "its critic reads 60" in training.notes[0] and training.state is None
    run = keep_training(home, training, "a.pt")
    assert run.kind == "train" and not run.state_file.exists()
    x = torch.randn(3, 48)
    with torch.no_grad():
        torch.testing.assert_close(load_policy(run.policy_file)(x), policy.act(x), rtol=0, atol=1e-6)


def test_a_logarithmic_std_is_taken_over_without_its_moments(six_keys):
    policy = ActorCritic()
    policy.log_std = nn.Parameter(torch.full((12,), -1.0))
    del policy.std
    checkpoint(six_keys, policy)
    state = import_training(six_keys, history=M).state
    torch.testing.assert_close(state["actor_state_dict"]["distribution.std_param"], policy.log_std.exp())
    assert 0 not in state["optimizer_state_dict"]["state"] and 1 in state["optimizer_state_dict"]["state"]


def other_steps(state):
    state["state"][11]["step"] += 1  # A layer of the first member alone.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["param_groups"][0]["params"].pop(), "parameters, not of"),
        (lambda s: s["param_groups"].append(dict(s["param_groups"][0])), "one group"),
        (lambda s: s["state"][0].pop("exp_avg_sq"), "not what Adam keeps"),
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(3)), "not of the shape"),
        (lambda s: s["state"][0]["exp_avg"].fill_(torch.nan), "not finite"),
        (other_steps, "other numbers of steps"),
    ],
)
def test_moments_that_do_not_fit_are_left_out_and_the_optimiser_still_loads(six_keys, change, said):
    _, _, _, optimizer = checkpoint(six_keys)
    state = optimizer.state_dict()
    change(state)
    checkpoint(six_keys, system_dynamics_optimizer_state_dict=state)
    training = import_training(six_keys, history=M, activation="elu")
    (note,) = training.notes
    assert said in note and "world model" in note
    assert training.state["model_optimizer"]["state"] == {}
    torch.optim.Adam(training.model.parameters()).load_state_dict(training.state["model_optimizer"])
    assert len(training.state["optimizer_state_dict"]["state"]) == 13


def test_empty_entries_still_come_in(six_keys):
    empty = dict.fromkeys(("model_state_dict", "optimizer_state_dict", "system_dynamics_optimizer_state_dict"), {})
    checkpoint(six_keys, **empty)
    training = import_training(six_keys, history=M)
    assert training.policy is None and training.notes == ()
    checkpoint(six_keys, optimizer_state_dict={}, system_dynamics_optimizer_state_dict={})
    training = import_training(six_keys, history=M, activation="elu")
    assert training.policy and training.notes == ()
    torch.optim.Adam(training.model.parameters()).load_state_dict(training.state["model_optimizer"])


def test_the_command_line_takes_both_in_and_out(rwm, home, six_keys, tmp_path):
    checkpoint(six_keys)
    made = json.loads(rwm("model", "import", six_keys, "--history", M, "--json"))
    run = home.run("train", made["run"])
    assert made["kind"] == "train" and made["policy"] == "48 x 16 x 8 x 12, elu"
    assert made["notes"] == [ASSUMED]
    assert training_of(run.model_file).id == run.id and training_of(run.policy_file) is None
    for index, name in enumerate((run.id, run.model_file)):
        json.loads(rwm("model", "export", name, "--out", tmp_path / f"{index}.pt", "--json"))
    assert (tmp_path / "0.pt").read_bytes() == (tmp_path / "1.pt").read_bytes()
    content = torch.load(tmp_path / "0.pt", weights_only=True)
    assert content["model_state_dict"] and content["system_dynamics_optimizer_state_dict"]["state"]
    alone = json.loads(rwm("model", "import", six_keys, "--history", M, "--only-model", "--json"))
    assert alone["kind"] == "model"
    with pytest.raises(RwmError, match="model alone"):
        rwm("model", "export", alone["run"], "--keep-normalizers", "--out", tmp_path / "c.pt")
    with pytest.raises(RwmError, match="model alone"):
        rwm("model", "import", run.model_file, "--with-policy")
    checkpoint(six_keys, model_state_dict={})
    with pytest.raises(RwmError, match="there is none"):
        rwm("model", "import", six_keys, "--history", M, "--with-policy")
    with pytest.raises(RwmError, match="without --activation"):
        rwm("model", "import", run.model_file, "--activation", "elu")
