"""The commands that are drilled: what each needs, what is typed to go on after it was ended, what it has to make."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwmdata.atomic import TMP_MARK
from rwmdata.home import Home
from rwmdata.runs import Run
from tests.drill.drilling import run_command

SMALL_POLICY = ("--preset", "smoke", "--device", "cpu", "--set", "num_steps=4", "--set", "hidden_dims=[8]", "--set",
                "checkpoint_interval=2")  # fmt: skip
POLICY = ("policy", "d", *SMALL_POLICY, "--num-envs", "8", "--iterations", "8", "--set", "episode_steps=6")
FIT = ("fit", "d", "--preset", "smoke", "--updates", "16", "--batch", "8", "--device", "cpu", "--set", "hidden=16",
       "--set", "head_hidden=16", "--set", "history=8", "--set", "forecast=4", "--set", "checkpoint_interval=3",
       "--set", "val_interval=6", "--set", "log_interval=3", "--set", "val_windows=8", "--seed", "1")  # fmt: skip
EXPORT = ("data", "export", "--num-envs", "8", "--set", "episode_length_s=1.0", "--transitions")
TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?(\+00:00)?)?|\d{8}-\d{6}-[0-9a-f]{6}")
"""Times and ids of runs."""


@dataclass(frozen=True)
class Command:
    """A command that is ended, and what is to be there in the end.

    Attributes:
        words: The command line, in a folder that holds ``home`` and ``out``.
        made: Returns what it made; equal for equal results, None where it is not there yet. Half of it is an error.
        needs: What of the undisturbed home it needs: datasets and kinds of runs.
        copied: Whether it changes these, so that links to them would not do.
        kind: Kind of the run it makes, if it makes one.
        resumed: Whether its run is resumed; otherwise the same command is typed again.
    """

    words: tuple[str, ...]
    made: Callable[[Path], Any]
    needs: tuple[str, ...] = ("data/d",)
    copied: bool = False
    kind: str = ""
    resumed: bool = False


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def dataset(root: Path) -> Any:
    """Return what has to be the same of the dataset ``x``, bit for bit: all but times."""
    home = Home(root / "home")
    if not (home.data_dir / "x").exists():
        return None
    m = home.dataset("x").manifest
    return [s.sha256 for s in m.shards], m.episodes, m.splits, m.columns


def numbers(run: Run) -> list[tuple[int, str, float | None]]:
    """Return every logged number with its step and name, but those that measure time."""
    return [(m["step"], m["metric"], m["value"]) for m in run.metrics() if not m["metric"].startswith("perf/")]


def tensors(file: Path) -> dict[str, Any]:
    """Return the weights in a model or policy file, whose description names the run."""
    from safetensors.numpy import load_file

    return {name: (values.shape, values.tobytes()) for name, values in load_file(file).items()}


def training(kind: str, old: int = 0) -> Callable[[Path], Any]:
    """Return a function that returns weights, numbers and kept files of the finished runs of a kind."""

    def made(root: Path) -> Any:
        runs = [r for r in Home(root / "home").runs(kind) if r.meta.status == "finished"]
        if len(runs) == old:
            return None
        (run,) = runs[: len(runs) - old]
        # What only an unfinished training needs is removed once it is finished, and may be cut off at that.
        names = {p.name for p in run.checkpoints.iterdir() if not p.name.startswith(TMP_MARK)}
        kept = names - {"state-before.pt"}
        return {p.name: tensors(p) for p in run.kept_files if p.suffix != ".pt"}, numbers(run), kept

    return made


def sweep(root: Path) -> Any:
    runs = Home(root / "home").runs("policy")
    finished = {r.meta.config["seed"]: (tensors(r.policy_file), numbers(r)) for r in runs if r.status == "finished"}
    return finished if len(finished) == 2 else None


def factors(root: Path) -> Any:
    """Return the model's weights, which have to stay, and whether there are factors."""
    from safetensors import safe_open

    (run,) = Home(root / "home").runs("model")
    with safe_open(run.model_file, "np") as file:
        description = json.loads(file.metadata()["rwm_model"])
    return (tensors(run.model_file), description["calibration"]) if description["calibration"] else None


def files(folder: str, wanted: tuple[str, ...] = ()) -> Callable[[Path], Any]:
    """Return a function that returns digests of a folder's files; of ``wanted`` ones only once all are there."""

    def made(root: Path) -> Any:
        found = {p.relative_to(root / folder).as_posix(): digest(p) for p in (root / folder).rglob("*") if p.is_file()}
        found = {name: value for name, value in found.items() if not Path(name).name.startswith(".tmp-")}
        return found if found and {*wanted} <= {*found} else None

    return made


def minari(root: Path) -> Any:
    """Return every array of the Minari dataset."""
    import h5py

    folder = root / "out" / "anymal_d-d-v0"
    if not folder.exists():
        return None
    arrays: dict[str, bytes] = {}
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        file.visititems(
            lambda name, item: arrays.update({name: item[()].tobytes()}) if hasattr(item, "shape") else None
        )
    return arrays, json.loads((folder / "data" / "metadata.json").read_text())["total_steps"]


def page(root: Path) -> Any:
    """Return the finished reports' text, without times."""
    runs = [r for r in Home(root / "home").runs("report") if r.meta.status == "finished"]
    return TIMES.sub("", (runs[0].path / "report.html").read_text()) if runs else None


def exported(root: Path) -> Any:
    wanted = ("policy.onnx", "policy.pt", "model_0.pt", "model_0_rsl_rl_5.pt", "policy.json")
    return files("out", wanted)(root)


COMMANDS = {
    "export": Command((*EXPORT, "1000", "--seed", "5", "--name", "x"), dataset, ()),
    "export-parts": Command(
        (*EXPORT, "800", "--seed", "5", "--name", "x", "--parts", "2", "--workers", "2"), dataset, ()
    ),
    "convert": Command(("data", "convert", "csv", "--name", "x"), dataset, ("csv",)),
    "merge": Command(("data", "merge", "d", "e", "--name", "x"), dataset, ("data/d", "data/e")),
    "fit": Command(FIT, training("model"), kind="model", resumed=True),
    "policy": Command(POLICY, training("policy"), ("data/d", "runs/model"), kind="policy", resumed=True),
    "clone": Command(
        ("policy", "d", "--algo", "bc", "--iterations", "40", "--device", "cpu", "--set", "batch=64", "--set",
         "hidden_dims=[16]", "--set", "log_interval=5"), training("policy"), kind="policy", resumed=True,
    ),
    "train": Command(
        ("train", "--num-envs", "4", "--iterations", "6", "--set", "ppo.num_steps=4", "--set", "ppo.hidden_dims=[8]",
         "--set", "ppo.checkpoint_interval=2"), training("train"), (), kind="train", resumed=True,
    ),
    "sweep": Command(
        ("sweep", "policy", "d", *SMALL_POLICY, "--iterations", "4", "--set", "num_envs=8", "--set", "episode_steps=6",
         "--lam", "1.0", "--seeds", "2", "--workers", "2"), sweep, ("data/d", "runs/model"), kind="policy",
    ),
    "calibrate": Command(
        ("model", "calibrate", "--dataset", "d", "--windows", "8", "--steps", "4", "--device", "cpu"), factors,
        ("data/d", "runs/model"), copied=True,
    ),
    "write-lerobot": Command(("data", "write-lerobot", "d", "--out", "out/x"), files("out/x")),
    "write-minari": Command(("data", "write-minari", "d", "--out", "out"), minari),
    "report": Command(("report",), page, ("data/d", "runs/model", "runs/policy"), kind="report"),
    "export-policy": Command(("export-policy", "--out", "out"), exported, ("data/d", "runs/policy")),
}  # fmt: skip

COSTLY = ("report", "export-policy")
"""Commands that take seconds, also with everything imported."""


def prepare_all(root: Path) -> None:
    """Make what the commands need, in ``root``: datasets, a model, a policy and CSV files."""
    (root / "home").mkdir()
    run_command(root, *EXPORT, "800", "--seed", "1", "--name", "d")
    run_command(root, *EXPORT, "400", "--seed", "2", "--name", "e")
    run_command(root, "data", "write-csv", "d", "--out", "csv", "--rows-per-file", "300")
    run_command(root, *FIT)
    run_command(root, *POLICY)


def prepare(root: Path, base: Path, command: Command) -> None:
    """Make a folder in which a command can be run, with what it needs of ``base``."""
    (root / "home" / "data").mkdir(parents=True)
    (root / "home" / "runs").mkdir()
    (root / "out").mkdir()
    for need in command.needs:
        source = base / need if need == "csv" else base / "home" / need
        target = root / need if need == "csv" else root / "home" / need
        if command.copied and need.startswith("runs"):
            shutil.copytree(source, target)
        elif need.startswith("runs"):
            target.mkdir()
            for run in source.iterdir():
                (target / run.name).symlink_to(run)
        else:
            target.symlink_to(source)
