"""Policies trained elsewhere act as the networks they were saved from; what cannot be played is named."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmrl.foreign_policy import Reading, agent_of, assumptions, read_foreign
from rwmrl.policy_file import load_policy
from rwmrl.policy_network import ACTIVATIONS

O, A = 48, 12  # noqa: E741


def network(activation=nn.ELU, outputs=A, inputs=O):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 8), activation(), nn.Linear(8, 6), activation(), nn.Linear(6, outputs)
    ).eval()


ACTOR, CRITIC = network(), network(outputs=1)
MEAN, STD = torch.linspace(-1, 1, O)[None], torch.linspace(0.1, 2, O)[None]
STATISTICS = {"_mean": MEAN, "_var": STD.square(), "_std": STD, "count": torch.tensor(9)}
REST = {"optimizer_state_dict": {"state": {}, "param_groups": []}, "iter": np.int64(99), "infos": None}


def named(prefix, of):
    return {f"{prefix}{k}": v for k, v in (of if isinstance(of, dict) else of.state_dict()).items()}


OLD = {"std": torch.ones(A), **named("actor.", ACTOR), **named("critic.", CRITIC)}
NEW = {"distribution.std_param": torch.ones(A), **named("mlp.", ACTOR)}
NORMALIZER = named("actor_obs_normalizer.", STATISTICS)
CHECKPOINTS = {
    "rsl_rl 1, legged_gym": (False, {"model_state_dict": OLD}),
    "rsl_rl 2": (True, {"model_state_dict": OLD, "obs_norm_state_dict": STATISTICS}),
    "rsl_rl 3": (True, {"model_state_dict": OLD | NORMALIZER | named("critic_obs_normalizer.", STATISTICS)}),
    "rsl_rl 3, log_std": (
        False, {"model_state_dict": {"log_std": torch.zeros(A), **{k: v for k, v in OLD.items() if k != "std"}}}
    ),
    "rsl_rl 5": (False, {"actor_state_dict": NEW, "critic_state_dict": named("mlp.", CRITIC)}),
    "rsl_rl 5, normalised": (True, {"actor_state_dict": NEW | named("obs_normalizer.", STATISTICS)}),
    "a distilled student": (False, {"model_state_dict": named("student.", ACTOR) | named("teacher.", CRITIC)}),
    "compiled": (True, {"model_state_dict": named("_orig_mod.", OLD | NORMALIZER)}),
    "data-parallel": (False, {"actor_state_dict": named("module.", NEW)}),
    "state dict alone": (False, OLD),
    "network alone": (False, ACTOR.state_dict()),
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model_99.pt"


@torch.no_grad()
def expected(x, normalised=False, actor=ACTOR):
    return actor((x - MEAN) / (STD + 0.01)) if normalised else actor(x)


@pytest.mark.parametrize("kind", CHECKPOINTS)
@torch.no_grad()
def test_a_checkpoint_acts_as_its_actor(file, robot, kind):
    normalised, content = CHECKPOINTS[kind]
    alone = kind.endswith("alone")
    torch.save(content if alone else content | REST, file)
    policy, x = load_policy(file, robot), torch.randn(5, O)
    torch.testing.assert_close(policy(x), expected(x, normalised), rtol=0, atol=2e-6)
    assert policy.info.hidden_dims == (8, 6) and policy.info.activation == "elu" and "model_99.pt" in policy.info.source
    assert policy.info.joints == tuple(robot.joints) and policy.info.action_scale == robot.action_scale


def test_tensors_alone_may_be_safetensors(tmp_path, robot):
    save_file({k: v.detach().clone() for k, v in OLD.items()}, tmp_path / "actor.safetensors")
    x = torch.randn(2, O)
    torch.testing.assert_close(load_policy(tmp_path / "actor.safetensors", robot)(x), ACTOR(x), rtol=0, atol=1e-6)
    assert "activation elu" in assumptions(tmp_path / "actor.safetensors")


@torch.no_grad()
def test_of_mean_and_deviation_the_mean_is_taken(file, robot):
    wide = network(outputs=2 * A)
    torch.save({"actor_state_dict": named("mlp.", wide)}, file)
    x = torch.randn(3, O)
    torch.testing.assert_close(load_policy(file, robot)(x), wide(x)[:, :A], rtol=0, atol=1e-6)


LSTM = named("memory_a.rnn.", nn.LSTM(O, 8))
REFUSED = {
    "LSTM": ({"model_state_dict": OLD | LSTM}, r"recurrent \(LSTM, memory_a\): it keeps a state between steps"),
    "GRU": ({"actor_state_dict": NEW | named("rnn.rnn.", nn.GRU(O, 8))}, r"recurrent \(GRU, rnn\)"),
    "other observations": (
        {"model_state_dict": named("actor.", network(inputs=45))},
        "reads 45 observations and gives 12 actions, robot 'anymal_d' has 48 and 12",
    ),
    "other joints": ({"model_state_dict": named("actor.", network(outputs=19))}, "gives 19 actions"),
    "an estimator": ({"model_state_dict": OLD | {"estimator.0.weight": torch.ones(1)}}, "parts .* estimator.0.weight"),
    "normed layers": ({"model_state_dict": named("actor.", nn.Sequential(nn.Linear(O, 8), nn.LayerNorm(8)))}, "plain"),
    "not finite": ({"model_state_dict": named("actor.", {k: v / 0 for k, v in ACTOR.state_dict().items()})}, "finite"),
    "a world model": (
        {"system_dynamics_state_dict": {"state_base.x": torch.ones(1)}},
        "holds a world model and no pol",
    ),
    "an optimiser": ({"optimizer_state_dict": REST["optimizer_state_dict"]}, "not a policy .* state of an optimiser"),
    "another library": ({"policy": {"net.0.weight": torch.ones(1)}}, "not a policy .* has the keys policy"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_played_is_named(file, robot, kind):
    content, said = REFUSED[kind]
    torch.save(content, file)
    with pytest.raises(RwmError, match=said) as error:
        load_policy(file, robot)
    assert "model_99.pt" in error.value.message and error.value.hint


def test_a_file_without_its_robot_needs_one(file):
    torch.save({"model_state_dict": OLD}, file)
    with pytest.raises(RwmError, match="does not say which robot's policy"):
        load_policy(file)


def test_the_activation_is_given_or_stands_in_isaac_labs_file(file, robot):
    torch.save({"model_state_dict": named("actor.", network(nn.Tanh))}, file)
    x = torch.randn(3, O)
    given = read_foreign(file, robot, Reading(activation="tanh"))
    torch.testing.assert_close(given(x), network(nn.Tanh)(x))
    assert "activation elu" in assumptions(file)
    (file.parent / "params").mkdir()
    agent = (
        "seed: 1\npolicy:\n  class_name: ActorCritic\n  activation: tanh\n  actor_hidden_dims: !!python/tuple [8, 6]\n"
    )
    (file.parent / "params" / "agent.yaml").write_text(agent)
    assert agent_of(file)["actor_hidden_dims"] == [8, 6] and "activation tanh by its" in assumptions(file)
    assert load_policy(file, robot).info.activation == "tanh"
    with pytest.raises(RwmError, match="Unknown activation 'sin'; activations: elu"):
        read_foreign(file, robot, Reading(activation="sin"))


@torch.no_grad()
def test_a_policy_of_legged_gym_sees_its_scales_and_its_order_of_joints(file):
    """Its observation, put together by names leg by leg; what it says of a joint is what that joint does."""
    robot, x = load_robot("go2"), torch.randn(4, O)
    torch.save({"model_state_dict": OLD}, file)
    legs = [f"{leg}_{part}" for leg in ("FL", "FR", "RL", "RR") for part in ("hip", "thigh", "calf")]
    at = {name: k for k, name in enumerate(robot.joints)}
    order = [at[name] for name in legs]
    theirs = [2.0 * x[:, :3], 0.25 * x[:, 3:6], x[:, 6:9], x[:, 9:12] * torch.tensor([2.0, 2.0, 0.25])]
    theirs += [x[:, 12:24][:, order], 0.05 * x[:, 24:36][:, order], x[:, 36:48][:, order]]
    actions = dict(zip(legs, ACTOR(torch.cat(theirs, dim=1)).T, strict=True))
    wanted = torch.stack([actions[name] for name in robot.joints], dim=1)
    policy = read_foreign(file, robot, Reading(layout="legged_gym"))
    torch.testing.assert_close(policy(x), wanted, rtol=0, atol=2e-6)


class Normalizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("_mean", MEAN.clone())
        self.register_buffer("_std", STD.clone())
        self.eps = 0.01

    def forward(self, x):
        return (x - self._mean) / (self._std + self.eps)


class Exported(nn.Module):
    """As Isaac Lab exports a policy."""

    def __init__(self, actor, normalizer):
        super().__init__()
        self.actor, self.normalizer = actor, normalizer

    def forward(self, x):
        return self.actor(self.normalizer(x))

    @torch.jit.export
    def reset(self):
        pass


class Halves(nn.Module):
    def forward(self, x):
        return x[..., 0, :]


def script(module, path, trace=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.trace(module, torch.zeros(1, O)) if trace else torch.jit.script(module)
        made.save(str(path))


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_a_torchscript_program_says_its_activation(file, robot, activation, trace):
    actor = network(ACTIVATIONS[activation])
    script(actor, file, trace)
    policy, x = load_policy(file, robot), torch.randn(4, O)
    torch.testing.assert_close(policy(x), actor(x), rtol=0, atol=1e-6)
    assert policy.info.activation == activation and policy.info.source.endswith("TorchScript")


@pytest.mark.parametrize("trace", [False, True])
@torch.no_grad()
def test_the_normaliser_of_an_exported_program_is_taken_over(file, robot, trace):
    script(Exported(ACTOR, Normalizer()), file, trace)
    x = torch.randn(4, O)
    torch.testing.assert_close(load_policy(file, robot)(x), expected(x, True), rtol=0, atol=2e-6)
    with pytest.raises(RwmError, match="its activation is elu, not relu"):
        read_foreign(file, robot, Reading(activation="relu"))


@torch.no_grad()
def test_other_ways_to_write_the_program_are_read(file, robot):
    wide = nn.Sequential(network(outputs=2 * A), nn.Unflatten(-1, [2, A]), Halves())
    frozen = torch.jit.freeze(torch.jit.script(ACTOR))
    x = torch.randn(4, O)
    for write, wanted in ((lambda: script(wide, file), wide(x)), (lambda: frozen.save(str(file)), ACTOR(x))):
        write()
        torch.testing.assert_close(load_policy(file, robot)(x), wanted, rtol=0, atol=1e-6)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory, self.actor = nn.LSTM(O, O), ACTOR
        self.register_buffer("hidden_state", torch.zeros(1, 1, O))
        self.register_buffer("cell_state", torch.zeros(1, 1, O))

    def forward(self, x):
        out, (h, c) = self.memory(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(out.squeeze(0))


class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = ACTOR

    def forward(self, x):
        return torch.clamp(self.actor(x), -1.0, 1.0)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = ACTOR

    def forward(self, x):
        if bool(x.sum() > 0):
            x = x + 1.0
        return self.actor(x)


class Writing(nn.Module):
    """A program that would write a file, were it run."""

    def __init__(self, path):
        super().__init__()
        self.actor, self.path = ACTOR, str(path)

    def forward(self, x):
        torch.save(x, self.path)
        return self.actor(x)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Recurrent, r"recurrent \(LSTM\)"),
        (Clipped, "uses clamp"),
        (Branching, "branches, loops or side effects"),
        (lambda: nn.Sequential(ACTOR, nn.Tanh()), "its actions pass through tanh"),
        (lambda: nn.Sequential(nn.Linear(O, 8), nn.ELU(alpha=0.5), nn.Linear(8, A)), "its elu has the numbers"),
        (lambda: nn.Identity(), "no linear layer"),
    ],
)
def test_a_program_that_is_no_plain_policy_is_refused(file, robot, module, said):
    script(module(), file)
    with pytest.raises(RwmError, match=said):
        load_policy(file, robot)


def test_a_program_is_read_and_not_run(file, robot, tmp_path):
    script(Writing(tmp_path / "written"), file)
    with pytest.raises(RwmError, match="cannot be used"):
        load_policy(file, robot)
    assert not (tmp_path / "written").exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_inside_a_program_is_not_executed(file, robot, tmp_path):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("policy/code/__torch__.py", "class Policy(Module):\n  pass\n")
        archive.writestr("policy/constants.pkl", pickle.dumps(()))
        archive.writestr("policy/data.pkl", pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(RwmError, match="it holds .*open"):
        load_policy(file, robot)
    assert not (tmp_path / "ran").exists()


def graph(path, *nodes, **weights):
    onnx = pytest.importorskip("onnx")
    tensors = [onnx.numpy_helper.from_array(v.detach().numpy(), k) for k, v in weights.items()]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("obs", "actions")]
    made = [onnx.helper.make_node(kind, given, [name], **more) for kind, given, name, more in nodes]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(made, "policy", ends[:1], ends[1:], tensors)), str(path))


LAYERS = {f"{part}{k}": ACTOR.state_dict()[f"{k}.{part}"] for k in (0, 2, 4) for part in ("weight", "bias")}
NODES = [
    ("Sub", ["obs", "mean"], "centred", {}), ("Div", ["centred", "std"], "x", {}),
    ("Gemm", ["x", "weight0", "bias0"], "a", {"transB": 1}), ("Elu", ["a"], "b", {"alpha": 1.0}),
    ("Transpose", ["weight2"], "t", {"perm": [1, 0]}), ("MatMul", ["b", "t"], "c", {}),
    ("Add", ["bias2", "c"], "d", {}), ("Elu", ["d"], "e", {}),
    ("Gemm", ["e", "weight4", "bias4"], "actions", {"transB": 1}),
]  # fmt: skip


@torch.no_grad()
def test_an_onnx_graph_is_followed(tmp_path, robot):
    path, x = tmp_path / "policy.onnx", torch.randn(4, O)
    graph(path, *NODES, mean=MEAN, std=STD + 0.01, **LAYERS)
    policy = load_policy(path, robot)
    torch.testing.assert_close(policy(x), expected(x, True), rtol=0, atol=2e-6)
    assert policy.info.activation == "elu" and policy.info.hidden_dims == (8, 6)


def test_an_onnx_graph_that_is_no_plain_policy_is_refused(tmp_path, robot):
    path = tmp_path / "policy.onnx"
    for node, said in (
        (("LSTM", ["obs", "weight0", "weight0"], "actions", {}), r"recurrent \(LSTM\)"),
        (("Clip", ["obs"], "actions", {}), "uses Clip"),
        (("Elu", ["obs"], "actions", {"alpha": 0.5}), "its Elu has alpha 0.5"),
    ):
        graph(path, node, **LAYERS)
        with pytest.raises(RwmError, match=said):
            load_policy(path, robot)


def test_an_imported_policy_is_a_run_that_every_command_takes(rwm, home, file):
    torch.save({"model_state_dict": OLD}, file)
    made = json.loads(rwm("import-policy", file, "--robot", "go2", "--layout", "legged_gym", "--json"))
    assert (made["robot"], made["network"]) == ("go2", "48 x 8 x 6 x 12")
    run = home.run("train", made["run"])
    assert run.meta.config == {"imported": "model_99.pt", "robot": "go2", "activation": None, "layout": "legged_gym"}
    x = torch.randn(2, O)
    wanted = read_foreign(file, load_robot("go2"), Reading(layout="legged_gym"))(x)
    assert torch.equal(load_policy(home.policy(run.id).file, "go2")(x), wanted)
    with pytest.raises(RwmError, match="--robot|which robot"):
        rwm("import-policy", file)
    with pytest.raises(RwmError, match="says itself"):
        rwm("import-policy", run.policy_file, "--activation", "relu")
