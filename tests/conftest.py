"""Fixtures every test may use: a home, a robot and its schema, datasets, the command line, two processes at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rwmdata import processes
from rwmdata.catalog import Dataset
from rwmdata.episodes import Episode, is_truncated
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter
from rwmmodel import fastest


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or behind others; ``RWM_SEED=1`` makes them draw others."""
    seed = int(os.environ.get("RWM_SEED", "0"))
    torch.manual_seed(seed)
    np.random.seed(seed)


@pytest.fixture(autouse=True)
def _float32_is_fastest(monkeypatch, tmp_path_factory) -> None:
    """``precision: auto`` is float32 in this process; others measure, and remember it in a cache of the session."""
    monkeypatch.setattr(fastest, "pass_seconds", lambda *arguments: {"float32": 1.0})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def usual_signals(monkeypatch):
    """No signal has come, and all are handled as in a terminal: in the background some would be ignored."""
    monkeypatch.setattr(processes._Received, "number", None)
    usual = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(processes.ENDING, signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
def make_dataset(home, schema) -> Callable[..., Dataset]:
    """Commit episodes as a dataset; those given as bare rows end in a fall where their last row is one."""

    def make(parts: Iterable[Episode | np.ndarray], name: str = "set", behaviour: str = "synthetic") -> Dataset:
        with DatasetWriter(home.data_dir, name, "anymal_d", schema, 50.0, {"source": "test"}) as writer:
            for part in parts:
                if isinstance(part, np.ndarray):
                    part = Episode(part, is_truncated(part), behaviour=behaviour)
                writer.append(part)
            return writer.commit()

    return make


@pytest.fixture
def rwm(home) -> Callable[..., str]:
    """Run a command in this process and return what it prints; a fault of the user is raised."""
    from cli.main import app

    def run(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*map(str, words), "--home", str(home.root)])
        if isinstance(result.exception, RwmError):
            raise result.exception
        assert result.exit_code == code, result.exception or result.output
        return result.stdout

    return run


@pytest.fixture
def rwm_process(home) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own, whatever comes of it."""

    def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", *map(str, words), "--home", str(home.root)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    return run


@pytest.fixture
def on_two_processes(tmp_path) -> Callable[..., list[str]]:
    """Run a script, words behind it, on two processes of torchrun; return what each of them said.

    The last word a script gets is a folder; what a process says is its file there, named by its rank, because what
    two processes print may come out mixed.
    """

    def run(script: str, *words: str) -> list[str]:
        file, said = tmp_path / "script.py", tmp_path / "said"
        # As the command line does it: threads that torch keeps for the group may abort an ordinary exit.
        file.write_text(f"{script}\nimport os\nos._exit(0)\n")
        said.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(file)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *words, str(said)], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return [(said / rank).read_text() for rank in ("0", "1")]

    return run
