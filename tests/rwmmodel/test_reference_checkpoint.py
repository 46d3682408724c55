"""The authors' checkpoints: a slow model written down from the formulas, with their key names, says what ours says."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rwmdata.errors import RwmError
from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.reference_checkpoint import export_reference, import_reference, to_reference

S, A, C, M = 45, 12, 8, 6


def perceptron(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Memory(nn.Module):
    def __init__(self, kind, hidden):
        super().__init__()
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](S + A, hidden, 2, batch_first=True)


class RecurrentBase(nn.Module):
    def __init__(self, kind, hidden):
        super().__init__()
        self.memory = Memory(kind, hidden)

    def forward(self, pairs):
        return self.memory.rnn(pairs)[0][:, -1]


class MlpBase(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(M * (S + A), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())

    def forward(self, pairs):
        return self.layers(pairs[:, -M:].flatten(1))


class StateHead(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.state_mean_layers = perceptron(hidden, 10, S)
        self.state_logstd_layers = perceptron(hidden, 10, S)
        self.state_min_logstd = nn.Parameter(torch.full((1, S), -5.0))
        self.state_log_delta_logstd = nn.Parameter(torch.rand(1, S) - 0.5)


class AuxiliaryHead(nn.Module):
    def __init__(self, hidden, extension):
        super().__init__()
        self.contact_layers = perceptron(hidden, 10, C)
        self.termination_layers = perceptron(hidden, 10, 1)
        if extension:
            self.extension_layers = perceptron(hidden, 10, extension)


class Slow(nn.Module):
    """Section by section what the method says, one member after the other, the whole history every time."""

    def __init__(self, kind, members, extension=0, hidden=16):
        super().__init__()
        torch.manual_seed(0)
        build = (lambda: MlpBase(hidden)) if kind == "mlp" else (lambda: RecurrentBase(kind, hidden))
        self.state_base, self.auxiliary_base = build(), build()
        self.state_heads = nn.ModuleList(StateHead(hidden) for _ in range(members))
        self.auxiliary_heads = nn.ModuleList(AuxiliaryHead(hidden, extension) for _ in range(members))

    def predict(self, states, actions):
        pairs = torch.cat((states, actions), dim=-1)
        features, aux = self.state_base(pairs), self.auxiliary_base(pairs)
        means, stds = [], []
        for head in self.state_heads:
            means.append(head.state_mean_layers(features) + states[:, -1])
            low = head.state_min_logstd
            high = low + torch.exp(head.state_log_delta_logstd)
            log_std = high - F.softplus(high - head.state_logstd_layers(features))
            stds.append(torch.exp(low + F.softplus(log_std - low)))
        heads = self.auxiliary_heads
        found = {
            "state": torch.stack(means), "std": torch.stack(stds),
            "contact": torch.stack([h.contact_layers(aux) for h in heads]),
            "termination": torch.stack([h.termination_layers(aux) for h in heads]),
        }  # fmt: skip
        if hasattr(heads[0], "extension_layers"):
            found["extension"] = torch.stack([h.extension_layers(aux) for h in heads])
        return found


def checkpoint(path, slow, **more):
    policy = {"actor.0.weight": torch.zeros(2, 2), "critic.0.weight": torch.zeros(2, 2), "std": torch.ones(2)}
    torch.save({"model_state_dict": policy, "system_dynamics_state_dict": slow.state_dict(), "iter": 7, **more}, path)
    return path


CASES = [("gru", 5, 0), ("gru", 1, 0), ("lstm", 2, 3), ("mlp", 3, 0)]


@pytest.mark.parametrize(("kind", "members", "extension"), CASES)
def test_an_imported_model_predicts_what_the_formulas_say(tmp_path, kind, members, extension):
    slow = Slow(kind, members, extension)
    model = import_reference(checkpoint(tmp_path / "model_7.pt", slow), history=M)
    c = model.config
    assert (c.base, c.members, c.history, c.state_dim, c.action_dim, c.contact_dim) == (kind, members, M, S, A, C)
    assert c.extension_dim == extension and not model.training
    assert model.normalizer.state_std[0] == 0.5 and model.info.robot == "anymal_d"
    states, actions = torch.randn(4, M + 3, S), torch.randn(4, M + 3, A)
    ids = torch.tensor([0, members - 1, members // 2, 0])
    with torch.no_grad():
        carry = model.warm_up(states[:, : M - 1], actions[:, : M - 1])
        for row in range(M - 1, M + 2):
            expected = slow.predict(states[:, : row + 1], actions[:, : row + 1])
            mean, _ = model.step(states[:, row], actions[:, row], carry)
            own, carry = model.step(states[:, row], actions[:, row], carry, ids)
            seen = [(mean, own)]
            if row == M - 1:
                first = model(states[:, :M], actions[:, :M]), model(states[:, :M], actions[:, :M], ids)
                seen.append(first)
            for average, followed in seen:
                for name, value in expected.items():
                    torch.testing.assert_close(getattr(average, name), value.mean(0), atol=1e-5, rtol=0)
                    member = value[ids, torch.arange(4)]
                    torch.testing.assert_close(getattr(followed, name), member, atol=1e-5, rtol=0)
                spread = torch.zeros(4) if members == 1 else expected["state"].std(0).sum(-1)
                torch.testing.assert_close(average.epistemic, spread, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(average.aleatoric, expected["std"].sum(-1).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "members", "extension"), CASES)
def test_there_and_back_is_the_identity(tmp_path, kind, members, extension):
    slow = Slow(kind, members, extension)
    model = import_reference(checkpoint(tmp_path / "a.pt", slow), history=M)
    export_reference(model, tmp_path / "b.pt")
    written = torch.load(tmp_path / "b.pt", weights_only=True)["system_dynamics_state_dict"]
    original = slow.state_dict()
    assert written.keys() == original.keys()
    assert all(torch.equal(written[k], original[k]) for k in original)
    again = import_reference(tmp_path / "b.pt", history=M)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_the_default_ensemble_has_the_published_names_shapes_and_size():
    model = DynamicsEnsemble(EnsembleConfig(state_dim=45, action_dim=12, contact_dim=8))
    weights = to_reference(model.state_dict())
    assert weights["state_base.memory.rnn.weight_ih_l0"].shape == (768, 57)
    assert weights["auxiliary_base.memory.rnn.weight_hh_l1"].shape == (768, 256)
    assert weights["state_heads.4.state_mean_layers.0.weight"].shape == (128, 256)
    assert weights["state_heads.0.state_logstd_layers.2.bias"].shape == (45,)
    assert weights["state_heads.0.state_min_logstd"].shape == (1, 45)
    assert weights["auxiliary_heads.3.termination_layers.2.weight"].shape == (1, 128)
    assert sum(w.numel() for w in weights.values()) == 1_995_569


def broken(path, change):
    weights = Slow("gru", 2).state_dict()
    change(weights)
    torch.save({"system_dynamics_state_dict": weights}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.save({"model_state_dict": {"actor.0.weight": torch.zeros(1)}}, p), "holds a policy"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        (lambda p: p.write_bytes(b"\x80\x02garbage"), "not a torch file of tensors"),
        (lambda p: torch.save(Slow, p), "Slow, which only code could restore"),
        (lambda p: torch.save([1], p), "holds a list"),
        (lambda p: torch.save({"a": 1}, p), "holds no world model; it has the keys a"),
        (lambda p: None, "There is no checkpoint file"),
        (lambda p: broken(p, lambda w: w.pop("state_heads.1.state_mean_layers.2.bias")), "missing: state_heads.1"),
        (lambda p: broken(p, lambda w: w.update({"state_base.x": torch.ones(1)})), "not expected: state_base.x"),
        (lambda p: broken(p, lambda w: w["state_heads.0.state_min_logstd"].fill_(torch.nan)), "not finite"),
        (lambda p: broken(p, lambda w: w.pop("state_heads.0.state_min_logstd")), "state_min_logstd is missing"),
    ],
)  # fmt: skip
def test_what_is_no_world_model_is_named_for_what_it_is(tmp_path, make, message):
    make(tmp_path / "model.pt")
    with pytest.raises(RwmError) as caught:
        import_reference(tmp_path / "model.pt", history=M)
    assert message in caught.value.message and "model.pt" in caught.value.message


def test_a_model_of_another_robot_is_refused(tmp_path):
    with pytest.raises(RwmError, match="'contact': 8"):
        slow = Slow("gru", 1)
        slow.auxiliary_heads[0].contact_layers = perceptron(16, 10, 4)
        import_reference(checkpoint(tmp_path / "a.pt", slow), history=M)


def test_independent_members_have_no_place_in_a_reference_checkpoint(tmp_path):
    config = EnsembleConfig(state_dim=45, action_dim=12, contact_dim=8, hidden=4, shared_base=False)
    with pytest.raises(RwmError, match="share their bases"):
        export_reference(DynamicsEnsemble(config), tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_the_command_line_imports_shows_and_exports(rwm, home, tmp_path):
    def model_command(*words):
        return json.loads(rwm("model", *words, "--json"))

    slow = Slow("gru", 2)
    made = model_command("import", checkpoint(tmp_path / "a.pt", slow), "--history", M)
    assert (made["base"], made["members"], made["history"]) == ("gru, 16 x 2", "2, sharing one base", M)
    assert model_command("info")["dataset"] == "imported from a.pt"
    model_command("export", "--out", tmp_path / "b.pt")
    written = torch.load(tmp_path / "b.pt", weights_only=True)["system_dynamics_state_dict"]
    assert all(torch.equal(written[k], v) for k, v in slow.state_dict().items())
    model = load_model(home.run("model").model_file)
    save_model(model, tmp_path / "c.safetensors")
    assert model_command("info", tmp_path / "c.safetensors")["parameters"] == model.parameter_count


@pytest.mark.parametrize(
    ("options", "said"),
    [({"prior_scale": 1.0}, "priors"), ({"base": "rssm"}, "rssm"), ({"auxiliary_hidden": 2}, "are of one width")],
)
def test_what_the_reference_has_no_place_for_is_not_exported(make_model, tmp_path, options, said):
    with pytest.raises(RwmError, match=said):
        export_reference(make_model(**options), tmp_path / "model.pt")
