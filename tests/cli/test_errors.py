"""Bad input, as a user meets it: one clear sentence on standard error, a non-zero exit, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from rwmdata.episodes import Episode
from rwmdata.writer import DatasetWriter


def rwm(*words, home):
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words, "--home", str(home.root)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        (("data", "info"), "No dataset yet in", "rwm data export --task Pretrain-v0"),
        (("data", "validate", "nope"), "No dataset 'nope'", "rwm data ls"),
        (("fit",), "No dataset yet in", "rwm data export"),
        (("fit", "--preset", "huge"), "huge", "laptop"),
        (("policy",), "No finished model yet in", "rwm fit"),
        (("eval", "uncertainty"), "No finished model yet in", "rwm fit"),
        (("data", "export", "--robot", "spot"), "Unknown robot 'spot'; known robots: anymal_d", "--robot"),
        (("data", "export", "--task", "Dance-v0"), "Dance-v0", "Pretrain-v0"),
        (("data", "export", "--backend", "bullet"), "bullet", "mujoco"),
        (("data", "export", "--policy", "genius"), "genius", "scripted"),
        (("data", "convert", "missing.csv", "--name", "x"), "missing.csv", ""),
        (("runs", "show", "nope"), "No run 'nope'", "rwm runs ls"),
        (("runs", "resume"), "nothing to resume", "rwm runs ls"),
        (("runs", "ls", "--kind", "plot"), "Unknown kind 'plot'", "rwm runs ls"),
        (("sql", "select * from nothing"), "nothing", "transitions"),
    ],
)
def test_one_sentence_and_what_to_try(home, words, sentence, hint):
    result = rwm(*words, home=home)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: "), result.stderr
    assert sentence in result.stderr and hint in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not home.data_dir.exists() or not any(home.data_dir.iterdir())
    assert not home.runs_dir.exists()


def test_empty_lists_say_what_to_type(home):
    assert "rwm data export" in rwm("data", "ls", home=home).stderr
    assert "rwm demo" in rwm("runs", "ls", home=home).stderr
    assert rwm("data", "ls", "--json", home=home).stdout.strip() == '{\n  "datasets": []\n}'


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n"


def test_what_is_not_a_world_model_is_named(home, tmp_path):
    pointer, policy = tmp_path / "pretrained.pt", tmp_path / "policy.pt"
    pointer.write_bytes(LFS_POINTER)
    torch.save({"model_state_dict": {"actor.0.weight": torch.zeros(1)}, "iter": 1}, policy)
    for file, sentence in ((pointer, "is a Git LFS pointer"), (policy, "holds a policy")):
        result = rwm("policy", "--model", str(file), home=home)
        assert result.returncode == 1 and sentence in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(home, make_tiny_dataset):
    make_tiny_dataset()
    result = rwm("fit", "--device", "cuda", home=home)
    assert result.returncode == 1 and "Device 'cuda' was asked for" in result.stderr
    assert "--device cpu" in result.stderr and not home.runs_dir.exists()


def test_a_taken_name_and_a_half_written_shard(home, make_tiny_dataset):
    dataset = make_tiny_dataset()
    result = rwm("data", "export", "--name", "tiny", "--transitions", "10", home=home)
    assert result.returncode == 1 and "'tiny' exists already" in result.stderr
    shard = dataset.shard_paths[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    result = rwm("data", "validate", "--json", home=home)
    assert result.returncode == 1 and not json.loads(result.stdout)["valid"]
    result = rwm("fit", home=home)
    assert result.returncode == 1 and "damaged or half-written" in result.stderr
    assert "rwm data validate tiny" in result.stderr


@pytest.fixture
def make_tiny_dataset(home, schema):
    def make():
        rows = np.zeros((60, schema.width), np.float32)
        rows[:, 8] = -1
        with DatasetWriter(home.data_dir, "tiny", "anymal_d", schema, 50.0, {}) as writer:
            for _ in range(4):
                writer.append(Episode(rows, truncated=True))
            return writer.commit()

    return make
