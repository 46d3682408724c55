"""A disk that is full and a folder that cannot be written: one sentence, and what was there is still there."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from rwmdata.catalog import Dataset
from rwmdata.fsck import check_home
from rwmdata.validate import validate

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
