"""Every formula of the ensemble against a slow, obvious twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwmdata.errors import RwmError
from rwmmodel.ensemble import Carry, DynamicsEnsemble, EnsembleConfig
from rwmmodel.normalizer import Normalizer

BASES = ("gru", "lstm", "mlp", "transformer", "rssm")


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def history(batch=4, rows=6):
    g = torch.Generator().manual_seed(0)
    states = torch.randn(batch, rows, 5, generator=g, dtype=torch.float64)
    return states, torch.randn(batch, rows, 2, generator=g, dtype=torch.float64)


def gru_by_hand(rnn, inputs):
    """Two stacked GRU layers, one environment and one row at a time; the newest output."""
    outputs = []
    for sequence in inputs:
        for layer in range(2):
            w_i, w_h, b_i, b_h = (
                getattr(rnn, f"{n}_l{layer}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, seen = torch.zeros(rnn.hidden_size, dtype=inputs.dtype), []
            for x in sequence:
                r_i, z_i, n_i = (w_i @ x + b_i).chunk(3)
                r_h, z_h, n_h = (w_h @ h + b_h).chunk(3)
                r, z = torch.sigmoid(r_i + r_h), torch.sigmoid(z_i + z_h)
                h = (1 - z) * torch.tanh(n_i + r * n_h) + z * h
                seen.append(h)
            sequence = torch.stack(seen)
        outputs.append(sequence[-1])
    return torch.stack(outputs)


def mlp_of(stack, member, x):
    return torch.relu(x @ stack.weight_0[member] + stack.bias_0[member]) @ stack.weight_1[member] + stack.bias_1[member]


def predict_by_hand(model, states, actions):
    """Means, stds, contact, termination and extension of every member, as lists over members."""
    pairs = torch.cat((states, actions), dim=-1)
    features, aux = (gru_by_hand(base.rnn, pairs) for base in (model.state_base, model.auxiliary_base))
    head, auxiliary = model.state_head, model.auxiliary_head
    means, stds = [], []
    for b in range(model.config.members):
        means.append(mlp_of(head.mean, b, features) + states[:, -1])
        raw = mlp_of(head.log_std, b, features)
        s_min = head.min_log_std[b]
        s_max = s_min + torch.exp(head.log_delta[b])
        bounded = s_max - F.softplus(s_max - raw)
        stds.append(torch.exp(s_min + F.softplus(bounded - s_min)))
    parts = [auxiliary.contact, auxiliary.termination, auxiliary.extension]
    return means, stds, [[mlp_of(p, b, aux) for b in range(model.config.members)] for p in parts]


@pytest.mark.parametrize("auxiliary_hidden", [None, 5])
def test_mean_mode_follows_the_formulas(make_model, auxiliary_hidden):
    model, (states, actions) = make_model(auxiliary_hidden=auxiliary_hidden), history()
    assert model.auxiliary_base.width == (auxiliary_hidden or model.config.hidden)
    means, stds, (contact, termination, extension) = predict_by_hand(model, states, actions)
    got = model(states, actions)
    close(got.state, sum(means) / 3)
    close(got.std, sum(stds) / 3)
    close(got.contact, sum(contact) / 3)
    close(got.termination, sum(termination) / 3)
    close(got.member_termination, torch.stack(termination))
    close(got.extension, sum(extension) / 3)
    close(got.aleatoric, sum(s.sum(dim=-1) for s in stds) / 3)
    for e in range(4):
        spread = [np.std([m[e, d].item() for m in means], ddof=1) for d in range(5)]
        assert got.epistemic[e].item() == pytest.approx(sum(spread), abs=1e-12)


def test_member_mode_gives_each_environment_its_own_member(make_model):
    model, (states, actions) = make_model(), history()
    ids = torch.tensor([2, 0, 1, 2])
    means, stds, (contact, termination, extension) = predict_by_hand(model, states, actions)
    got, mean_mode = model(states, actions, ids), model(states, actions)
    for e, b in enumerate(ids):
        close(got.state[e], means[b][e])
        close(got.std[e], stds[b][e])
        close(got.contact[e], contact[b][e])
        close(got.termination[e], termination[b][e])
        close(got.extension[e], extension[b][e])
    close(got.epistemic, mean_mode.epistemic, 0)
    close(got.aleatoric, mean_mode.aleatoric, 0)


@pytest.mark.parametrize("hidden", [{"hidden": 6}, {"hidden": 8, "auxiliary_hidden": 6}])
def test_attention_heads_share_the_features_of_both_bases(make_model, hidden):
    with pytest.raises(ValueError, match=r"hidden \(6\) is not a multiple of attention_heads \(4\)"):
        make_model("transformer", **hidden)


def test_std_starts_inside_its_bounds():
    config = EnsembleConfig(state_dim=45, action_dim=12, contact_dim=8)
    head = DynamicsEnsemble(config).state_head
    assert torch.all(head.min_log_std == -5) and torch.all(head.max_log_std == -4)
    _, std = head(100 * torch.randn(7, 256), torch.zeros(7, 45))
    # Both soft bounds overshoot by at most softplus(-width) when the raw output is far outside.
    assert std.log().min() >= -5 and std.log().max() <= -4 + math.log1p(math.exp(-1))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("ids", [None, torch.tensor([2, 0, 1, 2])])
def test_warm_up_then_steps_equals_forward_on_the_longer_window(make_model, base, ids, shared):
    model, (states, actions) = make_model(base, shared_base=shared), history(rows=9)
    carry = model.warm_up(states[:, :5], actions[:, :5])
    for newest in (5, 6, 7, 8):
        got, carry = model.step(states[:, newest], actions[:, newest], carry, ids)
        first = newest - 5 if base == "mlp" else 0  # an mlp sees exactly M pairs, a recurrent base all so far
        full = model(states[:, first : newest + 1], actions[:, first : newest + 1], ids)
        for name in ("state", "std", "aleatoric", "epistemic", "extension", "contact", "termination", "member_mean"):
            close(getattr(got, name), getattr(full, name))


@pytest.mark.parametrize("base", BASES)
def test_an_independent_member_is_an_ensemble_of_one(make_model, base):
    """Member 1 of three, its own base and heads put into a model of a single member, predicts the same."""
    many, (states, actions) = make_model(base, shared_base=False), history()
    single = make_model(base, members=1)
    own = {}
    for name, tensor in many.state_dict().items():
        if ".members.1." in name:
            own[name.replace(".members.1.", ".")] = tensor
        elif "_head." in name:
            own[name] = tensor[1:2]
        elif name.startswith("normalizer."):
            own[name] = tensor
    single.load_state_dict(own)
    ids = torch.ones(4, dtype=torch.int64)
    ours, alone = many(states, actions, ids), single(states, actions)
    for name in ("state", "std", "contact", "termination", "extension"):
        close(getattr(ours, name), getattr(alone, name))
    assert (many(states, actions).epistemic > 0).all()


def test_mlp_base_flattens_the_history(make_model):
    model, (states, actions) = make_model("mlp"), history()
    x = torch.cat((states, actions), dim=-1).reshape(4, 6 * 7)
    for layer in (model.state_base.layers[0], model.state_base.layers[2]):
        x = torch.relu(x @ layer.weight.T + layer.bias)
    close(model(states, actions).member_mean[1], mlp_of(model.state_head.mean, 1, x) + states[:, -1])


def test_a_single_member_has_no_epistemic_uncertainty(make_model):
    got = make_model(members=1)(*history())
    assert torch.equal(got.epistemic, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(got.state, got.member_mean[0])


def test_the_default_ensemble_has_the_published_size():
    assert DynamicsEnsemble(EnsembleConfig(state_dim=45, action_dim=12, contact_dim=8)).parameter_count == 1_995_569


def test_without_extension_there_is_none(make_model):
    assert make_model(extension_dim=0)(*history()).extension is None


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("base", BASES)
def test_replaced_environments_go_on_from_their_new_history(make_model, base, shared):
    model, (states, actions) = make_model(base, shared_base=shared), history()
    carry = model.warm_up(states[:, :5], actions[:, :5])
    new = model.warm_up(-states[[1, 3], :5], actions[[1, 3], :5])
    mixed = carry.replace(torch.tensor([1, 3]), new)
    old_way = model.step(states[:, 5], actions[:, 5], carry)[0]
    got = model.step(states[:, 5], actions[:, 5], mixed)[0]
    expected = model.step(states[[1, 3], 5], actions[[1, 3], 5], new)[0]
    close(got.state[[0, 2]], old_way.state[[0, 2]])
    close(got.state[[1, 3]], expected.state)
    close(got.contact[[1, 3]], expected.contact)


def test_auxiliary_outputs_are_refused_once_their_memory_is_lost(make_model):
    model, (states, actions) = make_model(), history()
    carry = model.warm_up(states[:, :5], actions[:, :5])
    without, lighter = model.step(states[:, 5], actions[:, 5], carry, aux=False)
    assert without.contact is None and without.termination is None
    close(without.state, model(states, actions).state)
    with pytest.raises(RwmError, match="auxiliary"):
        model.step(states[:, 5], actions[:, 5], lighter)
    with pytest.raises(RwmError, match="auxiliary"):
        carry.replace(torch.tensor([0]), Carry(tuple(c[:1] for c in carry.state), None))


def test_mlp_base_refuses_a_short_history(make_model):
    states, actions = history(rows=5)
    with pytest.raises(RwmError, match="needs 6 pairs"):
        make_model("mlp")(states, actions)


@pytest.mark.parametrize("base", ("gru", "mlp"))
def test_bfloat16_bases_stay_near_float32(make_model, base):
    model, (states, actions) = make_model(base).float(), history()
    states, actions = states.float(), actions.float()
    exact = model(states, actions)
    model.precision = "tf32"  # A matter of CUDA's own: the bases do the same.
    assert torch.equal(model(states, actions).state, exact.state)
    model.precision = "bfloat16"
    got, carry = model.step(states[:, 5], actions[:, 5], model.warm_up(states[:, :5], actions[:, :5]))
    assert got.state.dtype == torch.float32 and carry.state[0].dtype == torch.float32
    close(got.state, exact.state, 0.02)
    assert not torch.equal(got.state, exact.state)


def test_normaliser_maps_both_ways():
    mean, std = np.array([1, 2, 3], np.float32), np.array([2, 4, 0.5], np.float32)
    normalizer = Normalizer(2, 1, mean, std)
    assert normalizer.state(torch.tensor([[3.0, -2.0]])).tolist() == [[1.0, -1.0]]
    assert normalizer.action(torch.tensor([[4.0]])).tolist() == [[2.0]]
    assert normalizer.denorm_state(torch.tensor([1.0, -1.0])).tolist() == [3.0, -2.0]
    assert normalizer.denorm_action(torch.tensor([2.0])).tolist() == [4.0]
    with pytest.raises(RwmError, match="positive"):
        Normalizer(2, 1, mean, np.array([1, 0, 1]))
    with pytest.raises(RwmError, match="2 means"):
        Normalizer(2, 1, mean[:2], std)


def test_a_randomised_prior_joins_the_mean_and_never_learns(make_model):
    model, (states, actions) = make_model(prior_scale=0.5), history()
    pairs = torch.cat((states, actions), dim=-1)
    features = gru_by_hand(model.state_base.rnn, pairs)
    head = model.state_head
    for b in range(3):
        expected = mlp_of(head.mean, b, features) + 0.5 * mlp_of(head.prior, b, features) + states[:, -1]
        close(model(states, actions).member_mean[b], expected)
    assert not any(p.requires_grad for p in head.prior.parameters())
    assert model.parameter_count == make_model().parameter_count
    assert "state_head.prior.weight_0" in model.state_dict()


@pytest.mark.parametrize("ids", [None, torch.tensor([2, 0, 1, 2])])
def test_a_bounded_models_states_stay_in_their_range_but_not_its_uncertainty(make_model, ids):
    free, model, (states, actions) = make_model(), make_model(bounded=True), history()
    assert not hasattr(free, "state_low") and torch.isinf(model.state_low).all()
    close(model(states, actions, ids).state, free(states, actions, ids).state, 0)
    model.state_low.fill_(-0.1)
    model.state_high.copy_(torch.tensor([0.1, 0.2, 0.3, 9.0, 9.0]))
    got, open_ended = model(states, actions, ids), free(states, actions, ids)
    close(got.state, open_ended.state.clamp(model.state_low, model.state_high), 0)
    assert not torch.equal(got.state, open_ended.state)
    close(got.epistemic, open_ended.epistemic, 0)
    close(got.member_mean, open_ended.member_mean, 0)
