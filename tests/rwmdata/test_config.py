"""Options: presets, dotted keys, short names, and faults in one sentence."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field

from rwmdata.config import Frozen, build, read_settings
from rwmdata.errors import RwmError
from rwmdata.runs import Run


class Loss(Frozen):
    main_option: ClassVar = "kind"
    kind: str = "mse"
    decay: float = Field(1.0, gt=0)
    weight: float = 1.0


class Optimizer(Frozen):
    lr: float = Field(1e-3, gt=0)
    weight: float = 0.0


class ToyFitConfig(Frozen):
    presets: ClassVar = {"small": {"updates": 5, "loss.weight": 2.0}, "large": {"updates": 500, "lr": 0.1}}
    default_preset: ClassVar = "small"
    updates: int = Field(100, ge=1)
    loss: Loss = Loss(decay=0.5)
    optimizer: Optimizer = Optimizer()


def test_changes_lie_over_the_preset_and_later_ones_win():
    config = build(ToyFitConfig, None, {"updates": 7, "loss": {"kind": "nll"}}, {"updates": 8})
    assert config == ToyFitConfig(updates=8, loss=Loss(kind="nll", decay=0.5, weight=2.0))
    assert build(ToyFitConfig, "large").optimizer.lr == 0.1


def test_a_nested_option_is_named_by_its_path_or_alone_where_that_is_clear():
    for changes in ({"optimizer.lr": 0.5}, {"optimizer": {"lr": 0.5}}, {"lr": 0.5}):
        assert build(ToyFitConfig, None, changes).optimizer == Optimizer(lr=0.5)
    with pytest.raises(RwmError, match="option 'weight' could be loss.weight or optimizer.weight"):
        build(ToyFitConfig, None, {"weight": 1.0})


def test_one_nested_option_leaves_the_others_as_the_outer_configuration_has_them():
    assert build(ToyFitConfig, None, {"loss.weight": 3.0}).loss == Loss(decay=0.5, weight=3.0)


def test_one_value_for_a_nested_configuration_is_its_main_option():
    assert build(ToyFitConfig, None, {"loss": "nll"}).loss == Loss(kind="nll", decay=0.5, weight=2.0)
    assert ToyFitConfig.model_validate({"loss": "nll"}).loss == Loss(kind="nll")


def test_every_fault_is_in_one_sentence_with_similar_names():
    with pytest.raises(RwmError) as caught:
        build(ToyFitConfig, None, {"update": 3, "loss.dekay": 1, "lr": -1.0})
    text = caught.value.message
    assert text.startswith("The toy fit configuration is not valid: ") and text.count("\n") == 0
    assert "update: is no option (similar: updates)" in text
    assert "loss.dekay: is no option (similar: loss.decay)" in text
    assert "optimizer.lr: Input should be greater than 0" in text
    with pytest.raises(RwmError, match="Unknown toy fit preset 'huge'; presets: small, large"):
        build(ToyFitConfig, "huge")


def test_settings_are_json_or_text():
    assert read_settings(["a.b=0.5", "name=gru", "sizes=[1, 2]", "off=null"]) == {
        "a.b": 0.5,
        "name": "gru",
        "sizes": [1, 2],
        "off": None,
    }
    for text in ("a", "=1"):
        with pytest.raises(RwmError, match=f"'{text}' is not KEY=VALUE"):
            read_settings([text])


def test_a_record_is_read_as_it_is_and_what_it_lacks_is_the_field_default(home):
    run = Run.create(home, "model", {"updates": 3}, {}, 0)
    assert run.configuration(ToyFitConfig) == ToyFitConfig(updates=3)
    run = Run.create(home, "model", {"updates": 3, "gone": 1}, {}, 0)
    with pytest.raises(RwmError, match=f"recorded options of run {run.id} are not valid: gone: "):
        run.configuration(ToyFitConfig)
