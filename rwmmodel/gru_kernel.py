"""A GRU over a whole sequence with a handwritten gradient: exact, and faster than autograd on a CPU.

The equations are those of :class:`torch.nn.GRU`::

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

Environments are the last dimension throughout: the gates of a step are then contiguous blocks of one matrix, and
everything between two matrix products passes through memory once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _GruLayer(torch.autograd.Function):
    """One layer: inputs ``(T, I, E)`` and a start state ``(H, E)`` to all hidden states ``(T, H, E)``.

    A step's block ``(4 H, E)`` holds n, r, z and W_hn h + b_hn, in this order: the first three come from the product
    with the input, the last three from that with the hidden state, so that each is one product.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, start: Tensor, w_input: Tensor, w_hidden: Tensor, b_input: Tensor, b_hidden: Tensor
    ) -> Tensor:
        steps, _, envs = inputs.shape
        size = len(start)
        hidden = inputs.new_empty(steps + 1, size, envs)
        hidden[0] = start
        blocks = inputs.new_empty(steps, 4 * size, envs)
        w_input = w_input.roll(size, 0)  # rows r, z, n -> n, r, z
        bias = torch.cat((b_input[2 * size :], b_input[: 2 * size] + b_hidden[: 2 * size])).unsqueeze(1)
        recalled_bias = b_hidden[2 * size :].unsqueeze(1)
        for t in range(steps):
            block = blocks[t]
            n, r, z, recalled = block.split(size)
            torch.addmm(bias, w_input, inputs[t], out=block[: 3 * size])
            recalled.copy_(recalled_bias.expand_as(recalled))
            block[size:].addmm_(w_hidden, hidden[t])
            block[size : 3 * size].sigmoid_()
            n.addcmul_(r, recalled).tanh_()
            torch.lerp(n, hidden[t], z, out=hidden[t + 1])
        ctx.save_for_backward(inputs, hidden, blocks, w_input, w_hidden)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        inputs, hidden, blocks, w_input, w_hidden = ctx.saved_tensors
        size = hidden.shape[1]
        d_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        d_w_input, d_w_hidden = torch.zeros_like(w_input), torch.zeros_like(w_hidden)
        d_bias = w_input.new_zeros(4 * size)
        d_block, total = torch.empty_like(blocks[0]), torch.zeros_like(hidden[0])
        d_n, d_r, d_z, d_recalled = d_block.split(size)  # n, r and z before their nonlinearities
        one = w_input.new_ones(())
        for t in range(len(inputs) - 1, -1, -1):
            n, r, z, recalled = blocks[t].split(size)
            total += grad[t]
            torch.sub(hidden[t], n, out=d_z)
            d_z.mul_(total).mul_(torch.addcmul(z, z, z, value=-1))
            torch.addcmul(total, total, z, value=-1, out=d_n)
            d_n.mul_(torch.addcmul(one, n, n, value=-1))
            torch.mul(d_n, r, out=d_recalled)
            torch.mul(d_recalled, recalled, out=d_r)
            d_r.addcmul_(d_r, r, value=-1)
            total.mul_(z).addmm_(w_hidden.t(), d_block[size:])
            if d_inputs is not None:
                torch.mm(w_input.t(), d_block[: 3 * size], out=d_inputs[t])
            d_w_input.addmm_(d_block[: 3 * size], inputs[t].t())
            d_w_hidden.addmm_(d_block[size:], hidden[t].t())
            d_bias += d_block.sum(dim=1)
        back = d_w_input.roll(-size, 0)
        return d_inputs, total, back, d_w_hidden, d_bias[: 3 * size].roll(-size, 0), d_bias[size:]


def layer_weights(rnn: nn.GRU, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a layer's input and hidden weights and biases."""
    w_input, w_hidden, b_input, b_hidden = rnn.all_weights[layer]
    return w_input, w_hidden, b_input, b_hidden


def run_gru(
    rnn: nn.GRU, inputs: Tensor, start: tuple[Tensor, ...] | None, last: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the layers of ``rnn`` over a sequence.

    Args:
        rnn: Provides the weights; unidirectional, with biases, without dropout.
        inputs: ``(E, T, I)``.
        start: Hidden state ``(E, H)`` of each layer; zero when None.
        last: Number of newest steps to return.

    Returns:
        The top layer's newest hidden states ``(E, last, H)``, and the final one ``(E, H)`` of each layer.
    """
    sequence = inputs.permute(1, 2, 0).contiguous()
    ends = []
    for layer in range(rnn.num_layers):
        first = inputs.new_zeros(rnn.hidden_size, len(inputs)) if start is None else start[layer].t()
        sequence = _GruLayer.apply(sequence, first, *layer_weights(rnn, layer))
        ends.append(sequence[-1].t())
    return sequence[len(sequence) - last :].permute(2, 0, 1), tuple(ends)


def gru_cell(inputs: Tensor, hidden: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Return the next hidden state ``(E, H)`` after ``inputs (E, I)``: torch's cell, faster, but without gradients.

    The gates' two products are summed in one buffer, which the next operations modify in place.
    """
    w_input, w_hidden, b_input, b_hidden = weights
    gated = 2 * hidden.shape[1]
    gates = torch.addmm(b_input[:gated] + b_hidden[:gated], inputs, w_input[:gated].t())
    r, z = gates.addmm_(hidden, w_hidden[:gated].t()).sigmoid_().chunk(2, dim=1)
    recalled = torch.addmm(b_hidden[gated:], hidden, w_hidden[gated:].t())
    n = torch.addmm(b_input[gated:], inputs, w_input[gated:].t()).addcmul_(r, recalled).tanh_()
    return torch.lerp(n, hidden, z)
