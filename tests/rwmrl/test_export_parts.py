"""An export in parts gives the same rows on however many workers, processes or Ray's, and goes on where it failed."""

from __future__ import annotations

import numpy as np
import pytest

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmrl import export_parts
from rwmrl.export import ExportConfig, export_dataset
from rwmrl.export_parts import PART_SEED, export_in_parts, part_config

CONFIG = ExportConfig(
    transitions=101, num_envs=4, name="set", seed=3, episode_length_s=0.3, parts=3, policy="wander", randomize=True
)


@pytest.fixture
def in_this_process(monkeypatch):
    """Run the jobs one after the other; return which ones, newest last."""
    ran = []

    def run_jobs(function, jobs, *_):
        for k, job in jobs.items():
            ran.append(k)
            yield k, function(job, 1)

    monkeypatch.setattr(export_parts, "run_jobs", run_jobs)
    return ran


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The three parts, exported one by one without workers."""
    home = Home(tmp_path_factory.mktemp("expected"))
    return [export_dataset(home, part_config(CONFIG, k)) for k in range(3)]


def same_rows(dataset, expected):
    assert np.array_equal(dataset.matrix(), np.concatenate([part.matrix() for part in expected]))
    return dataset.episodes.length.tolist() == [n for part in expected for n in part.episodes.length.tolist()]


def test_the_parts_are_joined_in_order(home, expected, in_this_process):
    told = []
    dataset = export_in_parts(home, CONFIG, progress=lambda done, total, _: told.append((done, total)))
    assert same_rows(dataset, expected) and in_this_process == [0, 1, 2]
    assert told == [(0, 101), (33, 101), (67, 101), (101, 101)] and dataset.rows == 101
    origin = dataset.manifest.provenance
    assert (origin["seed"], origin["num_envs"], origin["config"]["parts"]) == (3, 12, 3)
    drawn = dataset.manifest.episodes.parameters
    assert drawn and all(
        values == [v for part in expected for v in part.manifest.episodes.parameters[name]]
        for name, values in drawn.items()
    )
    frame = dataset.scan().collect()
    assert frame["episode"].to_list() == np.repeat(range(len(dataset.episodes)), dataset.episodes.length).tolist()
    assert frame["command_lin_vel_x"].null_count() == 0 and frame["reward"].null_count() == 0
    assert [p.name for p in home.data_dir.iterdir()] == ["set"]
    with pytest.raises(RwmError, match="'set' exists already"):
        export_in_parts(home, CONFIG)


def test_parts_divide_the_rows_and_have_seeds_of_their_own():
    parts = [part_config(CONFIG, k) for k in range(3)]
    assert [p.transitions for p in parts] == [33, 34, 34]
    assert [p.seed for p in parts] == [3, 3 + PART_SEED, 3 + 2 * PART_SEED]
    assert all(p.parts is None and p.num_envs == 4 for p in parts)


def test_two_processes_make_the_same_rows(home, expected):
    assert same_rows(export_in_parts(home, CONFIG, workers=2), expected)


def test_what_is_finished_is_kept_when_a_part_fails(home, expected, in_this_process, monkeypatch):
    working = export_parts.export_part
    fails = {"part-00001"}
    monkeypatch.setattr(
        export_parts,
        "export_part",
        lambda job, threads: (None, "no room") if any(f in job[1] for f in fails) else working(job, threads),
    )
    with pytest.raises(RwmError, match=r"1 of 3 parts failed \(no room\); the others are kept"):
        export_in_parts(home, CONFIG)
    assert home.datasets() == []
    fails.clear()
    assert same_rows(export_in_parts(home, CONFIG), expected) and in_this_process == [0, 1, 2, 1]
    assert [p.name for p in home.data_dir.iterdir()] == ["set"]


def test_parts_of_another_export_are_not_taken(home, expected, in_this_process, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(export_parts, "_joined", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_in_parts(home, CONFIG.model_copy(update={"seed": 4}))
    assert same_rows(export_in_parts(home, CONFIG), expected) and in_this_process == [0, 1, 2] * 2


def test_what_cannot_be_divided_or_sent_is_refused(home):
    with pytest.raises(RwmError, match="2 rows cannot be 3 parts"):
        export_in_parts(home, CONFIG.model_copy(update={"transitions": 2}))
    with pytest.raises(RwmError, match="Unknown engine 'slurm'; engines: local, ray"):
        export_in_parts(home, CONFIG, engine="slurm")
    with pytest.raises(RwmError, match="needs --engine ray"):
        export_in_parts(home, CONFIG, address="host:6379")


def test_two_workers_of_a_ray_cluster_make_the_same_rows(home, expected, ray_address):
    dataset = export_in_parts(home, CONFIG, "ray", workers=2, address=ray_address)
    assert same_rows(dataset, expected)


def test_the_command_line_exports_in_parts(rwm, home, in_this_process):
    rwm("data", "export", "--transitions", 60, "--parts", 2, "--workers", 2, "--num-envs", 4, "--name", "two")
    assert home.dataset("two").rows == 60 and in_this_process == [0, 1]
