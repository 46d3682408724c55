"""One bit of a kept file is flipped: what is read is the same, or refused, or (lines of metrics) left out and found by
fsck; never another.

``RWM_DRILL=50`` flips fifty bits of each kind of file.
"""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.fsck import check_home
from rwmdata.home import Home
from rwmdata.runs import Run
from rwmdata.views import run_sql
from rwmmodel.checkpoint import FitState, load_fit_state, load_model, save_fit_state, save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmrl.policy_file import load_policy, save_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo

FLIPS = int(os.environ.get("RWM_DRILL", "6"))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kept:
    """A file of a home, and how it is read: what is read is equal for equal content."""

    file: Path
    read: Callable[[], object]


def plain(value: object) -> object:
    """Return nested content that can be compared, tensors and arrays by their bytes."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        return array.dtype.str, array.shape, array.tobytes()
    return value


@pytest.fixture
def kept(home, robot, schema, make_dataset) -> dict[str, Kept]:
    """Return one file of each kind."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.1, (2, 20, schema.width)).astype(np.float32)
    rows[..., schema.contact], rows[..., -1] = rows[..., schema.contact] > 0, 0
    dataset = make_dataset(list(rows), name="d")
    dataset.mapped_matrix()
    fit, policy = (Run.create(home, kind, {"lr": 0.25}, {"dataset": "d"}, 7) for kind in ("model", "policy"))
    sizes = {"hidden": 4, "head_hidden": 4, "history": 3, "members": 2}
    model = DynamicsEnsemble(EnsembleConfig(state_dim=5, action_dim=2, contact_dim=3, extension_dim=0, **sizes))
    optimizer = torch.optim.Adam(model.parameters())
    save_model(model, fit.model_file)
    save_fit_state(fit.state_file, FitState(step=3, best={"loss": 0.5}), model.state_dict(), optimizer.state_dict())
    save_policy(MlpPolicy(PolicyInfo.of(robot, (4,), source="test")), policy.policy_file)
    for step in range(1, 6):
        fit.log(step, {"train/loss": 1 / step, "val/loss": 2.5 / step})
    fit.update(status="finished", summary={"loss": 0.123, "steps": 1234})
    policy.update(status="finished")

    def metrics() -> object:
        asked = "select step, metric, value from metrics order by step, metric"
        return fit.metrics(), run_sql(home, asked, lambda text: None).rows()

    def weights(load: Callable[[Path], torch.nn.Module], file: Path) -> object:
        loaded = load(file)
        about = loaded.info.model_dump() if isinstance(loaded, MlpPolicy) else (loaded.config.model_dump(), loaded.info)
        return plain(dict(loaded.state_dict())), about

    def state() -> object:
        progress, model_weights, optimizer_state = load_fit_state(fit.state_file, CPU)
        return plain([asdict(progress), model_weights, optimizer_state])

    def manifest() -> object:
        opened = Dataset.open(dataset.path)
        return opened.manifest.model_dump(), plain(opened.matrix())

    shard, rows_file = dataset.shard_paths[0], dataset.path / "rows.f32"
    return {
        "shard": Kept(shard, lambda: plain(Dataset.open(dataset.path).matrix())),
        "manifest": Kept(dataset.path / "dataset.json", manifest),
        "rows.f32": Kept(rows_file, lambda: plain(Dataset.open(dataset.path).mapped_matrix())),
        "rows.f32.sums": Kept(
            rows_file.with_name("rows.f32.sums"), lambda: plain(Dataset.open(dataset.path).mapped_matrix())
        ),
        "model": Kept(fit.model_file, lambda: weights(load_model, fit.model_file)),
        "policy": Kept(policy.policy_file, lambda: weights(load_policy, policy.policy_file)),
        "state": Kept(fit.state_file, state),
        "metrics": Kept(fit.metrics_file.path, metrics),
        "run.json": Kept(fit.path / "run.json", lambda: Run.open(fit.path).meta.model_dump()),
    }


KINDS = ("shard", "manifest", "rows.f32", "rows.f32.sums", "model", "policy", "state", "metrics", "run.json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_or_refused_or_without_effect(home: Home, kept, kind):
    file, read = kept[kind].file, kept[kind].read
    beside = {path: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
    raw, whole = file.read_bytes(), read()
    assert check_home(home) == []
    rng, outcomes = random.Random(zlib.crc32(kind.encode())), Counter()
    for at in rng.sample(range(8 * len(raw)), FLIPS):
        flipped = bytearray(raw)
        flipped[at // 8] ^= 1 << at % 8
        file.write_bytes(flipped)
        found = bool(check_home(home))
        try:
            result = read()
            outcome = "same" if result == whole else "left out" if kind == "metrics" else "other"
        except RwmError:
            result, outcome = None, "refused"
        assert outcome != "other" and (found or outcome != "left out"), f"bit {at} of {file}"
        if outcome == "left out":
            assert all(row in rows for rows, part in zip(whole, result, strict=True) for row in part)
        outcomes["found" if found else "", outcome] += 1
        for path, content in beside.items():
            path.write_bytes(content)
    if table := os.environ.get("RWM_DRILL_TABLE"):
        counts = ", ".join(f"{' '.join(key).strip()} {count}" for key, count in sorted(outcomes.items()))
        with open(table, "a") as lines:
            lines.write(f"{kind}: {counts}\n")
