"""The card of an archive: what is inside, with numbers, commands and licence, as Hugging Face's cards are written."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rwmdata.catalog import Dataset
from rwmdata.runs import Run
from rwmdata.text import quoted

TAGS = {
    "model": ["world-model", "dynamics-model"],
    "policy": ["reinforcement-learning", "locomotion"],
    "train": ["reinforcement-learning", "locomotion"],
    "eval": ["evaluation"],
    "report": ["evaluation"],
}
TITLES = {"model": "Dynamics model", "policy": "Policy", "train": "Training", "eval": "Evaluation", "report": "Report"}
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
LARGEST = "100M<n<1B"
MOST_SCALARS = 40
"""Rows of an evaluation that a card shows."""
LONGEST_TEXT = 200


def card_of(parts: Sequence[Run | Dataset], left_out: Sequence[str], licence: str) -> str:
    """Return the text of the card: YAML front matter, then Markdown.

    Args:
        parts: What the archive holds, the packed one last.
        left_out: Parents that it does not hold.
        licence: Identifier of the licence.
    """
    main = parts[-1]
    front = yaml.safe_dump(_front_matter(main, licence), sort_keys=False, allow_unicode=True)
    title = f"Dataset {main.name}" if isinstance(main, Dataset) else f"{TITLES.get(main.kind, main.kind)} {main.id}"
    inside = [(_label(p), _made_from(p), _size_of(p)) for p in parts]
    sections = [
        f"# {title}",
        _sentence(main),
        "## Inside\n\n" + table(("part", "made from", "size"), inside) + _note(left_out),
        *(_numbers(part) for part in reversed(parts)),
        "## How it was made\n\n" + "\n".join(filter(None, (_history(part) for part in parts))),
        f"## Use\n\n```\nrwm runs unpack FILE\n{_next(main)}\n```\n\n"
        "The files are Parquet, safetensors, JSON and tensors of torch; unpacking executes none of them.",
        "## Licence\n\n" + ("No licence was stated; ask who gave it to you." if licence == "unknown" else licence),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(main: Run | Dataset, licence: str) -> dict[str, Any]:
    if isinstance(main, Dataset):
        size = next((name for below, name in SIZES if main.rows < below), LARGEST)
        files = [{"config_name": "default", "data_files": f"data/{main.name}/*.parquet"}]
        about = {"task_categories": ["robotics"], "size_categories": [size], "configs": files}
        return {"license": licence, **about, "tags": ["robotics", "trajectories", main.robot]}
    robot = main.meta.summary.get("robot")
    tags = ["robotics", *TAGS.get(main.kind, []), *([str(robot)] if robot else [])]
    return {"license": licence, "library_name": "rwm", "pipeline_tag": "robotics", "tags": tags}


def _sentence(main: Run | Dataset) -> str:
    if isinstance(main, Dataset):
        minutes = main.rows / main.control_hz / 60
        return f"{main.rows:,} transitions of the robot {main.robot} at {main.control_hz:g} Hz, {minutes:.1f} minutes."
    made = _made_from(main)
    return f"A {main.kind} run of the toolkit rwm" + (f", made from {made}." if made != "-" else ".")


def _label(part: Run | Dataset) -> str:
    return f"dataset `{part.name}`" if isinstance(part, Dataset) else f"{part.kind} `{part.id}`"


def _made_from(part: Run | Dataset) -> str:
    if isinstance(part, Dataset):
        return str(part.manifest.provenance.get("source", "-"))
    return ", ".join(f"{role} {_plain(name)}" for role, name in part.meta.parents.items() if name) or "-"


def _size_of(part: Run | Dataset) -> str:
    if isinstance(part, Dataset):
        return f"{part.rows:,} rows in {len(part.episodes)} episodes"
    return f"{part.meta.status}, seed {part.meta.seed}"


def _note(left_out: Sequence[str]) -> str:
    return f"\n\nNot inside: {', '.join(map(_plain, left_out))}." if left_out else ""


def _numbers(part: Run | Dataset) -> str:
    """Return a section of what was measured."""
    if isinstance(part, Dataset):
        falls = int(part.episodes.terminated.sum())
        splits = ", ".join(f"{name} {size}" for name, size in part.split_sizes.items())
        facts = [
            ("rows", f"{part.rows:,}"),
            ("episodes", len(part.episodes)),
            ("falls", falls),
            ("splits", splits),
        ]
        columns = [(c.name, c.unit, _cell(c.mean), _cell(c.std)) for c in part.manifest.columns]
        shown = table(("what", "value"), facts) + "\n\n" + table(("column", "unit", "mean", "std"), columns)
        return f"## Numbers of {_label(part)}\n\n{shown}"
    rows = [(key, _cell(value)) for key, value in part.meta.summary.items() if isinstance(value, int | float | str)]
    tables = [table(("what", "value"), rows)] if rows else []
    scalars = part.meta.summary.get("scalars")
    if isinstance(scalars, list) and scalars:
        names = ("metric", "mode", "horizon", "value")
        found = [[_cell(s.get(name)) for name in names] for s in scalars[:MOST_SCALARS] if isinstance(s, dict)]
        tables.append(table(names, found))
    return f"## Numbers of {_label(part)}\n\n" + ("\n\n".join(tables) or "None were recorded.")


def _history(part: Run | Dataset) -> str:
    """Return one line on how a part was made: its command, commit and versions."""
    if isinstance(part, Dataset):
        origin = part.manifest.provenance
        facts = [
            f"{key} {_plain(origin[key])}"
            for key in ("task", "policy", "backend", "seed")
            if origin.get(key) is not None
        ]
        return f"- {_label(part)}: {_made_from(part)}" + (f" ({', '.join(facts)})" if facts else "")
    meta = part.meta
    versions = ", ".join(f"{name} {number}" for name, number in meta.versions.items())
    commit = str(meta.git.get("commit", ""))[:12]
    about = "; ".join(filter(None, (versions, f"commit {commit}" if commit else "")))
    return f"- {_label(part)}: `{_command(meta.command)}`" + (f" ({about})" if about else "")


def _command(words: Sequence[str]) -> str:
    """Return a command without the places on the disk where it ran."""
    kept, skip = [], False
    for word in words[1:]:
        if not skip and word != "--home":
            kept.append(Path(word).name if word.startswith(("/", "~")) else word)
        skip = word == "--home"
    return shlex.join(["rwm", *kept]).replace("`", "'")


def _next(main: Run | Dataset) -> str:
    if isinstance(main, Dataset):
        return f"rwm fit {quoted(main.name)}"
    ways = {
        "model": f"rwm eval uncertainty --model {quoted(main.id)}",
        "policy": f"rwm eval policy --policy {quoted(main.id)}",
    }
    return ways.get("policy" if main.kind == "train" else main.kind, f"rwm runs show {quoted(main.id)}")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def _plain(value: object) -> str:
    """Return a text that cannot break out of a line or a cell, and no place on this machine's disk."""
    text = " ".join(str(value).replace("|", "/").split())
    text = Path(text.partition("#sha256=")[0]).name if text.startswith("/") else text
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "..."
