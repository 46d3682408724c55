"""A disk that is full and a folder that cannot be written: one sentence, and what was there is still there."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest

from rwmdata.catalog import Dataset
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.formats.minari import write_minari
from rwmdata.fsck import check_home
from rwmdata.robots import load_robot
from rwmdata.validate import validate
from rwmrl.deploy import export_policy
from rwmrl.policy_file import MlpPolicy, PolicyInfo, save_policy

EXPORT = ("data", "export", "--transitions", 4000, "--num-envs", 8, "--name")


@pytest.fixture
def limited(rwm_process):
    """Run a command in a process that can write no file beyond ``size`` bytes."""

    def run(size, *words):
        return rwm_process(*words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))

    return run


@pytest.fixture
def dataset(home, rwm_process):
    assert rwm_process(*EXPORT, "old").returncode == 0
    return home.dataset("old")


def check_untouched(home, dataset, before):
    assert [d.name for d in home.datasets()] == ["old"]
    assert [f for f in validate(Dataset.open(dataset.path)) if f.severity == "error"] == []
    np.testing.assert_array_equal(dataset.matrix(), before)


def test_a_full_disk_leaves_the_old_state(limited, home, dataset):
    before = dataset.matrix()
    done = limited(60_000, *EXPORT, "new")
    assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr, done.stderr
    check_untouched(home, dataset, before)
    assert check_home(home) == []


def test_a_fit_on_a_full_disk_fails_in_one_sentence_and_can_go_on(limited, rwm_process, home, dataset):
    before = dataset.matrix()
    done = limited(60_000, "fit", "--preset", "smoke")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "Cannot write" in done.stderr or "File too large" in done.stderr
    check_untouched(home, dataset, before)
    assert home.runs("model")[0].meta.status == "failed" and check_home(home) == []
    again = rwm_process("runs", "resume")
    assert again.returncode == 0, again.stderr
    assert home.runs("model")[0].meta.status == "finished"


def test_a_folder_that_is_a_file_is_named(rwm_process, home):
    home.root.mkdir()
    home.data_dir.write_text("mine")
    done = rwm_process(*EXPORT, "new")
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(home.data_dir) in done.stderr
    assert home.data_dir.read_text() == "mine"


@contextmanager
def full_beyond(size):
    """Let this process write no file beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_the_answer_of_a_query_that_does_not_fit_is_one_sentence(rwm, tmp_path, form):
    file = tmp_path / f"answer.{form}"
    with full_beyond(5000), pytest.raises(RwmError, match=r"Cannot write .*answer.*: File too large"):
        rwm("sql", "select random() as x from range(20000)", "--format", form, "--out", file)
    assert list(tmp_path.glob("*answer*")) == []


def test_a_policy_that_does_not_fit_is_not_exported_and_ends_in_one_sentence(tmp_path):
    save_policy(MlpPolicy(PolicyInfo.of(load_robot("anymal_d"), (64, 64))), tmp_path / "policy.safetensors")
    with full_beyond(8000), pytest.raises(RwmError, match=r"Cannot write .*: File too large"):
        export_policy(tmp_path / "policy.safetensors", tmp_path / "out")
    assert not list((tmp_path / "out").glob("policy.*"))


@pytest.mark.skipif(find_spec("minari") is None, reason="needs minari")
def test_a_minari_dataset_that_does_not_fit_ends_in_one_sentence(make_dataset, tmp_path, schema):
    rows = np.zeros((200, schema.width), np.float32)
    dataset = make_dataset([Episode(rows, truncated=True)])
    with full_beyond(20_000), pytest.raises(RwmError, match=r"Cannot write .*: File too large"):
        write_minari(dataset, tmp_path / "minari")
    assert list((tmp_path / "minari").iterdir()) == []


def test_mapped_rows_that_do_not_fit_end_in_one_sentence(make_dataset, schema):
    dataset = make_dataset([Episode(np.zeros((200, schema.width), np.float32), truncated=True)])
    with full_beyond(20_000), pytest.raises(RwmError, match=r"Cannot write .*rows.f32: File too large"):
        dataset.mapped_matrix()
    assert not list(dataset.path.glob("*rows.f32*"))
