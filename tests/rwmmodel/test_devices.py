from __future__ import annotations

import pytest
import torch

from rwmdata.errors import RwmError
from rwmmodel.devices import require_precision, resolve_device


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
