"""Bad input, as a user meets it: one clear sentence on standard error, a non-zero exit, nothing written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch


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
def test_one_sentence_and_what_to_try(rwm_process, home, words, sentence, hint):
    result = rwm_process(*words)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: "), result.stderr
    assert sentence in result.stderr and hint in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not home.data_dir.exists() or not any(home.data_dir.iterdir())
    assert not home.runs_dir.exists()


def test_empty_lists_say_what_to_type(rwm_process):
    assert "rwm data export" in rwm_process("data", "ls").stderr
    assert "rwm demo" in rwm_process("runs", "ls").stderr
    assert rwm_process("data", "ls", "--json").stdout.strip() == '{\n  "datasets": []\n}'


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n"


def test_what_is_not_a_world_model_is_named(rwm_process, tmp_path):
    pointer, policy = tmp_path / "pretrained.pt", tmp_path / "policy.pt"
    pointer.write_bytes(LFS_POINTER)
    torch.save({"model_state_dict": {"actor.0.weight": torch.zeros(1)}, "iter": 1}, policy)
    for file, sentence in ((pointer, "is a Git LFS pointer"), (policy, "holds a policy")):
        result = rwm_process("policy", "--model", str(file))
        assert result.returncode == 1 and sentence in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(rwm_process, home, tiny_dataset):
    result = rwm_process("fit", "--device", "cuda")
    assert result.returncode == 1 and "Device 'cuda' was asked for" in result.stderr
    assert "--device cpu" in result.stderr and not home.runs_dir.exists()


def test_a_taken_name_and_a_half_written_shard(rwm_process, tiny_dataset):
    result = rwm_process("data", "export", "--name", "tiny", "--transitions", "10")
    assert result.returncode == 1 and "'tiny' exists already" in result.stderr
    shard = tiny_dataset.shard_paths[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    result = rwm_process("data", "validate", "--json")
    assert result.returncode == 1 and not json.loads(result.stdout)["valid"]
    result = rwm_process("fit")
    assert result.returncode == 1 and "damaged or half-written" in result.stderr
    assert "rwm data validate tiny" in result.stderr


@pytest.fixture
def tiny_dataset(make_dataset, schema):
    rows = np.zeros((4, 60, schema.width), np.float32)
    rows[..., 8] = -1
    return make_dataset(rows, "tiny")


def test_a_shipped_model_is_not_changed(rwm_process, home):
    result = rwm_process("model", "calibrate", "shipped")
    assert result.returncode == 1 and "came with the installation and is not changed" in result.stderr


def test_numbers_that_json_does_not_have_are_null(rwm):
    said = rwm("sql", "select 'inf'::double as a, 'nan'::double as b, [1.5, 'inf'::double] as c", "--json")
    assert json.loads(said, parse_constant=pytest.fail) == {"rows": [{"a": None, "b": None, "c": [1.5, None]}]}


def test_resume_passes_over_a_run_that_is_at_work(home):
    from cli.runs import newest_unfinished
    from rwmdata.runs import Run

    broken, busy = (Run.create(home, "model", {}, {"dataset": "d"}, 0) for _ in range(2))
    broken.update(status="interrupted")
    with busy.running():
        assert newest_unfinished([busy, broken]).id == broken.id
