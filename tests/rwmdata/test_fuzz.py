"""Damaged files of every kind: each becomes a sound dataset with every row in it, or a clear error; nothing else.

``RWM_FUZZ=2500`` makes 17,500 of them, 2500 of each kind.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import traceback
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
import yaml

from rwmdata.atomic import write_json
from rwmdata.catalog import Dataset
from rwmdata.checksums import CHECKSUM, sealed
from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import SUMMARY_VERSION
from rwmdata.formats.convert import convert
from rwmdata.formats.lerobot import write_lerobot
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmdata.schema import Schema
from rwmdata.validate import validate
from rwmdata.writer import DatasetWriter

CASES = int(os.environ.get("RWM_FUZZ", "60"))
LIMIT_S = 10
"""A case that takes longer hangs."""
ROWS = 12
WORDS = (b"nan", b"inf", b"-inf", b"1e999", b"-", b"", b"0x10", b"1_0", b"\xef\xbc\x91", b'"0.5"', b" 0.5", b"1,5",
         b"true", b"null", b"~", b"[]", b"{}", b"-1", b"0", b"1e-320", b"9" * 400, b"\x00", b"\xff\xfe",
         b"!!python/object:x {}", b"../../x", b"&a *a", b"99999999999999999999", b"-0.0", b"1.", b".5", b"+1",
         b"\r\n", b"\n\n", b"#", b"%")  # fmt: skip
NUMBER = re.compile(rb"-?\d+\.?\d*(?:e-?\d+)?")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to three places."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64, 512)))
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:at] + bytes(rng.randrange(256) for _ in range(end - at)) + data[end:]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:end] + data[at:end] + data[end:]
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            data = data[:at] + rng.choice(WORDS) + data[at:]
        elif kind in (5, 6):
            numbers = list(NUMBER.finditer(data))
            if numbers:
                chosen = rng.choice(numbers)
                data = data[: chosen.start()] + rng.choice(WORDS) + data[chosen.end() :]
        else:
            lines = data.split(b"\n")
            first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[first], lines[second] = lines[second], lines[first]
            data = b"\n".join(lines)
    return data


HOSTILE = (None, True, -1, 0, 3, 1e308, 10**30, "", "x" * 5000, "../../x", "/etc/passwd", "{episode_index:09999999d}",
           "{chunk_index", "{0.__class__}", "[bold", "\x1b[31m", "'; drop table runs --", "nan",
           "2026-01-01T00:00:00", [], {}, [[1]], {"a": {"b": 1}}, [None], float("inf"))  # fmt: skip
"""What stands in a JSON file in place of something else."""


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Put something hostile in one to three places of a JSON file, or leave the places out; without its checksum."""
    content = json.loads(data)
    content.pop(CHECKSUM, None)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(containers(content))
        inside = rng.choice([place for place in places if place])
        key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if rng.random() < 0.2:
            del inside[key]
        else:
            inside[key] = rng.choice(HOSTILE)
        if not any(containers(content)):
            break
    if rng.random() < 0.5:
        content = sealed(content)
    return json.dumps(content).encode()


def containers(value):
    """Yield every dict and list in a JSON value, itself first."""
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)


def some_rows(schema):
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.1, (ROWS, schema.width)).astype(np.float32)
    rows[:, schema.group("projected_gravity")] = (0, 0, -1)
    rows[:, schema.contact] = rows[:, schema.contact] > 0
    rows[:, -1] = 0
    return rows


class CsvCase:
    """66-column CSV, sometimes packed, sometimes cut in many pieces."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        rows = some_rows(Schema.from_robot(load_robot("anymal_d")))
        self.good = "".join(",".join(map(repr, map(float, row))) + "\n" for row in rows).encode()

    def run(self, rng: random.Random) -> None:
        import gzip

        from rwmdata.formats import csv66

        csv66.BLOCK_BYTES = rng.choice((8 << 20, 700))
        file = self.folder / "state_action_data_0.csv"
        data = mutate(self.good, rng)
        if packed := rng.random() < 0.2:
            file = file.with_suffix(".csv.gz")
            data = gzip.compress(self.good) if rng.random() < 0.5 else gzip.compress(data)
            data = mutate(data, rng) if rng.random() < 0.5 else data
        file.write_bytes(data)
        dataset = convert(self.home, [file], "x", episode_ends=rng.choice(("auto", "file", "none")))
        if not packed:
            lines = data.count(b"\n") + (not data.endswith(b"\n"))
            assert dataset.rows == lines, f"{dataset.rows} rows of {lines} lines"
            words = [line.rstrip(b"\r").split(b",") for line in data.removesuffix(b"\n").split(b"\n")]
            expected = np.array([[float(w) for w in line] for line in words]).astype(np.float32)
            np.testing.assert_array_equal(dataset.matrix(), expected)
        assert_sound(dataset)


class Hdf5Case:
    """The stock recorder's file: damaged bytes, and whole files whose parts are wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        rng = np.random.default_rng(0)
        states = {"root_pose": np.tile([0, 0, 0.6, 1.0, 0, 0, 0], (ROWS, 1)), "root_velocity": np.zeros((ROWS, 6)),
                  "joint_position": rng.normal(0, 0.1, (ROWS, 12)),
                  "joint_velocity": rng.normal(0, 1, (ROWS, 12))}  # fmt: skip
        self.parts = {"actions": rng.normal(0, 0.3, (ROWS, 12))}
        self.parts |= {f"initial_state/articulation/robot/{k}": v[:1] for k, v in states.items()}
        self.parts |= {f"states/articulation/robot/{k}": v for k, v in states.items()}
        self.good = self.write(self.parts).read_bytes()

    def write(self, parts):
        file = self.folder / "a.hdf5"
        with h5py.File(file, "w") as f:
            for demo in ("demo_0", "demo_1"):
                for key, values in parts.items():
                    f.create_dataset(f"data/{demo}/{key}", data=values)
        return file

    def run(self, rng: random.Random) -> None:
        rows = 2 * (ROWS + 1)
        if rng.random() < 0.5:
            file = self.folder / "a.hdf5"
            file.write_bytes(mutate(self.good, rng))
            rows = 0  # What was damaged may be a number.
        else:
            parts = dict(self.parts)
            key = rng.choice(list(parts))
            value = parts[key]
            parts[key] = rng.choice((
                value[:-1], value[:, :-1], value[0], np.full_like(value, np.nan), value.astype("S"), value.astype("f2"),
                np.empty((0, value.shape[1])), value[None], value.astype(complex), np.float64(3), value.astype("i4"),
            ))  # fmt: skip
            if rng.random() < 0.2:
                del parts[key]
            file = self.write(parts)
        dataset = convert(self.home, [file], "x")
        assert rows in (0, dataset.rows)
        assert_sound(dataset)


class MappingCase:
    """A mapping file for a log with named columns."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        robot, rng = load_robot("anymal_d"), np.random.default_rng(0)
        columns = {"t": np.arange(ROWS) * 0.02, "run": np.repeat([1, 2], ROWS // 2)}
        columns |= {f"{k}{a}": rng.normal(size=ROWS) for k in "vwg" for a in "xyz"}
        columns |= {f"{k}_{j}": rng.normal(size=ROWS) for k in ("q", "dq", "u") for j in robot.joints}
        pl.DataFrame(columns).write_csv(folder / "log.csv")
        groups = {"base_lin_vel": ["vx", "vy", "vz"], "base_ang_vel": {"columns": "w{}", "scale": [1, -1, -1]},
                  "projected_gravity": "g{}", "joint_pos": {"columns": "q_{}", "scale": 0.1, "subtract_default": True},
                  "joint_vel": "dq_{}", "action": {"columns": "u_{}", "kind": "target_position"},
                  "joint_torque": {"kind": "drive"}}  # fmt: skip
        missing = ["thigh_contact", "foot_contact", "termination"]
        said = {"groups": groups, "missing": missing, "time": "t", "episode": "run", "legs": list(robot.legs),
                "action_index": "next"}  # fmt: skip
        self.good = yaml.safe_dump(said).encode()

    def run(self, rng: random.Random) -> None:
        file = self.folder / "mapping.yaml"
        file.write_bytes(mutate(self.good, rng))
        dataset = convert(self.home, [self.folder / "log.csv"], "x", mapping=file)
        assert dataset.rows >= 2
        assert_sound(dataset)


class LeRobotCase:
    """A LeRobot dataset of ours in which one file is damaged: its metadata, its list of episodes, or its frames."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source = Home(folder / "home"), folder / "lerobot"
        schema = Schema.from_robot(load_robot("anymal_d"))
        with DatasetWriter(folder / "other", "x", "anymal_d", schema, 50.0, {}) as writer:
            for part in np.split(some_rows(schema), 3):
                writer.append(Episode(part, True, part[:, :3], part[:, 0], "walk"))
            write_lerobot(writer.commit(), self.source)
        self.files = {file: file.read_bytes() for file in sorted(self.source.rglob("*")) if file.is_file()}

    def run(self, rng: random.Random) -> None:
        for file, content in self.files.items():
            file.write_bytes(content)
        file = rng.choice([file for file in self.files if file.name not in ("stats.json", "tasks.parquet")])
        file.write_bytes(mutate(self.files[file], rng))
        dataset = convert(self.home, [self.source], "x")
        assert dataset.rows in (ROWS // 3, 2 * ROWS // 3, ROWS), dataset.rows
        assert_sound(dataset)


class LeRobotMetadataCase(LeRobotCase):
    """Metadata of a LeRobot dataset that say something else: no row is read twice or silently left out."""

    def run(self, rng: random.Random) -> None:
        for file, content in self.files.items():
            file.write_bytes(content)
        info = self.source / "meta" / "info.json"
        entries = next((self.source / "meta" / "episodes").rglob("*.parquet"))
        if rng.random() < 0.6:
            info.write_bytes(mutate_json(self.files[info], rng))
        else:
            table = pl.read_parquet(entries)
            column, row = rng.choice(table.columns), rng.randrange(table.height)
            values = table[column].to_list()
            values[row] = rng.choice(
                (None, -1, 0, 1, 2, 3, 4, 5, 10**12, values[row - 1], "../x", ["walk", "walk"], 0.5)
            )
            mixed = pl.Series(column, values, strict=False)
            mixed = pl.Series(column, list(map(str, values))) if mixed.dtype == pl.Object else mixed
            table = table.with_columns(mixed)
            chosen = rng.choice((table, table.drop(column), table.vstack(table[row : row + 1]), table[::-1], table[:0]))
            chosen.write_parquet(entries)
        dataset = convert(self.home, [self.source], "x")
        rows, notes = dataset.matrix(), " ".join(dataset.manifest.provenance.get("notes", []))
        assert len(np.unique(rows, axis=0)) == len(rows), "rows are there twice"
        assert len(rows) == ROWS or "not listed" in notes or "left out" in notes or "resampled" in notes, notes
        assert_sound(dataset)


class RunCase:
    """A file of a run's folder: commands that look at runs name it or go on, show the others, and change nothing."""

    COMMANDS = (("runs", "ls"), ("runs", "ls", "--json"), ("runs", "show"), ("runs", "show", "RUN"), ("data", "fsck"),
                ("sql", "from runs"), ("sql", "from metrics"), ("sql", "from evaluations"),
                ("report", "RUN", "--out"))  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.other, self.target = (Run.create(self.home, "model", {"lr": 0.1}, {"dataset": "d"}, 0) for _ in range(2))
        evaluation = Run.create(self.home, "eval", {"evaluation": "dynamics"}, {"model": self.target.id}, 0)
        scalar = {"metric": "rel_l1", "mode": "model", "horizon": 8, "value": 0.5, "low": 0.4, "high": 0.6}
        about = {
            "evaluation": "dynamics",
            "run": evaluation.id,
            "model": self.target.id,
            "robot": "anymal_d",
            "seed": 0,
        }
        for run in (self.other, self.target, evaluation):
            run.log(1, {"train/loss": 1.0, "val/loss": 2.0})
            run.finish({"summary_version": SUMMARY_VERSION, **about, "scalars": [scalar]})
            write_json(run.path / "summary.json", run.meta.summary)
        runs = (self.target, evaluation)
        self.files = {file: file.read_bytes() for run in runs for file in sorted(run.path.rglob("*")) if file.is_file()}
        for words in self.COMMANDS:  # What they import takes its time.
            done = self.call(words)
            assert done.exit_code == 0, (words, done.exception, done.output)

    def call(self, words):
        """Run a command line in this process, all of it within the home but for a page."""
        from typer.testing import CliRunner

        from cli.main import app

        words = [self.target.id if word == "RUN" else word for word in words]
        words += [str(self.folder / "page.html")] if words[-1] == "--out" else []
        return CliRunner().invoke(app, [*words, "--home", str(self.home.root)])

    def run(self, rng: random.Random) -> None:
        for file, content in self.files.items():
            file.write_bytes(content)
        file = rng.choice(list(self.files))
        changed = mutate_json if file.suffix == ".json" and rng.random() < 0.7 else mutate
        file.write_bytes(changed(self.files[file], rng))
        before = {path: path.read_bytes() for path in self.home.root.rglob("*") if path.is_file()}
        words = rng.choice(self.COMMANDS)
        done = self.call(words)
        after = {path: path.read_bytes() for path in self.home.root.rglob("*") if path.is_file()}
        assert before == after, words
        fault = done.exception
        if fault is not None and not isinstance(fault, SystemExit | RwmError):
            raise AssertionError(f"{words}, {file.name}: {before[file][:2000]!r}") from fault
        listed, broken = self.home.readable_runs()
        assert self.other.id in [run.id for run in listed] and len(listed) + len(broken) == 3
        if broken:
            raise broken[0]


class ManifestCase:
    """``dataset.json`` of a committed dataset: what opens and validates has to hold the very same rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        schema = Schema.from_robot(load_robot("anymal_d"))
        self.rows = some_rows(schema)
        with DatasetWriter(self.home.data_dir, "x", "anymal_d", schema, 50.0, {}, rows_per_shard=5) as w:
            for k in range(0, ROWS, 3):
                w.append(Episode(self.rows[k : k + 3], True, behaviour=f"b{k}"))
            self.dataset = w.commit()
        self.good = (self.dataset.path / "dataset.json").read_bytes()

    def run(self, rng: random.Random) -> None:
        (self.dataset.path / "dataset.json").write_bytes(mutate(self.good, rng))
        found = Dataset.open(self.dataset.path)
        if any(fault.severity == "error" for fault in validate(found)):
            return
        np.testing.assert_array_equal(found.matrix(), self.rows)
        whole, table = self.dataset.manifest.episodes, found.manifest.episodes
        assert (table.start, table.length, table.terminated) == (whole.start, whole.length, whole.terminated)


def assert_sound(dataset):
    errors = [f for f in validate(dataset) if f.severity == "error" and f.check not in ("splice", "gravity")]
    assert not errors, errors
    shutil.rmtree(dataset.path)


KINDS = {"csv": CsvCase, "hdf5": Hdf5Case, "mapping": MappingCase, "lerobot": LeRobotCase,
         "lerobot metadata": LeRobotMetadataCase, "run": RunCase, "manifest": ManifestCase}  # fmt: skip


def drill(kind, folder, cases, answers):
    """Run the cases of one kind; put what went wrong, or None, into ``answers``."""

    def hangs(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(10 * LIMIT_S)
    case, refused, seed = KINDS[kind](folder), 0, 0
    try:
        for seed in range(cases):
            signal.alarm(LIMIT_S)
            try:
                case.run(random.Random(seed))
            except RwmError as exc:
                refused += 1
                named = str(folder) in exc.message or kind in ("mapping",)
                assert exc.message and named and len(exc.message) < 3000, exc.message
            left = [p.name for p in case.home.data_dir.glob("*") if kind != "manifest"]
            assert not left, left
        signal.alarm(0)
        assert 0 < refused <= cases
        answers.put(None)
    except BaseException:
        answers.put(f"seed {seed}: {traceback.format_exc()[-3000:]}")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_whole_or_refused(kind, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=drill, args=(kind, tmp_path, CASES, answers))
    process.start()
    process.join()
    assert process.exitcode == 0, f"the reader died: {process.exitcode}"
    wrong = answers.get(timeout=10)
    assert wrong is None, wrong
