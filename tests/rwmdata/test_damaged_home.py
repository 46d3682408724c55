"""One bad byte does not hide the rest: what is damaged is named, what is whole is listed, and damage can be removed."""

from __future__ import annotations

import json

import pytest

from rwmdata.errors import RwmError
from rwmdata.fsck import check_home
from rwmdata.metrics_file import METRICS_FILE
from rwmdata.runs import RUN_FILE, Run
from rwmdata.views import run_sql

ODD = (b"17", b"[1, 2]", b'{"step": "x", "metric": "a", "value": 1}', b'{"metric": "a", "value": 1}', b"\xff\xfe",
       b'{"step": 2, "metric": "\xff", "value": 1.0}', b'{"step": 2, "metric": "a", "value": "q"}')  # fmt: skip


def record_with(run, content):
    (run.path / RUN_FILE).write_bytes(content)


@pytest.fixture
def two(home):
    """Return a whole run and the folder of one whose record holds a byte that is no text."""
    whole, broken = Run.create(home, "model", {}, {}, 0), Run.create(home, "model", {}, {}, 0)
    whole.finish({})
    raw = (broken.path / RUN_FILE).read_bytes()
    record_with(broken, raw.replace(b"created", b"cre\xffted", 1))
    return whole, broken.path


def test_a_byte_that_is_no_text_is_a_fault_of_its_run(two):
    with pytest.raises(RwmError, match="run.json is not a readable run record"):
        Run.open(two[1])


def test_runs_are_listed_beside_a_broken_one_which_is_named(two, rwm_process):
    whole, broken = two
    done = rwm_process("runs", "ls", "--json")
    assert [r["id"] for r in json.loads(done.stdout)["runs"]] == [whole.id] and done.returncode == 0
    assert str(broken) in done.stderr and "rwm runs rm" in done.stderr


def test_a_broken_run_can_be_removed(home, two, rwm):
    assert json.loads(rwm("runs", "rm", two[1].name, "--yes", "--json"))["removed"] == two[1].name
    assert not two[1].exists() and [p.name for p in (home.runs_dir / "model").iterdir()] == [two[0].id]


def test_a_run_that_is_running_is_not_removed(home, rwm):
    run = Run.create(home, "model", {}, {}, 0)
    with run.running(), pytest.raises(RwmError, match="is running"):
        rwm("runs", "rm", run.id, "--yes")
    assert run.path.exists()


def test_lines_that_are_no_metrics_are_left_out_and_named(home):
    run = Run.create(home, "model", {}, {}, 0)
    run.log(1, {"loss": 1.0})
    with (run.path / METRICS_FILE).open("ab") as file:
        file.write(b"\n".join(ODD) + b"\n")
    run.log(3, {"loss": float("nan")})
    with (run.path / METRICS_FILE).open("ab") as file:
        file.write(b'{"step": 4, "met')
    assert [(row["step"], row["value"]) for row in run.metrics()] == [(1, 1.0), (3, None)]
    (trouble,) = check_home(home)
    assert trouble.path.name == METRICS_FILE and trouble.what.startswith("lines 2, 3, 4, 5, 6, ... are no metrics")
    run.truncate_metrics(3)
    assert len(run.metrics()) == 2 and check_home(home) == []


def test_fsck_names_what_cannot_be_read_and_goes_on(home, two, make_dataset, episodes):
    whole, broken = two
    half = make_dataset(episodes(1, 20), name="half").path / "dataset.json"
    half.write_bytes(half.read_bytes()[:200])
    shard = make_dataset(episodes(1, 20), name="shard").shard_paths[0]
    shard.unlink()
    shard.mkdir()
    (whole.path / "summary.json").write_bytes(b"{\xff")
    places = [t.path for t in check_home(home)]
    assert places == [half.parent, shard, whole.path / "summary.json", broken] or places == [
        half.parent, shard, broken, whole.path / "summary.json"
    ]  # fmt: skip


def test_a_changed_digit_in_a_record_is_noticed(home, make_dataset, episodes):
    run = Run.create(home, "model", {}, {}, 7)
    run.finish({"loss": 0.125, "small": 1e-7, "none": None})
    manifest = make_dataset(episodes(1, 20)).path / "dataset.json"
    assert check_home(home) == []
    for file, old, new in ((run.path / RUN_FILE, b"0.125", b"0.115"), (manifest, b'"rows": 20', b'"rows": 21')):
        file.write_bytes(file.read_bytes().replace(old, new, 1))
    troubles = check_home(home)
    assert [t.path for t in troubles] == [manifest, run.path] and home.runs() == []
    assert all("has another checksum" in t.what for t in troubles)
    with pytest.raises(RwmError, match='run.json has another checksum .* once the line "checksum" is deleted'):
        Run.open(run.path)
    lines = (run.path / RUN_FILE).read_text().splitlines(keepends=True)
    (run.path / RUN_FILE).write_text("".join(line for line in lines if '"checksum"' not in line))
    assert Run.open(run.path).meta.summary["loss"] == 0.115


def test_a_changed_digit_in_the_metrics_is_left_out_and_named(home):
    run = Run.create(home, "model", {}, {}, 0)
    for step in (1, 2, 3):
        run.log(step, {"loss": step / 8})
    raw = run.metrics_file.path.read_bytes()
    assert b"0.25" in raw and run_sql(home, "from metrics").columns == ["run", "kind", "step", "metric", "value"]
    run.metrics_file.path.write_bytes(raw.replace(b"0.25", b"0.35"))
    said = []
    assert [row["value"] for row in run.metrics()] == [0.125, 0.375]
    rows = run_sql(home, "select step, value from metrics order by step", said.append).rows()
    assert rows == [(1, 0.125), (3, 0.375)] and "metrics.jsonl has damaged lines" in said[0]
    (trouble,) = check_home(home)
    assert trouble.what.startswith("lines 2 are no metrics")
    run.truncate_metrics(3)
    assert [row["step"] for row in run.metrics()] == [1, 3] and check_home(home) == []


def test_metrics_without_checksums_are_read_as_before(home):
    run = Run.create(home, "model", {}, {}, 0)
    rows = [{"step": step, "metric": "loss", "value": value} for step, value in ((1, 0.5), (2, None))]
    run.metrics_file.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run.metrics() == rows and check_home(home) == []
    assert run_sql(home, "select step, metric, value from metrics order by step").to_dicts() == rows


def test_a_finished_run_has_no_line_that_is_cut_off(home):
    run = Run.create(home, "model", {}, {}, 0)
    run.log(1, {"loss": 1.0})
    run.metrics_file.path.write_bytes(run.metrics_file.path.read_bytes()[:-5])
    assert check_home(home) == []  # A crash may have done that.
    run.update(status="finished")
    assert [t.path for t in check_home(home)] == [run.metrics_file.path]
