"""The dynamics ensemble: two shared bases and the heads of B members, in normalised space throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmmodel.bases import Base, BaseCarry, GruBase, LstmBase, MemberBases, MlpBase
from rwmmodel.calibration_factors import Calibration
from rwmmodel.devices import Precision
from rwmmodel.heads import AuxiliaryHead, StateHead, member_groups
from rwmmodel.normalizer import Normalizer
from rwmmodel.rssm import RssmBase
from rwmmodel.transformer import TransformerBase

WIDEST, MOST_LAYERS, MOST_MEMBERS, LONGEST_HISTORY = 16_384, 64, 1_000, 10_000
"""Sizes above which a network is a slip, or a file's lie."""
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class Architecture(Frozen):
    """The choices that define an ensemble; the defaults are RWM-U's."""

    base: Literal["gru", "lstm", "mlp", "transformer", "rssm"] = "gru"
    hidden: int = Field(256, ge=1, le=WIDEST)
    """Size of the features of every base but mlp."""
    auxiliary_hidden: int | None = Field(None, ge=1, le=WIDEST)
    """The same for the auxiliary base, which predicts contact, termination and extension; None is ``hidden``."""
    layers: int = Field(2, ge=1, le=MOST_LAYERS)
    """Layers of gru and lstm, blocks of the transformer."""
    attention_heads: int = Field(4, ge=1)
    """Of the transformer; must divide ``hidden``."""
    latent: int = Field(32, ge=1, le=WIDEST)
    """Size of the rssm base's stochastic latent, which is part of the features."""
    mlp_hidden: tuple[Width, ...] = Field((256, 256), min_length=1, max_length=MOST_LAYERS)
    """Layer sizes of the mlp base."""
    head_hidden: int = Field(128, ge=1, le=WIDEST)
    members: int = Field(5, ge=1, le=MOST_MEMBERS)
    """B: 5 for RWM-U, 1 for RWM."""
    shared_base: bool = True
    """All members share one state base and one auxiliary base; else each has its own, which costs B times as much but
    rules out errors that all members share."""
    prior_scale: float = Field(0.0, ge=0)
    """Weight of a fixed random network added to every member's mean, for diversity; 0 for none."""
    bounded: bool = False
    """Clamp predicted states to the range of the training data (see ``state_low``), so that a rollout cannot diverge.
    Training and uncertainties are not affected."""
    history: int = Field(32, ge=2, le=LONGEST_HISTORY)
    """History horizon M, rows."""

    @model_validator(mode="after")
    def _heads_share_features(self) -> Architecture:
        for name in ("hidden", "auxiliary_hidden"):
            size = getattr(self, name) or self.hidden
            if self.base == "transformer" and size % self.attention_heads:
                raise ValueError(f"{name} ({size}) is not a multiple of attention_heads ({self.attention_heads})")
        return self


class EnsembleConfig(Architecture):
    """An architecture with the sizes that the dataset's columns determine."""

    state_dim: int = Field(ge=1)
    action_dim: int = Field(ge=1)
    contact_dim: int = Field(ge=1)
    extension_dim: int = Field(0, ge=0)


@dataclass(frozen=True)
class ModelInfo:
    """What a model was fitted on; written into its file."""

    robot: str
    columns: tuple[str, ...]
    """Column names of the row matrix, ``terminated`` last."""
    control_hz: Annotated[float, Field(gt=0, lt=1e6)]
    dataset: str


@dataclass(frozen=True)
class Prediction:
    """One step ahead for E environments, states in normalised space.

    Without member ids, ``state``, ``std``, ``extension``, ``contact`` and ``termination`` are means over members; with
    them, those of each environment's member. Both uncertainties are always over all members. Auxiliary outputs and
    standard deviations are None where they were not requested, ``extension`` also where the schema has none.
    """

    state: Tensor  # (E, S)
    std: Tensor | None  # (E, S)
    aleatoric: Tensor | None
    """``(E,)``: mean over members of the summed std."""
    epistemic: Tensor
    """``(E,)``: sum over state dimensions of the members' disagreement; exactly 0 with one member."""
    extension: Tensor | None  # (E, X)
    contact: Tensor | None  # (E, C), logits
    termination: Tensor | None  # (E, 1), logit
    member_mean: Tensor  # (B, E, S)
    member_std: Tensor | None  # (B, E, S)
    member_termination: Tensor | None = None  # (B, E, 1), logits; None where only own members were asked


@dataclass(frozen=True)
class Carry:
    """The memory of both bases for E environments; ``auxiliary`` is None once a step has skipped it."""

    state: BaseCarry
    auxiliary: BaseCarry | None

    @property
    def parts(self) -> BaseCarry:
        """All tensors of both bases, the state base's first."""
        return self.state + (self.auxiliary or ())

    def emptied(self) -> Carry:
        """Return a carry of zeros of the same shapes: a recurrent base before its first input."""
        auxiliary = None if self.auxiliary is None else tuple(map(torch.zeros_like, self.auxiliary))
        return Carry(tuple(map(torch.zeros_like, self.state)), auxiliary)

    def replace(self, env_ids: Tensor, other: Carry) -> Carry:
        """Return a carry with ``env_ids (n,)`` replaced by the n environments of ``other``, as after resets.

        Raises:
            RwmError: ``other`` has no auxiliary part where this one has.
        """
        state = _replace(self.state, env_ids, other.state)
        if self.auxiliary is None:
            return Carry(state, None)
        if other.auxiliary is None:
            raise RwmError("The new carry was built without the auxiliary base, the running one has it.")
        return Carry(state, _replace(self.auxiliary, env_ids, other.auxiliary))


def _replace(carry: BaseCarry, env_ids: Tensor, other: BaseCarry) -> BaseCarry:
    return tuple(old.index_copy(0, env_ids, new.to(old.dtype)) for old, new in zip(carry, other, strict=True))


class DynamicsEnsemble(nn.Module):
    """B members, each with its own heads, on a state base and an auxiliary base that they share or have one of each.

    Inputs are *pairs*: pair ``i`` is the state of row ``i`` with the action of row ``i + 1``, the one that leads from
    row ``i`` to row ``i + 1``. All states and actions are normalised; :attr:`normalizer` maps from and to physical
    units and is the identity when not given.

    Attributes:
        state_low: Lower bound of every state column, ``(S,)``, normalised; bounded models only.
        state_high: Upper bound, likewise.
        calibration: Factors that calibrate its standard deviations, if it was calibrated.
    """

    calibration: Calibration | None = None
    state_low: Tensor
    state_high: Tensor

    def __init__(
        self, config: EnsembleConfig, normalizer: Normalizer | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__()
        self.config, self.info = config, info
        self.normalizer = normalizer or Normalizer(config.state_dim, config.action_dim)
        if config.bounded:
            self.register_buffer("state_low", torch.full((config.state_dim,), -torch.inf))
            self.register_buffer("state_high", torch.full((config.state_dim,), torch.inf))
        auxiliary = config.model_copy(update={"hidden": config.auxiliary_hidden or config.hidden})
        self.state_base, self.auxiliary_base = build_base(config), build_base(auxiliary)
        members, width, auxiliary_width = config.members, self.state_base.width, self.auxiliary_base.width
        self.state_head = StateHead(members, width, config.head_hidden, config.state_dim, config.prior_scale)
        ends = (config.contact_dim, config.extension_dim)
        self.auxiliary_head = AuxiliaryHead(members, auxiliary_width, config.head_hidden, *ends)

    @property
    def parameter_count(self) -> int:
        """Number of learned parameters: 1,995,569 for the default ensemble of ANYmal D."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @torch.no_grad()
    def widen_bounds(self, low: Tensor, high: Tensor) -> None:
        """Let the bounds of predicted states include ``low`` to ``high``, each ``(S,)``, normalised."""
        known = torch.isfinite(self.state_low)
        self.state_low.copy_(torch.where(known, torch.minimum(self.state_low, low), low))
        self.state_high.copy_(torch.where(known, torch.maximum(self.state_high, high), high))

    @property
    def precision(self) -> Precision:
        """Arithmetic of the bases' matrix products; everything else stays float32."""
        return self.state_base.precision

    @precision.setter
    def precision(self, value: Precision) -> None:
        self.state_base.precision = self.auxiliary_base.precision = value

    def warm_up(self, states: Tensor, actions: Tensor, aux: bool = True) -> Carry:
        """Read a history without predicting.

        Args:
            states: States of the pairs, ``(E, M - 1, S)``.
            actions: Actions of the pairs, ``(E, M - 1, A)``: row ``i + 1``'s action beside row ``i``'s state.
            aux: Warm up the auxiliary base too.

        Returns:
            The carry that :meth:`step` continues from.
        """
        inputs = torch.cat((states, actions), dim=-1)
        _, state_carry = self.state_base.encode(inputs, last=0)
        return Carry(state_carry, self.auxiliary_base.encode(inputs, last=0)[1] if aux else None)

    def step(
        self,
        state: Tensor,
        action: Tensor,
        carry: Carry,
        member_ids: Tensor | None = None,
        aux: bool = True,
        std: bool = True,
    ) -> tuple[Prediction, Carry]:
        """Predict one row ahead.

        Args:
            state: Newest state, ``(E, S)``; the change from it is predicted.
            action: Action taken in it, ``(E, A)``.
            carry: Memory of the earlier pairs.
            member_ids: Member each environment follows, ``(E,)`` int64; None for the mean over members.
            aux: Predict contact, termination and extension too; impossible again after a step without them.
            std: Predict standard deviations too; the epistemic uncertainty does not need them.

        Returns:
            The prediction and the carry after this pair.

        Raises:
            RwmError: ``aux`` with a carry that has no auxiliary part.
        """
        inputs = torch.cat((state, action), dim=-1)
        features, state_carry = self.state_base.step(inputs, carry.state)
        if not aux:
            return self._predict(features, None, state, member_ids, std), Carry(state_carry, None)
        if carry.auxiliary is None:
            raise RwmError("The carry was built or stepped without the auxiliary base; warm up with aux=True.")
        aux_features, aux_carry = self.auxiliary_base.step(inputs, carry.auxiliary)
        return self._predict(features, aux_features, state, member_ids, std), Carry(state_carry, aux_carry)

    def forward(self, states: Tensor, actions: Tensor, member_ids: Tensor | None = None) -> Prediction:
        """Predict the row after a history: :meth:`warm_up` on all pairs but the last, then one :meth:`step`.

        Args:
            states: Rows 0 to M - 1, ``(E, M, S)``.
            actions: Rows 1 to M, ``(E, M, A)``.
            member_ids: Member each environment follows, ``(E,)``; None for the mean over members.

        Returns:
            The prediction of row M.
        """
        inputs = torch.cat((states, actions), dim=-1)
        features = self.state_base.encode(inputs, last=1)[0][..., 0, :]
        aux_features = self.auxiliary_base.encode(inputs, last=1)[0][..., 0, :]
        return self._predict(features, aux_features, states[:, -1], member_ids)

    def _predict(
        self, features: Tensor, aux_features: Tensor | None, state: Tensor, member_ids: Tensor | None, std: bool = True
    ) -> Prediction:
        mean = self.state_head.predict(features, state)
        member_std = self.state_head.deviation(features) if std else None
        contact, termination, extension, falls = self._auxiliary(aux_features, member_ids)
        predicted = _own_or_mean(mean, member_ids)
        if self.config.bounded:
            predicted = predicted.clamp(self.state_low, self.state_high)
        own_std = None if member_std is None else _own_or_mean(member_std, member_ids)
        aleatoric = None if member_std is None else member_std.sum(dim=-1).mean(dim=0)
        epistemic = _disagreement(mean)
        ends = extension, contact, termination
        return Prediction(predicted, own_std, aleatoric, epistemic, *ends, mean, member_std, falls)

    def _auxiliary(self, features: Tensor | None, member_ids: Tensor | None) -> list[Tensor | None]:
        """Return contact, termination and extension, and the termination of every member where all are computed.

        The first three are means over members, or of each environment's own member.
        """
        if features is None:
            return [None, None, None, None]
        if member_ids is not None and features.dim() == 2 and features.device.type == "cpu":
            # Run each environment through its member's heads only; on a GPU the group sizes would force a sync.
            return [*self.auxiliary_head.of_members(features, member_groups(member_ids, self.config.members)), None]
        outputs = self.auxiliary_head(features)
        return [*(None if out is None else _own_or_mean(out, member_ids) for out in outputs), outputs[1]]


def build_base(config: EnsembleConfig) -> Base:
    """Return an untrained base of an architecture, one per member where they do not share it."""
    if config.shared_base:
        return _build_one(config)
    return MemberBases([_build_one(config) for _ in range(config.members)])


def _build_one(config: EnsembleConfig) -> Base:
    input_dim = config.state_dim + config.action_dim
    if config.base == "gru":
        return GruBase(input_dim, config.hidden, config.layers)
    if config.base == "lstm":
        return LstmBase(input_dim, config.hidden, config.layers)
    if config.base == "transformer":
        return TransformerBase(input_dim, config.hidden, config.layers, config.attention_heads, config.history)
    if config.base == "rssm":
        return RssmBase(config.state_dim, config.action_dim, config.hidden, config.latent)
    return MlpBase(input_dim, config.mlp_hidden, config.history)


def _own_or_mean(members: Tensor, member_ids: Tensor | None) -> Tensor:
    """Reduce ``(B, E, D)`` to ``(E, D)``: the mean over members, or each environment's own member."""
    if member_ids is None:
        return members.mean(dim=0)
    return members[member_ids, torch.arange(members.shape[1], device=members.device)]


def _disagreement(mean: Tensor) -> Tensor:
    """Sum over state dimensions of the std (n - 1) of the member means ``(B, E, S)``, ``(E,)``."""
    if len(mean) == 1:
        return mean.new_zeros(mean.shape[1])
    # torch's own std over the first of three dimensions is many times slower.
    from_mean = mean - mean.mean(dim=0)
    return (from_mean.square().sum(dim=0) / (len(mean) - 1)).sqrt().sum(dim=-1)
