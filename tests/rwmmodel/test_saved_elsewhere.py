"""World models saved from wrapped networks, in other precisions or beside NumPy's values are the plain ones."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rwmdata.errors import RwmError
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.reference_checkpoint import import_reference, to_reference
from rwmmodel.torch_file import read_torch

WORLD_MODEL = "system_dynamics_state_dict"
LAYER = "state_heads.1.state_mean_layers.0.weight"


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    config = EnsembleConfig(hidden=8, head_hidden=6, members=2, history=4, state_dim=45, action_dim=12, contact_dim=8)
    return {k: v.detach().contiguous() for k, v in to_reference(DynamicsEnsemble(config).state_dict()).items()}


class Wrapped(nn.Module):
    def __init__(self, inner, name):
        super().__init__()
        self.add_module(name, inner)


def around(*prefixes):
    return lambda w: {".".join((*prefixes, k)): v for k, v in w.items()}


def parts_compiled(w):
    """Only the bases were compiled."""
    return {k.replace("_base.", "_base._orig_mod."): v for k, v in w.items()}


WAYS = {
    "compiled": around("_orig_mod"),
    "data-parallel": around("module"),
    "both": around("module", "_orig_mod"),
    "parts compiled": parts_compiled,
    "sharded": around("_fsdp_wrapped_module"),
    "averaged": lambda w: {"n_averaged": torch.tensor(3), **around("module")(w)},
    "inside another network": lambda w: {"policy.std": torch.ones(12), **around("system_dynamics")(w)},
    "bfloat16": lambda w: {k: v.bfloat16() for k, v in w.items()},
    "float16": lambda w: {k: v.half() for k, v in w.items()},
    "float64": lambda w: {k: v.double() for k, v in w.items()},
    "NumPy arrays": lambda w: {k: v.numpy() for k, v in w.items()},
    "NumPy, column by column": lambda w: {k: np.asfortranarray(v.numpy().astype(">f8")) for k, v in w.items()},
    "parameters": lambda w: OrderedDict((k, nn.Parameter(v)) for k, v in w.items()),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_saving_gives_the_same_model(tmp_path, weights, way):
    torch.save({WORLD_MODEL: WAYS[way](weights), "iter": 3}, tmp_path / "model.pt")
    found = to_reference(import_reference(tmp_path / "model.pt", history=4).state_dict())
    assert found.keys() == weights.keys()
    tolerance = {"bfloat16": 4e-3, "float16": 5e-4}.get(way, 0.0)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=1e-6 if tolerance else 0.0)


def test_torch_names_wrapped_networks_so(weights):
    """What the names above stand for."""
    model = nn.Linear(2, 2)
    assert "_orig_mod.weight" in torch.compile(model).state_dict()
    assert "module.weight" in nn.DataParallel(model).state_dict()
    assert {"n_averaged", "module.weight"} <= torch.optim.swa_utils.AveragedModel(model).state_dict().keys()


@pytest.mark.parametrize("where", ["model_state_dict", "state_dict", "alone"])
def test_the_world_model_is_found_by_its_names(tmp_path, weights, where):
    torch.save(weights if where == "alone" else {where: weights}, tmp_path / "m.pt")
    save_file(weights, tmp_path / "m.safetensors")
    for file in ("m.pt", "m.safetensors"):
        model = import_reference(tmp_path / file, history=4)
        assert torch.equal(to_reference(model.state_dict())[LAYER], weights[LAYER])


def test_numbers_of_numpy_become_plain_numbers_and_tensors(tmp_path):
    content = {
        "iter": np.int64(7), "loss": np.float32(0.5), "best": np.float64(-2.25), "done": np.bool_(True),
        "infos": {"curve": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "steps": [np.uint8(200)]},
    }  # fmt: skip
    torch.save(content, tmp_path / "numbers.pt")
    found = read_torch(tmp_path / "numbers.pt", "checkpoint", "")
    assert (found["iter"], found["loss"], found["best"], found["done"]) == (7, 0.5, -2.25, True)
    assert type(found["iter"]) is int and found["infos"]["steps"] == [200]
    assert found["infos"]["curve"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("value", [np.array([print], object), np.array(["a"]), np.zeros(1, [("x", "f4")])])
def test_other_values_of_numpy_are_refused(tmp_path, value):
    torch.save({"infos": value}, tmp_path / "m.pt")
    with pytest.raises(RwmError, match="m.pt"):
        read_torch(tmp_path / "m.pt", "checkpoint", "")


OPTIMIZER = {"state": {}, "param_groups": []}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"optimizer_state_dict": OPTIMIZER, "iter": 3}, r"state of an optimiser \(optimizer_state_dict\) and no net"),
        (OPTIMIZER, "is the state of an optimiser alone"),
        ({}, "it is empty"),
        ({"iter": 3}, "has the keys iter"),
        ({"actor_state_dict": {"mlp.0.weight": torch.ones(1)}}, r"holds a policy \(actor_state_dict\) and no world"),
        ({"model_state_dict": {"module.actor.0.weight": torch.ones(1)}}, r"holds a policy \(model_state_dict\)"),
        ({"model_state_dict": {"a": torch.ones(1)}, WORLD_MODEL: {}}, "an empty system_dynamics_state_dict and a pol"),
        ({WORLD_MODEL: {"state_base.x": torch.ones(1, dtype=torch.int8)}}, "is it quantised"),
        ({"a.state_base.x": torch.ones(1), "b.state_base.x": torch.ones(1)}, "several world models: a, b"),
    ],
)
def test_the_true_reason_is_said(tmp_path, content, said):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(RwmError, match=said):
        import_reference(tmp_path / "model.pt")


def test_files_that_are_no_torch_files_are_named(tmp_path, weights):
    torch.save(weights, tmp_path / "whole.pt")
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "program.pt"))
    whole = (tmp_path / "whole.pt").read_bytes()
    for content, said in (
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "is a web page"),
        (whole[: len(whole) // 2], "cut off"),
    ):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(RwmError, match=said):
            import_reference(tmp_path / "bad.pt")
    with pytest.raises(RwmError, match="is a TorchScript program"):
        import_reference(tmp_path / "program.pt")
