"""A small file that claims to be a large network takes no memory: what it says is compared with what it holds."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmmodel.checkpoint import FORMAT, METADATA_KEY, load_model, load_state, save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.reference_checkpoint import import_reference
from rwmmodel.torch_file import read_torch
from rwmrl.policy_file import load_policy
from rwmrl.policy_network import METADATA_KEY as POLICY_KEY
from rwmrl.policy_network import PolicyInfo

DIMS = {"state_dim": 45, "action_dim": 12, "contact_dim": 8}


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"hidden": 4000}, "claims a size of 4000 and holds 10 numbers"),
        ({"members": 10**9}, "members: Input should be less than or equal to 1000"),
        ({"history": 10**12}, "history: Input should be less"),
        ({"layers": 64, "members": 1000, "shared_base": False}, "claims 64000 layers and holds 2 tensors"),
        ({"mlp_hidden": [8] * 100_000}, "mlp_hidden: Tuple should have at most 64 items"),
        ({"state_dim": 10**10}, "claims a size of 10000000000"),
        ({"hidden": -1}, "hidden: Input should be greater"),
        ({"hidden": float("nan")}, "hidden: Input should be a finite number"),
        ({"prior_scale": float("inf")}, "prior_scale: Input should be a finite number"),
    ],
)
def test_a_model_that_claims_sizes(tmp_path, claims, sentence):
    file = tmp_path / "model.safetensors"
    about = {"format": FORMAT, "config": DIMS | claims, "info": None}
    file.write_bytes(save({"x": torch.zeros(8), "y": torch.zeros(2)}, {METADATA_KEY: json.dumps(about)}))
    with pytest.raises(RwmError, match=sentence):
        load_model(file)


@pytest.mark.parametrize("hidden", [[40_000, 40_000], [1] * 100_000, [-1]])
def test_a_policy_that_claims_sizes(tmp_path, hidden):
    file = tmp_path / "policy.safetensors"
    info = PolicyInfo.of(load_robot("anymal_d"), ()).model_dump(mode="json") | {"hidden_dims": hidden}
    about = json.dumps({"format": "rwm-policy-1", "info": info})
    file.write_bytes(save({"x": torch.zeros(10)}, {POLICY_KEY: about}))
    with pytest.raises(RwmError, match="The policy inside .* is damaged"):
        load_policy(file)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    sizes = {"hidden": 4, "head_hidden": 4, "members": 1, "history": 4, "mlp_hidden": (4,), "latent": 4}
    model = DynamicsEnsemble(EnsembleConfig(**DIMS, **sizes))
    with torch.no_grad():
        next(model.state_head.parameters())[0, 0, 0] = torch.nan
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(RwmError, match="its weights are not finite: state_head"):
        load_model(tmp_path / "model.safetensors")


def safetensors_of(header, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        safetensors_of({}, 2**63),
        safetensors_of(b'{"__metadata__":' + b"[" * 100_000),
        safetensors_of({"__metadata__": {METADATA_KEY: "[" * 100_000}}),
        safetensors_of({"__metadata__": {METADATA_KEY: '["checksum",' + "[" * 100_000}}),
        safetensors_of({"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}),
    ],
)
def test_headers_that_lie(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    for read in (load_model, load_policy):
        with pytest.raises(RwmError, match=r"m\.safetensors"):
            read(tmp_path / "m.safetensors")


def laughs():
    value = ["ha"]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (torch.zeros(1).expand(100_000, 100_000), "larger than its content"),
        (torch.empty(10**6, 10**6, device="meta"), "not a plain one"),
        (laughs(), "the same parts over and over"),
    ],
)
def test_a_checkpoint_holds_what_it_claims(tmp_path, content, sentence):
    file = tmp_path / "model_0.pt"
    torch.save({"system_dynamics_state_dict": {"state_heads.0.x": content}}, file)
    for read in (lambda path: read_torch(path, "checkpoint", ""), import_reference):
        with pytest.raises(RwmError, match=sentence):
            read(file)


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path):
    file = tmp_path / "model_0.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data/0", bytes(65 << 20))
    for read in (import_reference, load_policy, lambda path: load_state(path, torch.device("cpu"))):
        with pytest.raises(RwmError, match="compressed parts of more than 64 MiB"):
            read(file)


def change_program(file, changed, part, content):
    """Copy an archive with other content in one of its parts."""
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(changed, "w") as copy:
        for info in archive.infolist():
            given = archive.read(info)
            copy.writestr(info.filename, content(given) if info.filename.endswith(part) else given)


class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(48, 12)
        self.row, self.column = torch.nn.Parameter(torch.zeros(1, 50_000)), torch.nn.Parameter(torch.zeros(50_000, 1))

    def forward(self, x):
        return self.layer(x - (self.row + self.column))


class Twice(Wide):
    def forward(self, x):
        return self.layer((x - self.row) / self.column)


@pytest.mark.parametrize(
    ("network", "sentence"), [(Wide, "makes more numbers than it has"), (Twice, r"numbers of shape|size of tensor")]
)
def test_a_program_does_not_multiply_a_row_by_a_column(tmp_path, network, sentence):
    torch.jit.script(network()).save(str(tmp_path / "policy.pt"))
    with pytest.raises(RwmError, match=sentence):
        load_policy(tmp_path / "policy.pt", "anymal_d")


@pytest.mark.parametrize(
    "objects", [b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"."]
)
def test_a_program_whose_objects_ask_for_room(tmp_path, objects):
    torch.jit.script(torch.nn.Linear(48, 12)).save(str(tmp_path / "whole.pt"))
    change_program(tmp_path / "whole.pt", tmp_path / "policy.pt", "/data.pkl", lambda _: objects)
    with pytest.raises(RwmError, match="numbered beyond|expected 8589934592 bytes|holds a BYTEARRAY8"):
        load_policy(tmp_path / "policy.pt", "anymal_d")
