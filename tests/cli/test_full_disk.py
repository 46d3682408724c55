"""A disk that is full and a folder that cannot be written: one sentence, and what was there is still there."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest

from rwmdata.catalog import Dataset
from rwmdata.fsck import check_home
from rwmdata.validate import validate


def limited(size, *words):
    """Run the command line in a process that can write no file beyond ``size`` bytes."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, words)], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


@pytest.fixture
def dataset(home):
    words = ("data", "export", "--transitions", 4000, "--num-envs", 8, "--name", "old", "--home", home.root)
    assert limited(10**9, *words).returncode == 0
    return home.dataset("old")


def check_untouched(home, dataset, before):
    assert [d.name for d in home.datasets()] == ["old"]
    assert [f for f in validate(Dataset.open(dataset.path)) if f.severity == "error"] == []
    np.testing.assert_array_equal(dataset.matrix(), before)


def test_a_full_disk_leaves_the_old_state(home, dataset):
    before = dataset.matrix()
    done = limited(
        60_000, "data", "export", "--transitions", 4000, "--num-envs", 8, "--name", "new", "--home", home.root
    )
    assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr, done.stderr
    check_untouched(home, dataset, before)
    assert check_home(home) == []


def test_a_fit_on_a_full_disk_fails_in_one_sentence_and_can_go_on(home, dataset):
    before = dataset.matrix()
    done = limited(60_000, "fit", "--preset", "smoke", "--home", home.root)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "Cannot write" in done.stderr or "File too large" in done.stderr
    check_untouched(home, dataset, before)
    assert home.runs("model")[0].meta.status == "failed" and check_home(home) == []
    again = limited(10**9, "runs", "resume", "--home", home.root)
    assert again.returncode == 0, again.stderr
    assert home.runs("model")[0].meta.status == "finished"


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "data").write_text("mine")
    done = limited(10**9, "data", "export", "--transitions", 100, "--num-envs", 4, "--home", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(tmp_path / "data") in done.stderr
    assert (tmp_path / "data").read_text() == "mine"
