"""Isaac Lab 3.0 for real, on Newton and the processor. Run by ``make test-isaaclab3``; skipped where it is not."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmrl.export import ExportConfig, export_dataset

HERE = Path(__file__).parent
EPISODE_S, ROWS = 1.2, 100
"""Time limit of an episode, and rows per robot."""
NOISE = {"anymal_d": 2.5, "go2": 1.4}
"""Noise on the expert's actions, so that some robots fall and some do not."""
collect_ignore_glob = [] if find_spec("isaaclab") and find_spec("newton") else ["test_*"]


@pytest.fixture(scope="session", autouse=True)
def assets(tmp_path_factory):
    """An asset root of our own; Isaac Lab reads where it is when it is imported."""
    from rwmrl.envs.usd import write_assets

    root = tmp_path_factory.mktemp("assets")
    write_assets([load_robot("anymal_d"), load_robot("go2")], root)
    os.environ["ISAACSIM_ASSET_ROOT"] = str(root)
    os.environ["RWM_TEST_RECORDINGS"] = str(tmp_path_factory.mktemp("recordings"))
    os.environ["RWM_TASK_MODULES"] = "own_tasks"
    sys.path.insert(0, str(HERE))
    os.environ["PYTHONPATH"] = str(HERE)
    return root


@pytest.fixture(scope="session")
def isaac_home(tmp_path_factory):
    return Home.resolve(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def make_rows(isaac_home):
    """Export rows on the processor, in short episodes."""

    def make(robot, name, **options):
        common = {
            "num_envs": 16,
            "transitions": 16 * ROWS,
            "device": "cpu",
            "policy": "expert",
            "action_noise": NOISE[robot],
        }
        config = ExportConfig(
            backend="isaaclab", robot=robot, name=name, episode_length_s=EPISODE_S, **common | options
        )
        return export_dataset(isaac_home, config)

    return make


@pytest.fixture(scope="session", params=["anymal_d", "go2"])
def exported(request, make_rows):
    """Rows of a robot's registered, unmodified task; and the warnings given meanwhile."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        dataset = make_rows(request.param, request.param)
    return dataset, given
