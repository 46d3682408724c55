"""The doctor's extras are those of the package, and what it says of each."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from rwmrl import doctor

DECLARED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_extra_is_listed_with_its_packages():
    declared = {k: {re.match(r"[\w-]+", p)[0] for p in v} for k, v in DECLARED.items() if k not in ("dev", "mujoco")}
    assert declared == {name: set(packages) for name, (_, packages) in doctor.EXTRAS.items()}
    assert f"rsl-rl-lib>={'.'.join(map(str, doctor.MIN_RSL_RL))}" in DECLARED["rl"][0]


def test_a_missing_or_old_package_is_named_with_the_command_that_installs_it(monkeypatch):
    installed = {"rsl-rl-lib": "5.3.0rc1", "onnx": "1.20", "onnxruntime": "1.2", "viser": "1.1.1", "minari": "1"}

    def version(name):
        if name in doctor.PACKAGES:
            return "1"
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor, "version", version)
    found = {f.name: f for f in doctor.diagnose() if f.topic == "extra"}
    assert found.keys() == doctor.EXTRAS.keys() and all(f.needed_for for f in found.values())
    assert found["viser"].ok and found["viser"].found == "viser 1.1.1" and not found["viser"].hint
    assert (found["rl"].found, found["rl"].hint) == ("rsl-rl-lib 5.3.0rc1 is older than 5.4", "pip install 'rwm[rl]'")
    assert (found["onnx"].ok, found["onnx"].found) == (False, "onnxscript is not installed")
    assert "environment of its own" in found["d3rlpy"].hint
    assert not found["usd"].ok
    installed["usd-exchange"] = "3.0.1"  # as in Isaac Lab 3.0
    assert {f.name: f.found for f in doctor.diagnose()}["usd"] == "usd-exchange 3.0.1"
    installed["rsl-rl-lib"] = "5.10.2"
    assert {f.name: f.ok for f in doctor.diagnose()}["rl"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ({"float32": 3.0, "bfloat16": 1.5}, "auto is bfloat16 (beside float32 bfloat16 2.0 times as fast)"),
        ({"float32": 3.0, "bfloat16": 2.5}, "auto is float32 (beside float32 bfloat16 1.2 times as fast)"),
        ({"float32": float("nan")}, "auto is float32 (the only one this device has)"),
    ],
)
def test_it_says_what_the_fastest_arithmetic_is_here(monkeypatch, seconds, text):
    monkeypatch.setattr(doctor, "pass_seconds", lambda *arguments: seconds)
    (found,) = [f for f in doctor.diagnose() if f.name == "precision"]
    assert found.ok and found.found == text
