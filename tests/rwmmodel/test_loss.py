"""The vectorised loss against every member running every window on its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rwmdata.errors import RwmError
from rwmmodel.loss import LossConfig, draw_bootstrap, draw_noise, ensemble_loss

HISTORY, FORECAST, BATCH = 6, 4, 7


def mlp_of(stack, member, x):
    return torch.relu(x @ stack.weight_0[member] + stack.bias_0[member]) @ stack.weight_1[member] + stack.bias_1[member]


def state_head_of(model, member, features, last):
    head = model.state_head
    s_min = head.min_log_std[member]
    s_max = s_min + torch.exp(head.log_delta[member])
    raw = mlp_of(head.log_std, member, features)
    bounded = s_max - F.softplus(s_max - raw)
    return mlp_of(head.mean, member, features) + last, torch.exp(s_min + F.softplus(bounded - s_min))


def newest_features(base, states, actions, member):
    """Run a whole history from a zero state; no memory is kept between calls."""
    base = base.members[member] if hasattr(base, "members") else base
    return base.encode(torch.cat((states, actions), dim=-1), last=1)[0][:, 0]


def sequence_and_kl(model, w, config, b):
    """One-step error of every history row, and the divergence over what each base reads, of member ``b``."""
    sequence, pairs = 0.0, torch.cat((w.states[:, :-1], w.actions[:, 1:]), dim=-1)
    if config.sequence_weight_for(model.config.base):
        for row in range(1, HISTORY):
            features = newest_features(model.state_base, w.states[:, :row], w.actions[:, 1 : row + 1], b)
            mean, std = state_head_of(model, b, features, w.states[:, row - 1])
            error = (w.states[:, row] - mean) ** 2
            error = 0.5 * error / std**2 + torch.log(std) if config.kind == "nll" else error
            sequence += error.sum(dim=1).mean() / (HISTORY - 1)
    kl = 0.0
    if model.config.base == "rssm":
        for base, read in ((model.state_base, HISTORY + (FORECAST - 1 if config.teacher_forcing else 0)),
                           (model.auxiliary_base, HISTORY + FORECAST - 1)):  # fmt: skip
            base = base.members[b] if hasattr(base, "members") else base
            h = torch.zeros(BATCH, base.cell.hidden_size).double()
            for t in range(read):
                q = base.posterior(torch.cat((h, pairs[:, t, :5]), dim=-1)).chunk(2, dim=-1)
                p = base.prior(h).chunk(2, dim=-1)
                q, p = (torch.distributions.Normal(m, F.softplus(s) + 0.1) for m, s in (q, p))
                kl += torch.distributions.kl_divergence(q, p).sum(dim=1).mean() / read
                h = base.cell(torch.cat((q.mean, pairs[:, t, 5:]), dim=-1), h)
    return sequence, kl


def member_terms(model, w, config, eps, b):
    """Loss terms of member ``b`` on its own batch: full passes over growing histories."""
    state = contact = termination = extension = 0.0
    seen = w.states[:, :HISTORY]
    for i in range(FORECAST):
        row, alpha = HISTORY + i, config.decay**i / FORECAST
        first = i if model.config.base == "mlp" else 0
        features = newest_features(model.state_base, seen[:, first:], w.actions[:, first + 1 : row + 1], b)
        mean, std = state_head_of(model, b, features, seen[:, -1])
        target = w.states[:, row]
        if config.kind == "nll":
            error = 0.5 * ((target - mean) / std) ** 2 + torch.log(std)
        else:
            error = (mean + std * eps[i, 1] - target) ** 2
        state += alpha * error.sum(dim=1).mean()
        fed_back = target if config.teacher_forcing else mean + std * eps[i, 0]
        seen = torch.cat((seen, fed_back.unsqueeze(1)), dim=1)
        aux = newest_features(model.auxiliary_base, w.states[:, first:row], w.actions[:, first + 1 : row + 1], b)
        head = model.auxiliary_head
        contact += alpha * F.binary_cross_entropy_with_logits(mlp_of(head.contact, b, aux), w.contact[:, row])
        termination += alpha * F.binary_cross_entropy_with_logits(
            mlp_of(head.termination, b, aux), w.termination[:, row]
        )
        if head.extension is not None:
            extension += alpha * F.mse_loss(mlp_of(head.extension, b, aux), w.extension[:, row])
    bound = model.state_head.max_log_std[b].mean() - model.state_head.min_log_std[b].mean()
    sequence, kl = sequence_and_kl(model, w, config, b)
    terms = (state, sequence, bound, kl, extension, contact, termination)
    return torch.stack([torch.as_tensor(t).double() for t in terms])


def slow_loss(model, windows, config, noise, drawn):
    """Average over members of the weighted terms, each member on its resampled batch."""
    terms = 0.0
    for b in range(model.config.members):
        resampled = type(windows)(*(getattr(windows, f)[drawn[b]] for f in windows.__dataclass_fields__))
        terms += member_terms(model, resampled, config, noise[:, :, b, drawn[b]], b) / model.config.members
    weights = [config.state_weight, config.sequence_weight_for(model.config.base), config.bound_weight]
    weights += [config.kl_weight, config.extension_weight, config.contact_weight, config.termination_weight]
    return (terms * torch.tensor(weights, dtype=torch.float64)).sum(), terms


def setting(model):
    g = torch.Generator().manual_seed(9)
    members = model.config.members
    noise = draw_noise(g, FORECAST, members, BATCH, 5).double()
    drawn = torch.randint(BATCH, (members, BATCH), generator=g)
    weights = torch.stack([torch.bincount(d, minlength=BATCH) for d in drawn]).double()
    return noise, drawn, weights


SHARED = [True, False]
CASES = [
    ("gru", LossConfig(), 2),
    ("gru", LossConfig(kind="nll", decay=0.7), 0),
    ("lstm", LossConfig(decay=0.5, state_weight=2.0, bound_weight=0.5, contact_weight=3.0, termination_weight=0.25), 2),
    ("mlp", LossConfig(extension_weight=0.0), 2),
    ("gru", LossConfig(teacher_forcing=True, decay=0.9), 0),
    ("mlp", LossConfig(teacher_forcing=True, kind="nll"), 0),
    ("gru", LossConfig(sequence_weight=0.5), 0),
    ("lstm", LossConfig(sequence_weight=1.5, kind="nll", teacher_forcing=True), 0),
    ("transformer", LossConfig(decay=0.8), 2),
    ("transformer", LossConfig(teacher_forcing=True, sequence_weight=0.0), 0),
    ("rssm", LossConfig(), 2),
    ("rssm", LossConfig(kind="nll", kl_weight=2.0, teacher_forcing=True, sequence_weight=0.3), 0),
]


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(("base", "config", "extension_dim"), CASES)
def test_vectorised_loss_and_gradients_equal_the_per_member_loop(
    make_model, make_windows, base, config, extension_dim, shared
):
    model = make_model(base, extension_dim=extension_dim, shared_base=shared)
    windows = make_windows(BATCH, HISTORY + FORECAST, extension_dim)
    noise, drawn, weights = setting(model)
    fast = ensemble_loss(model, windows, config, noise, weights)
    slow, terms = slow_loss(model, windows, config, noise, drawn)
    assert fast.total.item() == pytest.approx(slow.item(), abs=1e-10)
    got = [fast.state, fast.sequence, fast.bound, fast.kl, fast.extension, fast.contact, fast.termination]
    assert [t.item() for t in got] == pytest.approx(terms.tolist(), abs=1e-10)
    parameters = dict(model.named_parameters())
    for name, a, b in zip(
        parameters,
        torch.autograd.grad(fast.total, list(parameters.values()), allow_unused=True),
        torch.autograd.grad(slow, list(parameters.values()), allow_unused=True),
        strict=True,
    ):
        assert a is not None and b is not None, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=name)


def rolled(windows, by):
    return type(windows)(*(getattr(windows, f).roll(by, dims=0) for f in windows.__dataclass_fields__))


@pytest.mark.parametrize("followers", [1, 2])
@pytest.mark.parametrize(("base", "shared"), [("gru", True), ("gru", False), ("mlp", True), ("transformer", True)])
def test_over_all_rotations_of_a_batch_few_followers_have_the_loss_of_all(
    make_model, make_windows, base, shared, followers
):
    """Each member then goes on in every window equally often, so the identity is exact, and so are the gradients."""
    model, windows = make_model(base, shared_base=shared), make_windows(BATCH, HISTORY + FORECAST)
    noise, _, weights = setting(model)
    ones, few = torch.ones_like(weights), LossConfig(followers=followers, decay=0.8)
    whole = ensemble_loss(model, windows, LossConfig(decay=0.8), noise, ones).state
    parts = [ensemble_loss(model, rolled(windows, k), few, noise.roll(k, dims=3), ones).state for k in range(BATCH)]
    mean = torch.stack(parts).mean()
    assert mean.item() == pytest.approx(whole.item(), rel=1e-12)
    assert max(p.item() for p in parts) > 1.001 * whole.item()
    used = [p for name, p in model.named_parameters() if name.startswith("state_") and "min_log" not in name]
    for a, b in zip(torch.autograd.grad(mean, used), torch.autograd.grad(whole, used), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_first_step_keeps_its_bootstrap_weights_with_few_followers(make_model, make_windows):
    model, windows = make_model(), make_windows(BATCH, HISTORY + FORECAST)
    noise, drawn, weights = setting(model)
    only_first = {"decay": 1e-12}
    few = ensemble_loss(model, windows, LossConfig(followers=1, **only_first), noise, weights)
    slow, _ = slow_loss(model, windows, LossConfig(**only_first), noise, drawn)
    assert few.total.item() == pytest.approx(slow.item(), rel=1e-9)


def test_as_many_followers_as_members_are_all_of_them(make_model, make_windows):
    model, windows = make_model(), make_windows(BATCH, HISTORY + FORECAST)
    noise, _, weights = setting(model)
    results = [ensemble_loss(model, windows, LossConfig(followers=n), noise, weights).total for n in (None, 3, 9)]
    assert results[0] == results[1] == results[2]


def test_with_teacher_forcing_all_members_follow(make_model, make_windows):
    model, windows = make_model(), make_windows(BATCH, HISTORY + FORECAST)
    noise, _, weights = setting(model)
    losses = (LossConfig(teacher_forcing=True, followers=n) for n in (None, 1))
    results = [ensemble_loss(model, windows, loss, noise, weights).total for loss in losses]
    assert results[0] == results[1]


def test_the_auxiliary_part_learns_from_its_share_of_the_windows(make_model, make_windows):
    model, windows = make_model(), make_windows(BATCH, HISTORY + FORECAST)
    noise, _, weights = setting(model)
    part = ensemble_loss(model, windows, LossConfig(auxiliary_share=0.4), noise, weights)
    first = ensemble_loss(model, windows.select(slice(0, 3)), LossConfig(), noise[:, :, :, :3], weights[:, :3])
    whole = ensemble_loss(model, windows, LossConfig(), noise, weights)
    for name in ("contact", "termination", "extension"):
        assert getattr(part, name).item() == pytest.approx(getattr(first, name).item(), rel=1e-12)
        assert getattr(part, name).item() != getattr(whole, name).item()
    assert part.state == whole.state


def test_float32_loss_equals_the_per_member_loop(make_model, make_windows):
    model, windows = make_model().float(), make_windows(BATCH, HISTORY + FORECAST)
    windows = type(windows)(*(getattr(windows, f).float() for f in windows.__dataclass_fields__))
    noise, drawn, weights = setting(model)
    fast = ensemble_loss(model, windows, LossConfig(), noise.float(), weights.float())
    slow, _ = slow_loss(model, windows, LossConfig(), noise.float(), drawn)
    assert fast.total.item() == pytest.approx(slow.item(), rel=1e-5)


def test_the_loss_looks_at_the_action_that_leads_to_each_row(make_model, make_windows):
    """Row 0's action led to a state nobody sees, so it must not matter; every later one must."""
    model, windows = make_model(), make_windows(BATCH, HISTORY + FORECAST)
    noise, _, weights = setting(model)
    windows.actions.requires_grad_()
    ensemble_loss(model, windows, LossConfig(), noise, weights).total.backward()
    size = windows.actions.grad.abs().sum(dim=(0, 2))
    assert size[0] == 0 and torch.all(size[1:] > 0)


def test_bootstrap_weights_are_counts_that_sum_to_the_batch():
    weights = draw_bootstrap(torch.Generator().manual_seed(0), 5, 400)
    assert weights.shape == (5, 400) and torch.equal(weights, weights.round())
    assert torch.equal(weights.sum(dim=1), torch.full((5,), 400.0))
    # A window is left out by a member with probability (1 - 1/n)^n, about 0.368.
    assert (weights == 0).float().mean().item() == pytest.approx(0.368, abs=0.03)
    assert not torch.equal(weights[0], weights[1])


def test_a_single_member_sees_every_window_once():
    assert torch.equal(draw_bootstrap(torch.Generator().manual_seed(0), 1, 6), torch.ones(1, 6))


def test_windows_without_a_forecast_are_refused(make_model, make_windows):
    model = make_model()
    noise, _, weights = setting(model)
    with pytest.raises(RwmError, match="nothing to predict"):
        ensemble_loss(model, make_windows(BATCH, HISTORY), LossConfig(), noise, weights)
