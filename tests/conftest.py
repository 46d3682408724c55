"""Fixtures every test may use: a home folder of its own, a robot, its schema."""

from __future__ import annotations

import pytest

from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.schema import Schema


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
