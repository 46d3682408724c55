"""What a GPU would run must not depend on values: on tensors without values every such question is an error."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from rwmmodel.bases import SingleBase
from rwmmodel.data import Windows
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.loss import LossConfig, ensemble_loss

SIZES = {"state_dim": 5, "action_dim": 2, "contact_dim": 3, "extension_dim": 2, "hidden": 8, "history": 4, "members": 3}


@pytest.fixture
def without_values(monkeypatch):
    """Make a model and tensors of shapes alone, on the path that devices other than a CPU take."""
    monkeypatch.setattr(SingleBase, "_autocast", lambda *_: nullcontext())  # knows no such device

    def make(base: str = "gru", **options):
        return DynamicsEnsemble(EnsembleConfig(base=base, **SIZES, **options)).to("meta")

    return make


def numbers(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def test_such_tensors_answer_no_question_about_values():
    for question in (bool, float, torch.nonzero, lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            question(numbers(1))


@pytest.mark.parametrize("base", ["gru", "lstm", "mlp", "transformer", "rssm"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bounded", [True, False])
def test_a_step_of_the_model_has_static_shapes(without_values, base, shared, bounded):
    model = without_values(base, shared_base=shared, bounded=bounded)
    carry = model.warm_up(numbers(6, 3, 5), numbers(6, 3, 2))
    for members in (None, torch.empty(6, dtype=torch.int64, device="meta")):
        prediction, carry = model.step(numbers(6, 5), numbers(6, 2), carry, members)
        assert prediction.state.shape == (6, 5) and prediction.member_termination.shape == (3, 6, 1)


@pytest.mark.parametrize("base", ["gru", "lstm", "mlp", "transformer", "rssm"])
@pytest.mark.parametrize(
    "loss", [{}, {"kind": "nll"}, {"followers": 1, "auxiliary_share": 0.5}, {"teacher_forcing": True}]
)
def test_the_loss_and_its_gradient_have_static_shapes(without_values, base, loss):
    model, parts = without_values(base), (5, 2, 2, 3, 1)
    windows = Windows(*(numbers(6, 8, width) for width in parts))
    terms = ensemble_loss(model, windows, LossConfig(**loss), numbers(4, 2, 3, 6, 5), numbers(3, 6))
    terms.total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
