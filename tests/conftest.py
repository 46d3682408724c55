"""Fixtures every test may use: a home folder of its own, a robot, its schema, two processes that work together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.schema import Schema


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or behind others; ``RWM_SEED=1`` makes them draw others."""
    seed = int(os.environ.get("RWM_SEED", "0"))
    torch.manual_seed(seed)
    np.random.seed(seed)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    """An empty home; commands that take no --home work in it too."""
    monkeypatch.setenv("RWM_HOME", str(tmp_path / "home"))
    return Home.resolve()


@pytest.fixture(scope="session")
def robot():
    return load_robot("anymal_d")


@pytest.fixture(scope="session")
def schema(robot) -> Schema:
    return Schema.from_robot(robot)


@pytest.fixture
def on_two_processes(tmp_path) -> Callable[..., list[str]]:
    """Run a script, words behind it, on two processes of torchrun; return what each of them said.

    The last word a script gets is a folder; what a process says is its file there, named by its rank, because what
    two processes print may come out mixed.
    """

    def run(script: str, *words: str) -> list[str]:
        file, said = tmp_path / "script.py", tmp_path / "said"
        file.write_text(script)
        said.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(file)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *words, str(said)], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return [(said / rank).read_text() for rank in ("0", "1")]

    return run
