"""A causal transformer as a base: it attends to the last M pairs and caches their keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwmmodel.bases import BaseCarry, SingleBase

FEED_FORWARD = 4
"""Width of a block's feed-forward layer, in multiples of its features."""


class TransformerBase(SingleBase):
    """Pre-norm transformer blocks whose attention spans a sliding window of M pairs.

    Positions enter as a linear penalty on distance (ALiBi, arXiv:2108.12409), so cached keys stay valid as the window
    slides: one more pair costs one position, not M. With several blocks the receptive field exceeds M pairs, because
    every block adds a window.

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
        features, carry = self._run(inputs, [None] * len(self.blocks))
        return features[:, inputs.shape[1] - last :], carry

    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        count = len(self.blocks)
        features, carry = self._run(inputs.unsqueeze(1), list(zip(carry[:count], carry[count:], strict=True)))
        return features[:, 0], carry

    def _run(self, inputs: Tensor, memory: list[tuple[Tensor, Tensor]] | list[None]) -> tuple[Tensor, BaseCarry]:
        """Return the features of all inputs and the new carry."""
        x = self.embed(inputs)
        queries = inputs.shape[1]
        seen = queries + (memory[0][0].shape[1] if memory[0] is not None else 0)
        bias = self._bias(queries, seen).to(x.dtype)
        keys, values = [], []
        for block, past in zip(self.blocks, memory, strict=True):
            x, key, value = block(x, past, bias)
            keys.append(key)
            values.append(value)
        start = max(seen - self.history + 1, 0)
        return self.norm(x), tuple(cached[:, start:] for cached in (*keys, *values))

    def _bias(self, queries: int, seen: int) -> Tensor:
        """Return the attention bias of the newest ``queries`` positions over ``seen`` ones, ``(heads, q, s)``."""
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
        widen, narrow = nn.Linear(hidden, FEED_FORWARD * hidden), nn.Linear(FEED_FORWARD * hidden, hidden)
        self.feed_forward = nn.Sequential(nn.LayerNorm(hidden), widen, nn.GELU(), narrow)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.project_in(self.attention_norm(x)).chunk(3, dim=-1)
        if past is not None:
            key, value = (torch.cat((old.to(new.dtype), new), 1) for old, new in zip(past, (key, value), strict=True))
        query, keys, values = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        x = x + self.project_out(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x), key, value
