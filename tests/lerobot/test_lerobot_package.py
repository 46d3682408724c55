"""The ``lerobot`` package itself reads what we write, and we read what it writes. Run by ``make test-lerobot``."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import yaml

from rwmdata.episodes import Episode
from rwmdata.formats.convert import convert
from rwmdata.formats.lerobot import write_lerobot
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.schema import Schema

STUBBED = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2",
           "torchvision.transforms.v2.functional", "torchvision.transforms.functional")  # fmt: skip
FRAMES = 40


def stub_torchvision():
    """Stand in for torchvision, which lerobot imports for images: its wheels fit no other torch than their own."""
    for name in STUBBED:
        module = types.ModuleType(name)
        module.__spec__, module.__file__ = importlib.machinery.ModuleSpec(name, None), "stub"
        module.__getattr__ = attribute  # type: ignore[method-assign]
        sys.modules[name] = module


def attribute(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


@pytest.fixture(scope="module")
def lerobot_dataset():
    stub_torchvision()
    return pytest.importorskip("lerobot.datasets.lerobot_dataset").LeRobotDataset


@pytest.fixture
def schema():
    return Schema.from_robot(load_robot("anymal_d"))


@pytest.fixture
def rows(schema):
    rows = np.random.default_rng(0).normal(size=(3, FRAMES, schema.width)).astype(np.float32)
    rows[..., schema.contact] = rows[..., schema.contact] > 0
    rows[..., -1] = 0
    rows[1, -1, -1] = 1
    return rows


def test_lerobot_reads_every_frame_we_write(lerobot_dataset, schema, rows, make_dataset, tmp_path):
    dataset = make_dataset([Episode(e, truncated=not e[-1, -1], command=e[:, :3]) for e in rows])
    read = lerobot_dataset("local/a", root=write_lerobot(dataset, tmp_path / "out"))
    assert (len(read), read.num_episodes, read.fps) == (3 * FRAMES, 3, 50)
    flat = rows.reshape(-1, schema.width)
    for k in range(3 * FRAMES):
        frame, last = read[k], k % FRAMES == FRAMES - 1
        np.testing.assert_array_equal(frame["observation.state"], flat[k, schema.state])
        np.testing.assert_array_equal(frame["observation.contact"], flat[k, schema.contact])
        np.testing.assert_array_equal(frame["observation.command"], flat[k, :3])
        np.testing.assert_array_equal(
            frame["action"], 0 * flat[k, schema.action] if last else flat[k + 1, schema.action]
        )
        assert (int(frame["episode_index"]), bool(frame["next.done"])) == (k // FRAMES, last)
        assert bool(frame["next.terminated"]) == (k == 2 * FRAMES - 1)
        assert float(frame["timestamp"]) == pytest.approx(k % FRAMES / 50)
    assert read.meta.stats["observation.state"]["mean"] == pytest.approx(flat[:, schema.state].mean(0), abs=1e-5)


def test_we_read_what_lerobot_writes(lerobot_dataset, schema, rows, tmp_path):
    shapes = {"observation.state": schema.dims["state"], "action": schema.dims["action"]}
    features = {k: {"dtype": "float32", "shape": (n,), "names": None} for k, n in shapes.items()}
    made = lerobot_dataset.create("local/b", 50, features, root=tmp_path / "b", robot_type="anymal_d", use_videos=False)
    for episode in rows:
        for row in episode:
            made.add_frame({"observation.state": row[schema.state], "action": row[schema.action], "task": "walk"})
        made.save_episode()
    made.finalize()
    groups = {
        name: {"path": "observation.state", "columns": [schema.group(name).start, schema.group(name).stop]}
        for name in schema.groups[:6]
    }
    mapping = tmp_path / "mapping.yaml"
    missing = ["thigh_contact", "foot_contact", "termination"]
    mapping.write_text(yaml.safe_dump({"groups": {**groups, "action": {"path": "action"}}, "missing": missing}))
    dataset = convert(Home(tmp_path), [tmp_path / "b"], "b", mapping=mapping)
    assert dataset.episodes.length.tolist() == [FRAMES] * 3
    found = dataset.matrix().reshape(rows.shape)
    gravity = schema.group("projected_gravity")
    direction = rows[..., gravity] / np.linalg.norm(rows[..., gravity], axis=-1, keepdims=True)
    np.testing.assert_allclose(found[..., gravity], direction, atol=1e-6)
    np.testing.assert_array_equal(found[..., : gravity.start], rows[..., : gravity.start])
    np.testing.assert_array_equal(
        found[..., gravity.stop : schema.state.stop], rows[..., gravity.stop : schema.state.stop]
    )
    np.testing.assert_array_equal(found[:, 1:, schema.action], rows[:, :-1, schema.action])
