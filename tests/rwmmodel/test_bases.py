"""The transformer and rssm bases against slow, obvious twins."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from rwmdata.errors import RwmError
from rwmmodel.ensemble import EnsembleConfig
from rwmmodel.loss import LossConfig
from rwmmodel.rssm import RssmBase, kl_divergence
from rwmmodel.transformer import TransformerBase

HISTORY, HEADS, HIDDEN = 4, 2, 6


def pairs(rows, envs=3):
    return torch.randn(envs, rows, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return TransformerBase(5, HIDDEN, 2, HEADS, HISTORY).double()


@pytest.fixture
def rssm():
    torch.manual_seed(0)
    return RssmBase(state_dim=3, action_dim=2, hidden=6, latent=4).double().eval()


def attention_by_hand(block, x):
    """One environment's rows ``(T, H)``; every query, head and key in a loop."""
    normed = block.attention_norm(x)
    query, key, value = (normed @ block.project_in.weight.T + block.project_in.bias).split(HIDDEN, dim=1)
    size, rows = HIDDEN // HEADS, []
    for t in range(len(x)):
        found = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            slope = 2 ** (-8 * (head + 1) / HEADS)
            seen = range(max(0, t - HISTORY + 1), t + 1)
            scores = torch.stack([query[t, part] @ key[j, part] / math.sqrt(size) - slope * (t - j) for j in seen])
            shares = scores.exp() / scores.exp().sum()
            found.append(sum(share * value[j, part] for share, j in zip(shares, seen, strict=True)))
        rows.append(torch.cat(found))
    x = x + torch.stack(rows) @ block.project_out.weight.T + block.project_out.bias
    norm, wide, _, narrow = block.feed_forward
    return x + F.gelu(norm(x) @ wide.weight.T + wide.bias) @ narrow.weight.T + narrow.bias


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_transformer_follows_the_formulas(transformer, rows):
    inputs = pairs(rows)
    features, carry = transformer.encode(inputs, last=rows)
    for env, sequence in enumerate(inputs):
        x = sequence @ transformer.embed.weight.T + transformer.embed.bias
        for block in transformer.blocks:
            x = attention_by_hand(block, x)
        torch.testing.assert_close(features[env], transformer.norm(x), rtol=0, atol=1e-12)
    assert all(c.shape == (3, min(rows, HISTORY - 1), HIDDEN) for c in carry) and len(carry) == 4


def test_a_transformers_kept_keys_stay_right_while_the_window_moves(transformer):
    inputs = pairs(20)
    features, _ = transformer.encode(inputs, last=20)
    _, carry = transformer.encode(inputs[:, :2], last=0)
    for t in range(2, 20):
        got, carry = transformer.step(inputs[:, t], carry)
        torch.testing.assert_close(got, features[:, t], rtol=0, atol=1e-12)


def test_transformer_looks_neither_ahead_nor_too_far_back(transformer):
    inputs = pairs(12).requires_grad_()
    features, _ = transformer.encode(inputs, last=12)
    features[:, 8].sum().backward()
    reached = inputs.grad.abs().sum(dim=(0, 2)) > 0
    # Two blocks of four positions each reach back 2 * 3.
    assert reached.tolist() == [2 <= t <= 8 for t in range(12)]


def test_transformer_heads_must_share_the_features():
    with pytest.raises(ValueError, match="multiple of attention_heads"):
        EnsembleConfig(base="transformer", hidden=10, attention_heads=4, state_dim=5, action_dim=2, contact_dim=3)


def test_rssm_follows_the_formulas(rssm):
    inputs = pairs(5)
    features, (memory,), divergence = rssm.encode_with_kl(inputs, last=5)
    for env, sequence in enumerate(inputs):
        h, kl = torch.zeros(6).double(), []
        for t, pair in enumerate(sequence):
            z, std = rssm.posterior(torch.cat((h, pair[:3]))).chunk(2)
            expected, spread = rssm.prior(h).chunk(2)
            std, spread = F.softplus(std) + 0.1, F.softplus(spread) + 0.1
            kl.append((torch.log(spread / std) + (std**2 + (z - expected) ** 2) / (2 * spread**2) - 0.5).sum())
            h = rssm.cell(torch.cat((z, pair[3:]))[None], h[None])[0]
            torch.testing.assert_close(features[env, t], torch.cat((h, rssm.prior(h).chunk(2)[0])), rtol=0, atol=1e-12)
        torch.testing.assert_close(memory[env], h, rtol=0, atol=1e-12)
        torch.testing.assert_close(divergence[env], sum(kl) / 5, rtol=0, atol=1e-12)


def test_rssm_latents_are_samples_only_while_training(rssm):
    inputs = pairs(5)
    assert torch.equal(rssm.encode(inputs, 1)[0], rssm.encode(inputs, 1)[0])
    rssm.train()
    assert not torch.equal(rssm.encode(inputs, 1)[0], rssm.encode(inputs, 1)[0])


def test_divergence_is_that_of_torch():
    g = torch.Generator().manual_seed(2)
    p, q = ((torch.randn(7, 4, generator=g), torch.rand(7, 4, generator=g) + 0.1) for _ in range(2))
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(*p), torch.distributions.Normal(*q))
    torch.testing.assert_close(kl_divergence(p, q), expected.sum(-1))
    assert torch.all(kl_divergence(p, p) == 0)


def test_the_sequence_term_is_the_transformers_alone_unless_asked_for():
    assert [LossConfig().sequence_weight_for(b) for b in ("gru", "rssm", "mlp", "transformer")] == [0, 0, 0, 1]
    assert LossConfig(sequence_weight=0.5).sequence_weight_for("gru") == 0.5
    with pytest.raises(RwmError, match="reads sequences"):
        LossConfig(sequence_weight=0.5).sequence_weight_for("mlp")
