"""``precision: auto``: what it stands for, and how that is measured and remembered."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from rwmdata.config import build
from rwmmodel import fastest
from rwmmodel.ensemble import Architecture, EnsembleConfig
from rwmmodel.fastest import measure, pass_seconds
from rwmmodel.fit_config import FitConfig
from rwmrl.online_config import FinetuneConfig, PretrainConfig
from rwmrl.policy_config import PolicyConfig

CPU = torch.device("cpu")
SIZES = Architecture(hidden=8, layers=1)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let this processor have bfloat16, and tell what is measured: every pass takes what the list says."""
    asked, seconds = [], {"float32": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(fastest, "pass_seconds", pass_seconds)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fastest, "measure", lambda *arguments: asked.append(arguments) or dict(seconds))
    fastest._remembered.cache_clear()
    yield asked
    fastest._remembered.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"float32": 1.31, "bfloat16": 1.0}, "bfloat16"),
        ({"float32": 1.29, "bfloat16": 1.0}, "float32"),
        ({"float32": 2.0, "tf32": 1.0, "bfloat16": 1.2}, "tf32"),
        ({"float32": 2.0, "tf32": 1.4, "bfloat16": 1.3}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 4.0}, "float32"),
        ({"float32": math.nan}, "float32"),
    ],
)
def test_the_fastest_is_taken_where_it_is_clearly_faster_than_float32(seconds, expected):
    assert fastest.fastest(seconds) == expected


def test_what_is_asked_for_is_not_measured(measured):
    assert fastest.settled("float32", SIZES, 4, CPU) == "float32" and not measured
    assert fastest.settled("auto", SIZES, 4, CPU) == "bfloat16" and len(measured) == 1


def test_a_processor_without_faster_units_is_not_measured(measured, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert fastest.settled("auto", SIZES, 4, CPU) == "float32" and not measured


def test_a_measurement_is_remembered_in_the_process_and_on_the_machine(measured):
    for _ in range(2):
        assert fastest.settled("auto", SIZES, 4, CPU) == "bfloat16"
        assert fastest.settled("auto", FitConfig(hidden=8, layers=1, seed=5), 4, CPU) == "bfloat16"
        fastest._remembered.cache_clear()
    assert len(measured) == 1
    (key, seconds), *others = json.loads(fastest.cache_file().read_text()).items()
    assert not others and seconds == {"float32": 2.0, "bfloat16": 1.0}
    assert f"torch {torch.__version__}" in key and "hidden 8" in key and "4 rows, with gradient" in key


def test_other_layers_rows_work_threads_and_versions_are_measured_anew(measured, monkeypatch):
    pass_seconds(SIZES, 4, CPU)
    pass_seconds(SIZES, 4, CPU, learning=False)
    pass_seconds(SIZES, 5, CPU)
    pass_seconds(Architecture(hidden=9, layers=1), 4, CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    pass_seconds(SIZES, 4, CPU)
    monkeypatch.setattr(torch, "__version__", "9.9")
    pass_seconds(SIZES, 4, CPU)
    monkeypatch.setattr(fastest, "processor", lambda: "another")
    pass_seconds(SIZES, 4, CPU)
    assert len(measured) == 7 == len(json.loads(fastest.cache_file().read_text()))
    pass_seconds(SIZES, 10_000, CPU)
    pass_seconds(SIZES, 20_000, CPU)
    assert len(measured) == 8  # Of more rows than are measured all are alike.


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "[" * 100_000, '{"KEY": {"float32": "x"}}', '{"KEY": {"float32": 1}}']
)
def test_a_cache_that_cannot_be_read_is_measured_anew(measured, text):
    pass_seconds(SIZES, 4, CPU)
    (key,) = json.loads(fastest.cache_file().read_text())
    fastest.cache_file().write_text(text.replace("KEY", key))
    fastest._remembered.cache_clear()
    assert fastest.settled("auto", SIZES, 4, CPU) == "bfloat16" and len(measured) == 2
    assert json.loads(fastest.cache_file().read_text()) == {key: {"float32": 2.0, "bfloat16": 1.0}}


def test_a_user_without_a_place_for_a_cache_has_none(measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fastest.settled("auto", SIZES, 4, CPU) == "bfloat16"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fastest.cache_file() == tmp_path / ".cache" / "rwm" / "precision.json"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert fastest.cache_file() is None and fastest.settled("auto", SIZES, 5, CPU) == "bfloat16"


@pytest.mark.parametrize("base", ["gru", "lstm", "mlp", "transformer", "rssm"])
@pytest.mark.parametrize("learning", [True, False])
def test_passes_take_turns_and_the_first_does_not_count(monkeypatch, base, learning):
    if base == "lstm" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch emulates bfloat16 where a processor lacks it, but not in an LSTM")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    clock = iter([0.01, 0.02, 0.3, 0.2, 0.4, 0.1])

    def timed(call, device):
        call()
        return next(clock)

    monkeypatch.setattr(fastest, "_timed", timed)
    config = EnsembleConfig(base=base, hidden=8, mlp_hidden=(8,), latent=3, history=8, **fastest.DIMS)
    random = torch.get_rng_state()
    assert measure(config, 2, CPU, learning, ("float32", "bfloat16")) == {"float32": 0.3, "bfloat16": 0.1}
    assert torch.equal(torch.get_rng_state(), random) and next(clock, None) is None


def test_our_presets_take_the_fastest_and_the_published_ones_float32():
    of_fit = {name: build(FitConfig, name).precision for name in FitConfig.presets}
    ours = dict.fromkeys(("smoke", "demo", "laptop", "finetune"), "auto")
    assert of_fit == {**ours, "reference": "float32", "paper": "float32"}
    of_policy = {name: build(PolicyConfig, name).precision for name in PolicyConfig.presets}
    assert of_policy == {"smoke": "auto", "demo": "auto", "laptop": "auto", "paper": "float32"}
    for model in (PretrainConfig, FinetuneConfig):
        online = {name: build(model, name).fit.precision for name in model.presets}
        assert online == {"smoke": "auto", "laptop": "auto", "reference": "float32"}
