"""The command that makes a dataset or a run again, from what its record says.

What needs the libraries of an extra is imported where it is used: a page can be made without them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmmodel.fit_config import PRESETS as FIT_PRESETS
from rwmmodel.fit_config import FitConfig, fit_preset

FIT_OPTIONS = (
    "updates",
    "batch",
    "lr",
    "base",
    "members",
    "precision",
    "normalizer",
    "schedule",
    "ema",
    "accumulate",
    "patience",
    "rows",
)
"""Fields of a fit with an option of their own name; the others go through ``--set``."""
SWITCHES = {"shared_base": ("--shared-base", "--independent"), "balance": ("--balance", "--no-balance")}
NESTED = ("imagination", "ppo")
COMMON = ("seed", "device")
EVALUATION_OPTIONS = (
    "windows",
    "robots",
    "settle",
    "steps",
    "episodes",
    "robot",
    "calibrated",
    "reference_alignment",
    "film",
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
    return shlex.join(["rwm" if Path(program).name in ("rwm", "main.py") else Path(program).name, *kept])


def model_words(run: Run) -> list[str]:
    """Return the words of ``rwm fit`` (or ``rwm model import``): the preset that differs least, and the differences."""
    config = run.meta.config
    if "imported" in config:
        return ["rwm", "model", "import", config["imported"], "--history", str(config["history"])]
    plans = {name: fit_preset(name).model_dump(mode="json") for name in FIT_PRESETS}
    config = FitConfig(**config).model_dump(mode="json")
    preset, changed = closest(flat(config), {name: flat(plan) for name, plan in plans.items()})
    words = ["rwm", "fit", *_named(run.meta.parents.get("dataset")), "--preset", preset]
    for key, value in changed.items():
        if key in SWITCHES:
            words.append(SWITCHES[key][0 if value else 1])
        elif key in FIT_OPTIONS and value is not None:
            words += [f"--{key}", str(value)]
        else:
            words += ["--set", f"{key}={text_of(value)}"]
    return [*words, *_common(config)]


def policy_words(run: Run) -> list[str]:
    """Return the words of ``rwm policy``."""
    from rwmrl.cloning import CloningConfig
    from rwmrl.imagination_training import NOTHING, PRESETS, PolicyConfig

    config, parents = run.meta.config, run.meta.parents
    words = ["rwm", "policy", *_named(parents.get("dataset"))]
    if config.get("algo") == "bc":
        usual = CloningConfig().model_dump(mode="json")
        changed = {k: v for k, v in config.items() if k in usual and v != usual[k] and k not in COMMON}
        return [*words, "--algo", "bc", *_settings(changed), *_common(config)]
    config = PolicyConfig(**config).model_dump(mode="json")
    plans = {name: one_level(PolicyConfig.preset(name).model_dump(mode="json")) for name in PRESETS}
    preset, changed = closest(one_level(config), plans)
    lam = changed.pop("lam", config["imagination"]["lam"])
    warm = ["--warm-start", changed.pop("warm_start") or NOTHING] if "warm_start" in changed else []
    words += ["--model", str(parents["model"]), "--lam", f"{lam:g}", "--preset", preset]
    return [*words, *warm, *_settings(changed), *_common(config)]


def train_words(run: Run) -> list[str]:
    """Return the words of ``rwm train``."""
    from reports.stages import command_of
    from rwmrl.simulator_training import TrainConfig

    config = TrainConfig(**run.meta.config)
    return [config.warm_start or word if word == "RUN" else word for word in shlex.split(command_of(config))]


def evaluation_words(run: Run) -> list[str]:
    """Return the words of ``rwm eval ...``; what only Python can set is left out."""
    config, parents = run.meta.config, run.meta.parents
    words = ["rwm", "eval", config["evaluation"]]
    if "policy" in config:
        words += ["--policy", str(parents.get("policy") or config["policy"])]
    elif config["evaluation"] != "lambda-sweep":
        words += _named(parents.get("dataset"))
    if config["evaluation"] != "policy":
        words += ["--model", str(parents["model"])]
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
    if source == "simulation" and "config" in origin:
        return shlex.join([*_export_words(origin["config"]), *name])
    if source == "rwm data merge":
        return shlex.join(["rwm", "data", "merge", *made_of, *name])
    if source == "rwm data filter":
        return shlex.join(["rwm", "data", "filter", origin["where"], "--dataset", *made_of, *name])
    if source == "rwm data split":
        shares = [word for split, share in origin["shares"].items() for word in (f"--{split}", f"{share:g}")]
        return shlex.join(["rwm", "data", "split", *made_of, *shares, "--seed", str(origin["seed"]), *name])
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


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options under dotted names: ``loss.kind``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def one_level(config: dict[str, Any]) -> dict[str, Any]:
    """Return a policy's options as ``rwm policy --set`` takes them: those of imagination and PPO by their own names."""
    parts = {k: v for name in NESTED for k, v in config[name].items() if k != "seed"}
    return {k: v for k, v in config.items() if k not in NESTED} | parts


def closest(config: dict[str, Any], presets: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the preset a configuration differs least from, and what differs; seed and device aside."""
    changes = {
        name: {k: v for k, v in config.items() if k in plan and v != plan[k] and k not in COMMON}
        for name, plan in presets.items()
    }
    name = min(changes, key=lambda each: len(changes[each]))
    return name, changes[name]


def text_of(value: Any) -> str:
    """Return a value as ``--set KEY=VALUE`` reads it: JSON, or a text that is none."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)


def _settings(changed: dict[str, Any]) -> list[str]:
    return [word for key, value in changed.items() for word in ("--set", f"{key}={text_of(value)}")]


def _named(dataset: str | None) -> list[str]:
    return [dataset] if dataset else []


def _common(config: dict[str, Any]) -> list[str]:
    device = config.get("device", "auto")
    return ["--seed", str(config.get("seed", 0)), *(["--device", device] if device != "auto" else [])]
