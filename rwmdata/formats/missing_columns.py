"""What a log lacks of the columns that its mapping names, group by group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rwmdata.errors import RwmError
from rwmdata.formats.mapping import PER_JOINT, Mapping
from rwmdata.formats.spellings import named_joints, options, robots_by_names

SHOWN_MISSING, SHOWN_PRESENT = 3, 12


def missing_columns(file: Path, missing: Sequence[str], mapping: Mapping, present: Sequence[str]) -> RwmError:
    """Return the error of a log without some columns of its mapping: which groups lack how many, and what there is.

    Other robots are proposed where the log's columns name all their joints and the missing ones do not.

    Args:
        file: The log.
        missing: Columns that it lacks.
        mapping: The mapping.
        present: Columns that it has.
    """
    by_group: dict[str, list[str]] = {}
    for name in missing:
        by_group.setdefault(_group_of(name, mapping), []).append(name)
    if len(missing) == 1:
        lacks = f"no column {missing[0]} ({next(iter(by_group))})"
    else:
        texts = [f"{group} ({len(names)}: {_shown(names, SHOWN_MISSING)})" for group, names in by_group.items()]
        lacks = f"no columns for {', '.join(texts)}"
    hint = "rwm data convert FILE --infer proposes a mapping"
    others = [robot for robot in robots_by_names(present) if not named_joints(missing, robot)]
    if others and {*by_group} & {*PER_JOINT}:
        hint = f"{options(others)}, whose joints the columns name; {hint}"
    return RwmError(f"{file} has {lacks}; its {len(present)} columns: {_shown(present, SHOWN_PRESENT)}.", hint)


def _group_of(name: str, mapping: Mapping) -> str:
    """Return the entry of a mapping that names a column."""
    sources = dict(mapping.groups) | ({"orientation": mapping.orientation} if mapping.orientation else {})
    for group, source in sources.items():
        if isinstance(source.columns, list) and name in source.columns:
            return group
        if isinstance(source.columns, str):
            pattern = ".*".join(re.escape(part) for part in source.columns.split("{}"))
            if re.fullmatch(pattern, name, re.DOTALL):
                return group
    return "time" if mapping.time and (name == mapping.time or name in mapping.time) else "episode"


def _shown(names: Iterable[str], count: int) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
