"""YAML files of other people: read as plain data, and refused where reading them would take more than they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 1 << 18
TOO_DEEP = 50
"""Levels of lists and mappings that no description has."""
MOST_VALUES = 20_000
"""Values with those that aliases repeat."""


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """Return the content of a YAML file, which is a mapping.

    Args:
        path: The file.
        loader: Makes the values.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no mapping in UTF-8, too large, nested too deeply, or its aliases repeat too much.
    """
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES >> 10} KiB")
    try:
        text = path.read_bytes().decode()
        _refuse_bombs(text)
        content = yaml.load(text, loader)
    except UnicodeDecodeError as exc:
        raise ValueError(f"byte {exc.start} is no UTF-8") from exc
    except (yaml.YAMLError, TypeError, AttributeError, OverflowError) as exc:
        raise ValueError(str(exc)) from exc
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError("it is no mapping of names")
    return content


def _refuse_bombs(text: str) -> None:
    """Refuse what is nested too deeply, or would be too much with every alias replaced by what it stands for."""
    sizes: dict[str, int] = {}
    open_parts: list[tuple[str | None, int]] = []
    """Anchor of each list or mapping that is open, and the values before it."""
    count = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_parts.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
        if len(open_parts) > TOO_DEEP:
            raise ValueError(f"it is nested more than {TOO_DEEP} levels deep")
        if count > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES} values, with those that its aliases repeat")
