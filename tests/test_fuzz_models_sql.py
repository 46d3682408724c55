"""Damaged models, policies, checkpoints and odd SQL: read as they were written, or refused in a sentence; nothing else.

``RWM_FUZZ=2500`` makes 10,000 cases, 2500 of each kind.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import struct
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmdata.schema import Schema
from rwmdata.views import run_sql
from rwmdata.writer import DatasetWriter
from rwmmodel.checkpoint import METADATA_KEY, load_model, save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.reference_checkpoint import export_reference, import_reference
from rwmrl.policy_file import load_policy, save_policy
from rwmrl.policy_network import METADATA_KEY as POLICY_KEY
from rwmrl.policy_network import MlpPolicy, PolicyInfo

CASES = int(os.environ.get("RWM_FUZZ", "40"))
LIMIT_S = 10
"""A case that takes longer hangs."""
ROBOT = "anymal_d"
VALUES = (-1, 0, 1, 3, 10**9, 10**30, 1.5, float("nan"), float("inf"), True, None, "", "x", "gru", [], [4], [-1] * 3,
          {}, {"a": 1}, "\x1b[31m", "../../x", "9" * 400)  # fmt: skip
SMALL = {
    "hidden": 4,
    "head_hidden": 4,
    "members": 2,
    "history": 4,
    "mlp_hidden": (4,),
    "latent": 4,
    "attention_heads": 2,
}
PARTS = (
    "select", "*", "from", "where", "episodes", "transitions", "runs", "metrics", "datasets", "evaluations", "(", ")",
    ",", ";", "--", "/*", "*/", "'", '"', "$1", "?", "1", "1e999", "null", "group by all", "order by 1", "limit 3",
    "union all", "with x as (select 1)", "count(*)", "explain analyze", "describe", "show tables", "pragma version",
    "copy (select 1) to '{out}'", "copy runs to '{home}/data/a/dataset.json'", "attach '{out}' as o",
    "attach '{home}/new.db'", "create table t as select 1", "create view v as select 1", "insert into runs values (1)",
    "drop view runs", "install httpfs", "load httpfs", "export database '{out}'", "set enable_external_access = true",
    "reset lock_configuration", "read_csv('/etc/passwd')", "read_text('{out}')", "read_parquet('**')", "glob('/*')",
    "getenv('HOME')", "query('select 1')", "\x00", "\x1b[2J", "日本", "[bold]", "execute p",
    "prepare p as copy (select 1) to '{home}/w'",
    "checkpoint", "vacuum", "call pragma_version()", "force install x", "use memory", "import database '{out}'",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage bytes in one to three places."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 64))
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(length) + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            data = data[:at] + data[at : at + length] + data[at:]
        else:
            data = data[: at + 1]
    return data


def other_value(described: dict, rng: random.Random) -> None:
    """Change, remove or add one entry of a description, at any depth."""
    place = described
    while True:
        inner = [value for value in place.values() if isinstance(value, dict) and value]
        if not inner or rng.random() < 0.4:
            break
        place = rng.choice(inner)
    key = rng.choice([*place, "extra"])
    if rng.random() < 0.2:
        place.pop(key, None)
    else:
        place[key] = rng.choice(VALUES)


class NetworkCase:
    """A file of ours whose bytes are damaged, or that was written whole with another description or other tensors."""

    key, read = "", staticmethod(load_model)

    def __init__(self, folder: Path) -> None:
        self.file = folder / "network.safetensors"
        self.whole = self.made()
        self.write()
        self.good = self.file.read_bytes()
        size = int.from_bytes(self.good[:8], "little")
        self.about = json.loads(json.loads(self.good[8 : 8 + size])["__metadata__"][self.key])
        self.about.pop("checksum")

    def run(self, rng: random.Random) -> None:
        tensors = dict(self.whole.state_dict())
        damaged = rng.random() < 0.4
        if damaged:
            content = mutated(self.good, rng)
        else:
            about = json.loads(json.dumps(self.about))
            other_value(about, rng)
            if rng.random() < 0.4:
                name = rng.choice(list(tensors))
                value = tensors[name]
                tensors[name] = rng.choice((value[:0], value[:-1], value[None], value.double(), value * torch.nan))
            content = save({k: v.contiguous().clone() for k, v in tensors.items()}, {self.key: json.dumps(about)})
        if rng.random() < 0.05:
            content = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))) + content[8:]
        self.file.write_bytes(content)
        network = type(self).read(self.file)
        for name, value in network.state_dict().items():  # A flipped bit is noticed by the checksum.
            torch.testing.assert_close(value, tensors[name].to(value.dtype), rtol=0, atol=0, equal_nan=True)


class ModelCase(NetworkCase):
    """World models."""

    key = METADATA_KEY

    def made(self):
        schema = Schema.from_robot(load_robot(ROBOT))
        dims = {f"{part}_dim": schema.dims[part] for part in ("state", "action", "contact")}
        return DynamicsEnsemble(EnsembleConfig(**SMALL, **dims), info=ModelInfo(ROBOT, schema.csv_names, 50.0, "a"))

    def write(self):
        save_model(self.whole, self.file)


class PolicyCase(NetworkCase):
    """Policies."""

    key, read = POLICY_KEY, staticmethod(load_policy)

    def made(self):
        return MlpPolicy(PolicyInfo.of(load_robot(ROBOT), (4, 4)))

    def write(self):
        save_policy(self.whole, self.file)


class CheckpointCase:
    """Checkpoints of torch, as world models, and exported programs, as policies: damaged bytes."""

    def __init__(self, folder: Path) -> None:
        self.file, self.read, self.good = folder / "model_0.pt", [], []
        export_reference(ModelCase.made(self), self.file)
        self.add(lambda: import_reference(self.file, ROBOT, 4).state_dict())
        self.add(self.read[0], self.old(self.file))
        layers = torch.nn.Sequential(torch.nn.Linear(48, 4), torch.nn.ELU(), torch.nn.Linear(4, 12))
        torch.jit.script(layers).save(str(self.file))
        self.add(lambda: load_policy(self.file, ROBOT).state_dict())

    def old(self, file: Path) -> bytes:
        torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
        return file.read_bytes()

    def add(self, read, content=None) -> None:
        self.read.append(read)
        self.good.append(self.file.read_bytes() if content is None else content)

    def run(self, rng: random.Random) -> None:
        kind = rng.randrange(len(self.read))
        self.file.write_bytes(mutated(self.good[kind], rng))
        for value in self.read[kind]().values():
            assert not value.is_floating_point() or bool(torch.isfinite(value).all())


class SqlCase:
    """Statements put together from pieces: rows or a sentence, and the home and what is beside it stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        schema = Schema.from_robot(load_robot(ROBOT))
        rows = np.zeros((8, schema.width), np.float32)
        with DatasetWriter(self.home.data_dir, "a", ROBOT, schema, 50.0, {}) as writer:
            writer.append(Episode(rows, True, behaviour="[/b]\x1b[31m"))
            writer.commit()
        run = Run.create(self.home, "model", {}, {"dataset": "a"}, seed=0)
        run.log(1, {"loss": 1.0})
        run.finish({})
        self.before = self.state()

    def state(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}

    def run(self, rng: random.Random) -> None:
        words = [rng.choice(PARTS) for _ in range(rng.randrange(1, 9))]
        query = " ".join(["select * from", *words] if rng.random() < 0.5 else words)
        query = query.replace("{home}", str(self.home.root)).replace("{out}", str(self.folder / "out"))
        try:
            frame = run_sql(self.home, query, lambda _: None)
            assert "root:" not in str(frame.head(20).rows()), query
        finally:
            assert self.state() == self.before, query


KINDS = {"model": ModelCase, "policy": PolicyCase, "checkpoint": CheckpointCase, "sql": SqlCase}


def drill(kind, folder, cases, answers):
    """Run the cases of one kind; put what went wrong, or None, into ``answers``."""

    def hangs(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, hangs)
    torch.set_num_threads(1)
    seed, refused = 0, 0
    try:
        case = KINDS[kind](folder)
        for seed in range(cases):
            signal.alarm(LIMIT_S)
            try:
                case.run(random.Random(seed))
            except RwmError as exc:
                refused += 1
                assert exc.message and "\n" not in exc.message and len(exc.message) < 3000, exc.message
        signal.alarm(0)
        assert 0 < refused <= cases
        answers.put(None)
    except BaseException:
        answers.put(f"seed {seed}: {traceback.format_exc()[-3000:]}")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_and_odd_queries_are_read_or_refused(kind, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=drill, args=(kind, tmp_path, CASES, answers))
    process.start()
    process.join()
    assert process.exitcode == 0, f"the reader died: {process.exitcode}"
    wrong = answers.get(timeout=10)
    assert wrong is None, wrong
