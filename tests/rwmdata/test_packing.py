"""Runs and datasets come out of an archive as they went in; what is no archive of ours leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from rwmdata.atomic import TMP_MARK
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.fsck import check_home
from rwmdata.home import Home
from rwmdata.packing import INDEX_FILE, pack
from rwmdata.runs import Run
from rwmdata.unpacking import unpack


@pytest.fixture
def dataset(make_dataset, schema):
    rows = np.zeros((30, schema.width), np.float32)
    rows[:, 0] = np.arange(30) / 10
    return make_dataset([rows, rows[:12]], "walk")


@pytest.fixture
def chain(home, dataset):
    """A model fitted on the dataset, and a policy made inside it."""
    model = Run.create(home, "model", {"lr": 0.1}, {"dataset": "walk"}, 0)
    model.model_file.write_bytes(b"weights")
    model.log(1, {"loss": 0.5})
    model.finish({"loss": 0.25})
    policy = Run.create(home, "policy", {}, {"dataset": "walk", "model": model.id, "policy": None}, 3)
    policy.policy_file.write_bytes(b"policy")
    (policy.path / ".hidden").write_text("of a desktop")
    policy.finish({"robot": "anymal_d", "return": 12.3456})
    return model, policy


@pytest.fixture
def other(tmp_path):
    return Home(tmp_path / "other")


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def nothing_left(home):
    """No file, finished or not; fsck finds nothing to do."""
    return content(home.root) == {} and check_home(home) == []


def test_a_run_comes_out_as_it_went_in_with_all_it_was_made_from(home, chain, other, tmp_path):
    packed = pack(home, chain[1], tmp_path / "p.zip", licence="mit")
    kinds = [part.kind for part in packed.index.parts]
    assert kinds == ["dataset", "model", "policy"] and packed.index.left_out == []
    unpacked = unpack(other, tmp_path / "p.zip")
    before = {k: v for k, v in content(home.root).items() if not k.endswith(".hidden")}
    assert content(other.root) == before and len(unpacked.added) == 3
    assert other.run("policy").meta.parents["model"] == other.run("model").id == chain[0].id
    assert other.dataset("walk").matrix()[:, 0].tolist() == home.dataset("walk").matrix()[:, 0].tolist()
    again = unpack(other, tmp_path / "p.zip")
    assert again.added == [] and len(again.present) == 3


def test_equal_content_gives_equal_archives_wherever_it_was_packed(home, chain, other, tmp_path):
    first = pack(home, chain[1], tmp_path / "a.zip")
    unpack(other, tmp_path / "a.zip")
    second = pack(other, other.run("policy"), tmp_path / "b.zip")
    assert first.sha256 == second.sha256 == hashlib.sha256((tmp_path / "b.zip").read_bytes()).hexdigest()
    assert pack(home, chain[1], tmp_path / "c.zip", licence="mit").sha256 != first.sha256


def test_parents_are_left_out_as_wanted_or_because_they_are_gone(home, chain, other, tmp_path):
    packed = pack(home, chain[1], tmp_path / "p.zip", without=("model", "dataset"))
    assert [p.kind for p in packed.index.parts] == ["policy"]
    assert [(p.kind, p.why) for p in packed.index.left_out] == [("dataset", "not wanted"), ("model", "not wanted")]
    unpack(other, tmp_path / "p.zip")
    found = pack(other, other.run("policy"), tmp_path / "q.zip").index.left_out
    assert {(p.kind, p.name, p.why) for p in found} == {
        ("dataset", "walk", "not in this home"), ("model", chain[0].id, "not in this home")
    }  # fmt: skip
    with pytest.raises(RwmError, match="'data' is no parent; parents: dataset, model, policy"):
        pack(home, chain[1], tmp_path / "r.zip", without=("data",))


def test_the_card_is_one_of_hugging_face(home, chain, dataset, tmp_path):
    pack(home, chain[1], tmp_path / "p.zip", licence="cc-by-4.0")
    pack(home, dataset, tmp_path / "d.zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        _, front, text = archive.read("README.md").decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert (about["license"], about["library_name"], about["pipeline_tag"]) == ("cc-by-4.0", "rwm", "robotics")
    assert "anymal_d" in about["tags"] and "| return | 12.35 |" in text and "cc-by-4.0" in text
    assert f"rwm eval policy --policy {chain[1].id}" in text and "rwm runs unpack FILE" in text
    with zipfile.ZipFile(tmp_path / "d.zip") as archive:
        _, front, text = archive.read("README.md").decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["size_categories"] == ["n<1K"] and about["task_categories"] == ["robotics"]
    assert about["configs"] == [{"config_name": "default", "data_files": "data/walk/*.parquet"}]
    assert "| rows | 42 |" in text and "No licence was stated" in text


def test_a_card_does_not_say_where_on_the_disk_things_were(home, tmp_path):
    run = Run.create(home, "policy", {}, {"policy": "/home/anna/p.safetensors#sha256=ab"}, 0)
    run.update(command=["/home/anna/.venv/bin/rwm", "policy", "--home", "/home/anna/x", "--model", "/home/anna/m.pt"])
    run.finish({})
    pack(home, run, tmp_path / "p.zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        text = archive.read("README.md").decode()
    assert "rwm policy --model m.pt" in text and "anna" not in text and "p.safetensors" in text


def test_nothing_is_written_over(home, chain, dataset, other, tmp_path, make_dataset, schema):
    pack(home, chain[0], tmp_path / "p.zip")
    with pytest.raises(RwmError, match=r"p.zip exists already; nothing was written"):
        pack(home, chain[0], tmp_path / "p.zip")
    folder = other.data_dir / "walk"
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    with pytest.raises(RwmError, match="exists already and is not the dataset 'walk'"):
        unpack(other, tmp_path / "p.zip")
    assert content(other.root) == {"data/walk/mine": b"mine"}


def test_a_run_at_work_and_a_damaged_dataset_are_not_packed(home, chain, dataset, tmp_path):
    with chain[1].running(), pytest.raises(RwmError, match="is still running"):
        pack(home, Run.open(chain[1].path), tmp_path / "p.zip")
    chain[1].update(pid=None)
    with pytest.raises(RwmError, match="stopped without a word"):
        pack(home, Run.open(chain[1].path), tmp_path / "p.zip")
    shard = dataset.shard_paths[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(RwmError, match="another checksum than when it was written; nothing was packed"):
        pack(home, chain[0], tmp_path / "p.zip")
    with pytest.raises(RwmError, match="no identifier of a licence"):
        pack(home, chain[0], tmp_path / "p.zip", licence="my own: do as you like")
    assert [p.name for p in tmp_path.glob("*p.zip*")] == []


def test_a_flipped_byte_anywhere_is_seen(home, chain, other, tmp_path):
    pack(home, chain[1], tmp_path / "p.zip")
    whole = (tmp_path / "p.zip").read_bytes()
    bad = tmp_path / "bad.zip"
    for place in (*range(60, len(whole) - 60, max(1, len(whole) // 60)), len(whole) - 30):
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            unpack(other, bad)
        except RwmError:
            assert nothing_left(other)
            continue
        # Some bytes mean nothing, as the time of a file does not: then all content has to be right.
        kept = {k: v for k, v in content(home.root).items() if not k.endswith(".hidden")}
        assert content(other.root) == kept
        for path in sorted(other.root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RwmError, match="is no archive of rwm runs pack, or it is damaged"):
        unpack(other, bad)
    assert nothing_left(other)


def crafted(path, files, mode=0o100644, compress=zipfile.ZIP_STORED, parts=None, index=None):
    """Write an archive with an index that fits its files."""
    described = {k: {"size": len(v), "sha256": hashlib.sha256(v).hexdigest()} for k, v in files.items()}
    about = {"format": "rwm-pack-1", "parts": parts or [{"kind": "model", "name": "m"}], "left_out": []}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system, info.compress_type = mode << 16, 3, compress
            archive.writestr(info, data)
        archive.writestr(INDEX_FILE, json.dumps(about | {"files": described} | (index or {})))
    return path


@pytest.fixture
def record(home):
    """The files of a small run called m."""
    run = Run.create(home, "model", {}, {}, 0)
    run.finish({})
    meta = run.meta.model_copy(update={"id": "m"}).model_dump_json().encode()
    return {"README.md": b"card", "runs/model/m/run.json": meta}


def test_the_crafted_archive_is_right_but_for_what_is_done_to_it(record, other, tmp_path):
    unpack(other, crafted(tmp_path / "x.zip", record))
    assert other.run("model").id == "m"


PATHS = (
    "/etc/cron.d/x", "../x", "runs/model/../../../x", "runs/model/m/../../../../x", "data/../x", "runs/model/m/..",
    "runs\\model\\m\\x", "C:/x", "runs/model/m/C:x", "x", "runs/x", "runs/other/m/x", "data/set", "data/set/a/b",
    "runs/model/m//x", "runs/model/m/./x", "runs/model/m/.lock", f"runs/model/m/{TMP_MARK}1-x", "runs/model/m/a\nb",
    "runs/model/.m/x", "runs/model/m/ x", "runs/model/m/" + 300 * "x", "runs/model/m/", "README.md", "RWM-PACK.json",
    "runs/model/m/RUN.json",
)  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_names_that_lead_elsewhere_are_refused(record, other, tmp_path, name):
    path = crafted(tmp_path / "x.zip", record)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns() if name == "README.md" else _quiet():
        archive.writestr(name, b"evil")
    with pytest.raises(RwmError, match="is refused: .*nothing was written"):
        unpack(other, path)
    assert nothing_left(other) and not (tmp_path / "x").exists()


def _quiet():
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_links_and_devices_are_refused(record, other, tmp_path, mode):
    with pytest.raises(RwmError, match="is a link, a device or a folder"):
        unpack(other, crafted(tmp_path / "x.zip", record, mode | 0o777))
    assert nothing_left(other)


def test_bombs_are_refused(record, other, tmp_path):
    zeros = {**record, "runs/model/m/zeros": bytes(10_000_000)}
    with pytest.raises(RwmError, match="is compressed or encrypted"):
        unpack(other, crafted(tmp_path / "x.zip", zeros, compress=zipfile.ZIP_DEFLATED))
    path = crafted(tmp_path / "y.zip", record)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")  # The index, last in the directory, says that it is larger than the archive.
    data[at + 20 : at + 28] = 2 * (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(RwmError, match="its files are larger than itself"):
        unpack(other, path)
    assert nothing_left(other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "rwm-pack-9"}, "has the format 'rwm-pack-9'"),
        ({"parts": []}, "is not valid"),
        ({"files": {}}, "are not those that its"),
        ({"parts": [{"kind": "model", "name": "other"}]}, "are not those that its"),
        ({"parts": 2 * [{"kind": "model", "name": "m"}]}, "are not those that its"),
        ({"unknown": 1}, "is not valid"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(record, other, tmp_path, change, said):
    with pytest.raises(RwmError, match=said):
        unpack(other, crafted(tmp_path / "x.zip", record, index=change))
    assert nothing_left(other)


def test_parts_that_are_not_what_they_say_are_refused(record, home, dataset, other, tmp_path):
    wrong = {**record, "runs/model/m/run.json": record["runs/model/m/run.json"].replace(b'"id":"m"', b'"id":"n"')}
    with pytest.raises(RwmError, match="is that of model n"):
        unpack(other, crafted(tmp_path / "a.zip", wrong))
    files = {"README.md": b"", **{f"data/walk/{k}": v for k, v in content(dataset.path).items()}}
    parts = [{"kind": "dataset", "name": "walk"}]
    with pytest.raises(RwmError, match="not those its manifest names"):  # A cache of rows would be believed unread.
        unpack(other, crafted(tmp_path / "b.zip", {**files, "data/walk/rows.f32": b"1234"}, parts=parts))
    with pytest.raises(RwmError, match="not those its manifest names"):
        changed = {k: v + b"x" if k.endswith("parquet") else v for k, v in files.items()}
        unpack(other, crafted(tmp_path / "c.zip", changed, parts=parts))
    assert nothing_left(other)
    unpack(other, crafted(tmp_path / "d.zip", files, parts=parts))
    assert Dataset.open(other.data_dir / "walk").rows == 42


def test_other_files_are_no_archives(other, tmp_path):
    with pytest.raises(RwmError, match="There is no archive"):
        unpack(other, tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("README.md", b"hello")
    with pytest.raises(RwmError, match="has no rwm-pack.json: rwm runs pack did not write it"):
        unpack(other, tmp_path / "x.zip")
    for data in (b"", b"not a zip", b"PK\x05\x06" + bytes(18)):
        (tmp_path / "y.zip").write_bytes(data)
        with pytest.raises(RwmError, match="no archive|has no rwm-pack"):
            unpack(other, tmp_path / "y.zip")


def test_a_full_disk_is_said_before(home, chain, other, tmp_path, monkeypatch):
    pack(home, chain[0], tmp_path / "p.zip")
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("", (), {"free": 10})())
    with pytest.raises(RwmError, match="Unpacking needs"):
        unpack(other, tmp_path / "p.zip")
    assert nothing_left(other)


STOPPED = """
import os, sys
from pathlib import Path
from rwmdata.home import Home
from rwmdata import {module}
calls = 0
def progress(*_):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), 9)
home = Home(Path(sys.argv[1]))
{call}
"""


@pytest.mark.parametrize("stop", ["pack", "unpack"])
def test_kill_9_leaves_nothing_that_counts(home, chain, other, tmp_path, stop):
    calls = {
        "pack": ("packing", "packing.pack(home, home.run('policy'), Path(sys.argv[2]), progress=progress)"),
        "unpack": ("unpacking", "unpacking.unpack(home, Path(sys.argv[2]), progress=progress)"),
    }
    module, call = calls[stop]
    out = tmp_path / "p.zip"
    if stop == "unpack":
        pack(home, chain[1], out)
    where = home if stop == "pack" else other
    script = STOPPED.format(module=module, call=call)
    done = subprocess.run(
        [sys.executable, "-c", script, str(where.root), str(out)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert done.returncode == -9
    if stop == "pack":
        assert not out.exists()
        pack(home, chain[1], out)
        assert [p.name for p in tmp_path.glob("*p.zip*")] == ["p.zip"]
    else:
        assert other.datasets() == [] and other.runs() == []
    assert len(unpack(other, out).added) == 3 and check_home(other) == []


def test_the_command_line_packs_and_unpacks(rwm, home, chain, tmp_path):
    out = tmp_path / "x.zip"
    made = json.loads(rwm("runs", "pack", chain[1].id[:-2], "--out", out, "--without", "dataset", "--json"))
    assert made["bytes"] == out.stat().st_size and [p["kind"] for p in made["parts"]] == ["model", "policy"]
    assert json.loads(rwm("runs", "pack", "walk", "--out", tmp_path / "d.zip", "--license", "mit", "--json"))["sha256"]
    found = json.loads(rwm("runs", "unpack", out, "--json"))
    assert [p["new"] for p in found["parts"]] == [False, False] and found["left_out"][0]["name"] == "walk"
    with pytest.raises(RwmError, match="No run and no dataset 'nothing'"):
        rwm("runs", "pack", "nothing")
