from __future__ import annotations

import pytest
import torch

from rwmdata.errors import RwmError
from rwmmodel.devices import reduced_precisions, require_precision, resolve_device, use_precision


def test_cpu_is_always_there():
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RwmError, match="0 CUDA devices"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RwmError, match="'cuda:1'"):
        resolve_device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "meta", "cpux"])
def test_an_unknown_device_is_refused_with_the_choices(name):
    with pytest.raises(RwmError, match="auto, cpu, cuda"):
        resolve_device(name)


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch):
    require_precision("float32", torch.device("cpu"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    require_precision("bfloat16", torch.device("cpu"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(RwmError, match="bfloat16"):
        require_precision("bfloat16", torch.device("cpu"))


def test_tf32_is_refused_where_there_are_no_units_for_it(monkeypatch):
    with pytest.raises(RwmError, match="'cpu' has no TF32"):
        require_precision("tf32", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(RwmError, match="'cuda' has no TF32"):
        require_precision("tf32", torch.device("cuda"))


def test_the_reduced_arithmetics_are_those_a_device_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert reduced_precisions(torch.device("cuda")) == ["tf32", "bfloat16"]
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert reduced_precisions(torch.device("cpu")) == []


@pytest.fixture
def tf32_flags():
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    yield flags
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_on_cuda_products_are_in_tf32_only_where_asked_for(monkeypatch, tf32_flags, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    for flag in tf32_flags:
        flag.allow_tf32 = precision != "tf32"
    use_precision("float32", torch.device("cpu"))
    assert all(flag.allow_tf32 is (precision != "tf32") for flag in tf32_flags)
    use_precision(precision, torch.device("cuda"))
    assert all(flag.allow_tf32 is (precision == "tf32") for flag in tf32_flags)
