"""The command that makes a dataset or a run again, from what its record says.

What needs the libraries of an extra is imported where it is used: a page can be made without them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen, build, flat, setting_text
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmmodel.ensemble import Architecture
from rwmmodel.fit_config import FitConfig

COMMON = ("seed", "device")
EVALUATION_OPTIONS = (
    "windows",
    "episode",
    "robots",
    "rounds",
    "action_noise",
    "settle",
    "steps",
    "episodes",
    "robot",
    "calibrated",
    "reference_alignment",
    "film",
    "resync",
    "overlay",
    "judge",
    "disturbed",
    "stages",
    "mark",
    "seed",
    "device",
)
"""Fields of an evaluation that its command has an option for."""


def run_command(run: Run) -> str:
    """Return the command that makes a run again; what it was started with where no command has these settings."""
    makers: dict[str, Callable[[Run], list[str]]] = {
        "model": model_words,
        "policy": policy_words,
        "train": train_words,
        "eval": evaluation_words,
    }
    try:
        return shlex.join(makers[run.kind](run))
    except (KeyError, TypeError, ValueError, ImportError, RwmError):
        return recorded_command(run)


def recorded_command(run: Run) -> str:
    """Return the command line a run was started with, without where it wrote."""
    program, *words = run.meta.command or [""]
    kept, skip = [], False
    for word in words:
        if not skip and word != "--json" and not word.startswith("--home"):
            kept.append(word)
        skip = word == "--home"
    return shlex.join(["rwm" if Path(program).name in ("rwm", "main.py", "__main__.py") else Path(program).name, *kept])


def model_words(run: Run) -> list[str]:
    """Return the words of ``rwm fit`` (or ``rwm model import``): the preset that differs least, and the differences."""
    config = run.meta.config
    if "imported" in config:
        robot = ["--robot", config["robot"]] if config.get("robot") else []
        return ["rwm", "model", "import", config["imported"], *robot, "--history", str(config["history"])]
    preset, changed = closest(run.configuration(FitConfig))
    words = ["rwm", "fit", *_named(run.meta.parents.get("dataset")), "--preset", str(preset)]
    if begun := changed.pop("warm_start", None):  # What that model decides need not be asked for.
        words += ["--warm-start", begun]
        changed = {k: v for k, v in changed.items() if k not in {*Architecture.model_fields, "normalizer"}}
    return [*words, *_settings(changed), *_common(config)]


def policy_words(run: Run) -> list[str]:
    """Return the words of ``rwm policy``."""
    from rwmrl.cloning import CloningConfig
    from rwmrl.offline_rl import OfflineRLConfig
    from rwmrl.policy_config import NOTHING, PolicyConfig

    parents, algo = run.meta.parents, run.meta.config.get("algo")
    words = ["rwm", "policy", *_named(parents.get("dataset"))]
    if algo:
        _, changed = closest(run.configuration(CloningConfig if algo == "bc" else OfflineRLConfig))
        return [*words, "--algo", algo, *_settings(changed), *_common(run.meta.config)]
    config = run.configuration(PolicyConfig)
    preset, changed = closest(config)
    lam = changed.pop("imagination.lam", config.imagination.lam)
    warm = ["--warm-start", str(changed.pop("warm_start") or NOTHING)] if "warm_start" in changed else []
    words += ["--model", str(parents["model"]), "--lam", f"{lam:g}", "--preset", str(preset)]
    return [*words, *warm, *_settings(changed), *_common(run.meta.config)]


def train_words(run: Run) -> list[str]:
    """Return the words of ``rwm train``."""
    from reports.stages import command_of
    from rwmrl.train_config import TrainConfig

    config = run.configuration(TrainConfig)
    return [config.warm_start or word if word == "RUN" else word for word in shlex.split(command_of(config))]


def evaluation_command(name: str) -> list[str]:
    """Return the command that makes evaluations of a name: ``rwm eval NAME``, but for two."""
    others = {"visualize": ["visualize"], "judgement": ["eval", "policy", "--backend", "model"]}
    return ["rwm", *others.get(name, ["eval", name])]


def evaluation_words(run: Run) -> list[str]:
    """Return the words of ``rwm eval ...``; what only Python can set is left out."""
    config, parents = run.meta.config, run.meta.parents
    words = evaluation_command(config["evaluation"])
    if config["evaluation"] == "learning":
        words += [*config["runs"], *(word for label in config["labels"] for word in ("--label", label))]
    elif "policy" in config:
        words += ["--policy", str(parents.get("policy") or config["policy"])]
    elif config["evaluation"] != "lambda-sweep":
        words += _named(parents.get("dataset"))
    if config["evaluation"] == "visualize" and parents["model"] is None:
        words += ["--no-twin"]
    elif config["evaluation"] not in ("policy", "learning"):
        words += ["--model", str(parents["model"])]
    if config["evaluation"] in ("visualize", "policy") and config.get("backend", "auto") != "auto":
        words += ["--backend", config["backend"]]
    for key in EVALUATION_OPTIONS:
        value = config.get(key)
        if value is not None and value is not False and (key, value) != ("device", "auto"):
            option = "--" + key.replace("_", "-")
            words += [option] if value is True else [option, str(value)]
    return words


def dataset_command(dataset: Dataset) -> str | None:
    """Return the command that makes a dataset; None where its origin does not say enough."""
    origin, name = dataset.manifest.provenance, ["--name", dataset.name]
    source, made_of = origin.get("source"), [d["name"] for d in origin.get("datasets", [])]
    name += _options(origin.get("options", {}))
    if source == "simulation" and "config" in origin:
        return shlex.join([*_export_words(origin["config"]), *name])
    if source == "rwm data merge":
        return shlex.join(["rwm", "data", "merge", *made_of, *name])
    if source == "rwm data filter":
        return shlex.join(["rwm", "data", "filter", origin["where"], "--dataset", *made_of, *name])
    if source == "rwm data split":
        shares = [word for split, share in origin["shares"].items() for word in (f"--{split}", f"{share:g}")]
        seed = ["--seed", str(origin["seed"])] if "seed" in origin else []  # Of a version that recorded no options.
        return shlex.join(["rwm", "data", "split", *made_of, *shares, *seed, *name])
    if source == "rwm data convert":
        return shlex.join(["rwm", "data", "convert", *origin["files"], "--robot", dataset.robot, *name])
    return None


def _export_words(config: dict[str, Any]) -> list[str]:
    from rwmrl.export import ExportConfig

    usual, words = ExportConfig().model_dump(mode="json"), ["rwm", "data", "export", "--task", config["task"]]
    for key, value in config.items():
        if key in ("task", "name", "episode_length_s") or value is None or value == usual.get(key):
            continue
        if key == "bounds_m":
            words += ["--bounds", "x".join(f"{side:g}" for side in value)]
        elif isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no-{key}")
        else:
            words += ["--" + key.replace("_", "-"), str(value)]
    return words


def _options(given: dict[str, Any]) -> list[str]:
    """Return options by name as words; True stands for a switch."""
    words = [(f"--{key.replace('_', '-')}", value) for key, value in given.items()]
    return [word for option, value in words for word in ((option,) if value is True else (option, str(value)))]


def closest(config: Frozen) -> tuple[str | None, dict[str, Any]]:
    """Return the preset a configuration differs least from, None without presets, and what differs by dotted key.

    Seeds and device do not count.
    """
    values = flat(config.model_dump(mode="json"))
    changes: dict[str | None, dict[str, Any]] = {}
    for name in config.presets or (None,):
        plan = flat(build(type(config), name).model_dump(mode="json"))
        changes[name] = {k: v for k, v in values.items() if v != plan.get(k) and k.rpartition(".")[2] not in COMMON}
    nearest = min(changes, key=lambda name: len(changes[name]))
    return nearest, changes[nearest]


def _settings(changed: dict[str, Any]) -> list[str]:
    return [word for key, value in changed.items() for word in ("--set", f"{key}={setting_text(value)}")]


def _named(dataset: str | None) -> list[str]:
    return [dataset] if dataset else []


def _common(config: dict[str, Any]) -> list[str]:
    device = config.get("device", "auto")
    return ["--seed", str(config.get("seed", 0)), *(["--device", device] if device != "auto" else [])]
