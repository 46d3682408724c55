"""Bad input, as a user meets it: one clear sentence on standard error, a non-zero exit, nothing written."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
