"""Bases turn a history of (state, action) pairs into features; all share one interface with a carry.

A carry is a tuple of tensors with the environments at dimension 0, so that callers can replace, repeat or gather
environments whatever the kind of base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from rwmdata.errors import RwmError
from rwmmodel.devices import Precision
from rwmmodel.gru_kernel import gru_cell, layer_weights, run_gru

BaseCarry = tuple[Tensor, ...]
"""What a base remembers of the pairs it has seen; every tensor is ``(E, ...)``."""


class Base(nn.Module, ABC):
    """A feature extractor over pairs that reads a whole history at once, then one pair at a time.

    Attributes:
        width: Size H of the features.
        precision: Arithmetic of the matrix products; features and carry always have the parameters' dtype.
    """

    width: int
    precision: Precision = "float32"

    @abstractmethod
    def encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        """Read a history from its beginning.

        Args:
            inputs: Pairs, ``(E, T, I)``.
            last: Number of newest positions to return features for; 0 only builds the carry.

        Returns:
            Features after each of the ``last`` newest pairs, ``(E, last, H)``, and the carry after all pairs.

        Raises:
            RwmError: The history is too short for this base.
        """

    def encode_with_kl(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry, Tensor]:
        """Read a history as :meth:`encode` does; return features, carry and KL divergence of posterior from prior.

        The divergence is ``(E,)``, or ``(B, E)`` where members have their own bases, and 0 for bases without latents.
        """
        features, carry = self.encode(inputs, last)
        return features, carry, inputs.new_zeros(inputs.shape[0])

    @abstractmethod
    def step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        """Read the next pair ``(E, I)`` after ``carry``; return the features ``(E, H)`` and the new carry."""

    def spread(self, carry: BaseCarry, rows: Tensor) -> BaseCarry:
        """Return the carry of environments ``rows (B, n)`` of E, one row for each member: what ``step`` takes next."""
        index = rows.flatten()
        return tuple(part[index] for part in carry)


class SingleBase(Base):
    """A base of one network, whose matrix products run in the chosen precision."""

    def encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        """Read a history, see :meth:`Base.encode`."""
        with self._autocast(inputs):
            features, carry = self._encode(inputs, last)
        return features.to(inputs.dtype), tuple(part.to(inputs.dtype) for part in carry)

    def step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        """Read the next pair, see :meth:`Base.step`."""
        with self._autocast(inputs):
            features, carry = self._step(inputs, carry)
        return features.to(inputs.dtype), tuple(part.to(inputs.dtype) for part in carry)

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    @abstractmethod
    def _encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]: ...

    @abstractmethod
    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]: ...


class MemberBases(Base):
    """One base per member: features are ``(B, E, last, H)`` and ``(B, E, H)``, the carry is the members' joined."""

    def __init__(self, members: list[Base]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = members[0].width

    def encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        """Read a history with every member's base."""
        return self.encode_with_kl(inputs, last)[:2]

    def encode_with_kl(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry, Tensor]:
        """Read a history with every member's base, see :meth:`Base.encode_with_kl`."""
        features, carries, divergence = zip(*(b.encode_with_kl(inputs, last) for b in self._bases()), strict=True)
        return torch.stack(features), tuple(chain(*carries)), torch.stack(divergence)

    def step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        """Read the next pair: ``(E, I)`` for all members, or ``(B, E, I)``, one for each."""
        bases = self._bases()
        size = len(carry) // len(bases)
        own = inputs.expand(len(bases), *inputs.shape[-2:])
        steps = [base.step(own[k], carry[k * size : (k + 1) * size]) for k, base in enumerate(bases)]
        features, carries = zip(*steps, strict=True)
        return torch.stack(features), tuple(chain(*carries))

    def spread(self, carry: BaseCarry, rows: Tensor) -> BaseCarry:
        """Return the carry of other environments, see :meth:`Base.spread`."""
        size = len(carry) // len(self.members)
        return tuple(part[rows[k // size]] for k, part in enumerate(carry))

    def _bases(self) -> list[Base]:
        bases = cast(list[Base], list(self.members))
        for base in bases:
            base.precision = self.precision
        return bases


class GruBase(SingleBase):
    """Stacked GRU from a zero state; the carry is one hidden state ``(E, H)`` per layer."""

    def __init__(self, input_dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.width = hidden
        self.rnn = nn.GRU(input_dim, hidden, layers, batch_first=True)

    def _encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        # Our own kernel is faster on a CPU when gradients are needed, but only over several steps.
        if torch.is_grad_enabled() and inputs.device.type == "cpu" and self.precision != "bfloat16":
            return run_gru(self.rnn, inputs, None, last)
        output, hidden = self.rnn(inputs)
        return output[:, output.shape[1] - last :], hidden.unbind(0)

    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        if self.precision == "bfloat16":
            output, hidden = self.rnn(inputs.unsqueeze(1), torch.stack(carry))
            return output[:, 0], hidden.unbind(0)
        # Cell by cell, which avoids packing the carry into one tensor and back.
        new_carry, ours = [], not torch.is_grad_enabled() and inputs.device.type == "cpu"
        for layer, hidden in enumerate(carry):
            weights = layer_weights(self.rnn, layer)
            inputs = gru_cell(inputs, hidden, weights) if ours else torch.gru_cell(inputs, hidden, *weights)
            new_carry.append(inputs)
        return inputs, tuple(new_carry)


class LstmBase(SingleBase):
    """Stacked LSTM from a zero state; the carry is every layer's hidden, then every layer's cell state ``(E, H)``."""

    def __init__(self, input_dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.width, self.layers = hidden, layers
        self.rnn = nn.LSTM(input_dim, hidden, layers, batch_first=True)

    def _encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        output, (hidden, cell) = self.rnn(inputs)
        return output[:, output.shape[1] - last :], (*hidden.unbind(0), *cell.unbind(0))

    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        state = (torch.stack(carry[: self.layers]), torch.stack(carry[self.layers :]))
        output, (hidden, cell) = self.rnn(inputs.unsqueeze(1), state)
        return output[:, 0], (*hidden.unbind(0), *cell.unbind(0))


class MlpBase(SingleBase):
    """ReLU layers over the flattened last M pairs; the carry is the rolling history ``(E, M - 1, I)``."""

    def __init__(self, input_dim: int, hidden: tuple[int, ...], history: int) -> None:
        super().__init__()
        self.history, self.width = history, hidden[-1]
        sizes = (history * input_dim, *hidden)
        blocks = [(nn.Linear(a, b), nn.ReLU()) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.layers = nn.Sequential(*(layer for block in blocks for layer in block))

    def _encode(self, inputs: Tensor, last: int) -> tuple[Tensor, BaseCarry]:
        envs, length = inputs.shape[:2]
        needed = self.history - 1 + last
        if length < needed:
            raise RwmError(f"The mlp base needs {needed} pairs of history here, but got {length}.")
        carry = inputs[:, length - self.history + 1 :]
        if last == 0:
            return inputs.new_empty(envs, 0, self.width), (carry,)
        windows = inputs[:, length - needed :].unfold(1, self.history, 1).transpose(2, 3)
        return self.layers(windows.flatten(2)), (carry,)

    def _step(self, inputs: Tensor, carry: BaseCarry) -> tuple[Tensor, BaseCarry]:
        window = torch.cat((carry[0], inputs.unsqueeze(1)), dim=1)
        return self.layers(window.flatten(1)), (window[:, 1:],)
