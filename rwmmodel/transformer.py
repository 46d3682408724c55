"""A causal transformer as a base: it attends to the last M pairs and keeps their keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwmmodel.bases import BaseCarry, SingleBase

FEED_FORWARD = 4
"""Width of a block's feed-forward layer, in multiples of its features."""


class TransformerBase(SingleBase):
    """Pre-norm transformer blocks whose attention looks back over a window of M pairs.

    Positions enter as a linear penalty on distance (ALiBi, arXiv:2108.12409), so that a key computed once stays right
    while the window moves on: one more pair costs one position, not M. With several blocks the features reach back
    further than M pairs, as far as the window of every block allows.

    The carry is each block's keys, then each block's values, of the newest pairs: ``(E, min(T, M - 1), H)``.

    Args:
        input_dim: Size I of a pair.
        hidden: Size H of the features; a multiple of ``heads``.
        layers: Number of blocks.
        heads: Attention heads.
        history: M.
    """

    def __init__(self, input_dim: int, hidden: int, layers: int, heads: int, history: int) -> None:
        super().__init__()
        self.width, self.history = hidden, history
        self.embed = nn.Linear(input_dim, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.slopes: Tensor
        self.register_buffer("slopes", 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads), persistent=False)

    def _encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        steps = inputs.shape[1]
        features, keys, values = self._run(inputs, [None] * len(self.blocks))
        carry = tuple(c[:, max(steps - self.history + 1, 0) :] for c in (*keys, *values))
        return features[:, steps - last :], carry

    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        count = len(self.blocks)
        features, keys, values = self._run(inputs.unsqueeze(1), list(zip(carry[:count], carry[count:], strict=True)))
        kept = self.history - 1
        return features[:, 0], tuple(c[:, max(c.shape[1] - kept, 0) :] for c in (*keys, *values))

    def _run(
        self, inputs: Tensor, memory: list[tuple[Tensor, Tensor]] | list[None]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the features of all inputs, and each block's keys and values, the remembered ones in front."""
        x = self.embed(inputs)
        queries = inputs.shape[1]
        seen = queries + (memory[0][0].shape[1] if memory[0] is not None else 0)
        bias = self._bias(queries, seen).to(x.dtype)
        keys, values = [], []
        for block, past in zip(self.blocks, memory, strict=True):
            x, key, value = block(x, past, bias)
            keys.append(key)
            values.append(value)
        return self.norm(x), keys, values

    def _bias(self, queries: int, seen: int) -> Tensor:
        """Return what is added to the attention of the newest ``queries`` positions to ``seen``, ``(heads, q, s)``."""
        positions = torch.arange(seen, device=self.slopes.device)
        distance = positions[seen - queries :, None] - positions
        outside = (distance < 0) | (distance >= self.history)
        return (-self.slopes[:, None, None] * distance).masked_fill(outside, float("-inf"))


class _Block(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.project_in = nn.Linear(hidden, 3 * hidden)
        self.project_out = nn.Linear(hidden, hidden)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, FEED_FORWARD * hidden),
            nn.GELU(),
            nn.Linear(FEED_FORWARD * hidden, hidden),
        )

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.project_in(self.attention_norm(x)).chunk(3, dim=-1)
        if past is not None:
            key, value = (torch.cat((p.to(n.dtype), n), dim=1) for p, n in zip(past, (key, value), strict=True))
        query, keys, values = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        x = x + self.project_out(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x), key, value
