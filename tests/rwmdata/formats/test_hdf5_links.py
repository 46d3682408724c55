"""HDF5 files whose parts lie in other files, or that claim more than they store, are refused by name."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rwmdata.errors import RwmError
from rwmdata.formats.hdf5_links import refuse_foreign_links, stored


def external(file, folder):
    file["data/x"] = h5py.ExternalLink(str(folder / "other.h5"), "/values")


def external_storage(file, folder):
    file.create_dataset("data/x", (8,), "u1", external=[(str(folder / "secret"), 0, 8)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "values", (4,))
    file.create_virtual_dataset("data/x", layout)


def claimed(file, folder):
    file.create_dataset("data/x", (10**9, 12), "f4", chunks=(1000, 12))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (external, "is a link into another file"),
        (external_storage, "is stored in another file"),
        (virtual, "is a virtual dataset"),
        (claimed, "claims 48,000,000,000 bytes and stores 0"),
    ],
)
def test_what_is_not_in_the_file_is_not_read(tmp_path, rwm, home, make, sentence):
    (tmp_path / "secret").write_bytes(b"password")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.arange(4.0)
    file = tmp_path / "a.hdf5"
    with h5py.File(file, "w") as content:
        make(content, tmp_path)
        content["data/demo_0/actions"] = h5py.SoftLink("/data/x")
        for part, width in {"root_pose": 7, "root_velocity": 6, "joint_position": 12, "joint_velocity": 12}.items():
            content[f"data/demo_0/states/articulation/robot/{part}"] = np.zeros((4, width))
    with pytest.raises(RwmError, match=rf"a\.hdf5.*'/?data/(x|demo_0/actions)' {sentence}"):
        rwm("data", "convert", file, "--robot", "anymal_d", "--name", "x")
    assert not home.data_dir.exists() or not list(home.data_dir.iterdir())


def test_links_within_a_file_and_what_compresses_well_are_read(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("zeros", data=np.zeros((300_000, 2), "f4"), compression="gzip")
        file["soft"], file["hard"] = h5py.SoftLink("/zeros"), file["zeros"]
        file["loop/back"] = h5py.SoftLink("/loop")
        refuse_foreign_links(file, tmp_path)
        assert stored(file["soft"], "a").shape == (300_000, 2)


@pytest.mark.parametrize("hz", [0, -1, 1e30])
def test_a_rate_that_is_none_is_refused(tmp_path, rwm, hz):
    h5py.File(tmp_path / "a.hdf5", "w").close()
    with pytest.raises(RwmError, match=r"--rate-hz is .*; rows per second are between 0 and 1e\+06"):
        rwm("data", "convert", tmp_path / "a.hdf5", "--robot", "anymal_d", "--name", "x", f"--rate-hz={hz}")
