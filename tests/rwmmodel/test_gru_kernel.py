"""The GRU with a gradient of its own against torch's, and against finite differences."""

from __future__ import annotations

import pytest
import torch

from rwmmodel.gru_kernel import _GruLayer, gru_cell, layer_weights, run_gru

E, T, WIDTH, H = 3, 5, 4, 6


@pytest.fixture
def setting():
    torch.manual_seed(0)
    rnn = torch.nn.GRU(WIDTH, H, 2, batch_first=True).double()
    inputs = torch.randn(E, T, WIDTH, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, E, H, dtype=torch.float64, requires_grad=True)
    return rnn, inputs, start


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("last", [0, 1, T])
def test_outputs_and_gradients_are_torchs(setting, from_zero, last):
    rnn, inputs, start = setting
    expected, ends = rnn(inputs, torch.zeros_like(start) if from_zero else start)
    got, own_ends = run_gru(rnn, inputs, None if from_zero else start.unbind(0), last)
    assert got.shape == (E, last, H)
    torch.testing.assert_close(got, expected[:, T - last :])
    torch.testing.assert_close(torch.stack(own_ends), ends)
    wanted = [inputs, *([] if from_zero else [start]), *rnn.parameters()]
    weight = torch.randn_like(expected[:, T - last :])
    ours = torch.autograd.grad((got * weight).sum() + torch.stack(own_ends).square().sum(), wanted)
    theirs = torch.autograd.grad((expected[:, T - last :] * weight).sum() + ends.square().sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_a_step_without_gradient_is_torchs_and_leaves_its_inputs_alone(setting):
    rnn, inputs, start = setting
    weights = layer_weights(rnn, 0)
    x, h = inputs[:, 0].clone(), start[0].clone()
    torch.testing.assert_close(gru_cell(x, h, weights), torch.gru_cell(x, h, *weights))
    assert torch.equal(x, inputs[:, 0]) and torch.equal(h, start[0])


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(1)
    shapes = [(T, WIDTH, E), (H, E), (3 * H, WIDTH), (3 * H, H), (3 * H,), (3 * H,)]
    arguments = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(_GruLayer.apply, arguments)


def test_inputs_that_need_no_gradient_get_none(setting):
    rnn, inputs, _ = setting
    run_gru(rnn, inputs.detach(), None, 1)[0].sum().backward()
    assert inputs.grad is None and all(p.grad is not None for p in rnn.parameters())
