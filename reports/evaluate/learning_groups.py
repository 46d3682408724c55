"""Which train runs repeat each other with another seed, and what tells the others apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.stages import training_of
from rwmdata.config import flat
from rwmdata.runs import DIGEST, Run

WITHOUT_EFFECT = ("seed", "imagination.seed", "device", "export", "export_transitions", "warm_start", "model")
"""Options that do not tell trainings apart; the policy and the model that a run began with are taken from its parents,
which name them the same way however they were given."""
TELLING = ("task", "imagine", "num_envs", "imagination.lam", "imagination.num_envs", "policy", "model")
"""Options a label names first."""
Options = dict[str, object]


def options_of(run: Run) -> Options:
    """Return what tells a training from another: options by dotted name, and the policy and model it began with."""
    options = flat(training_of(run).model_dump(mode="json"))
    began = {name: run.meta.parents.get(name) for name in ("policy", "model")}
    return {k: v for k, v in options.items() if k not in WITHOUT_EFFECT} | began


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return a label for every run, the same for those that are alike: the fewest options that tell all apart."""
    options = [options_of(run) for run in runs]
    kinds = [o for k, o in enumerate(options) if o not in options[:k]]
    named: list[str] = []
    for key in dict.fromkeys([*TELLING, *(key for kind in kinds for key in kind)]):
        if len({_values(kind, [*named, key]) for kind in kinds}) > len({_values(kind, named) for kind in kinds}):
            named.append(key)
    labels = [_label(kind, named or ["task"]) for kind in kinds]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({runs[options.index(kind)].id})" for label, kind in zip(labels, kinds, strict=True)]
    return [labels[kinds.index(o)] for o in options]


def _values(options: Mapping[str, object], names: Sequence[str]) -> str:
    return json.dumps([options.get(name) for name in names])


def _label(options: Mapping[str, object], names: Sequence[str]) -> str:
    """Return ``Finetune-v0, imagine=false``; options that a training does not have are left out."""
    words = []
    for name in (name for name in names if name in options):
        value = options[name]
        text = value if isinstance(value, str) else json.dumps(value)
        if DIGEST in text:
            text = Path(text.partition(DIGEST)[0]).stem
        words.append(text if name == "task" else f"{name}={'none' if value is None else text}")
    return ", ".join(words) or str(options["task"])
