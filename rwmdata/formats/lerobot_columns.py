"""Columns of a LeRobot feature by name: those that the metadata give its elements, or the feature and a number."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from rwmdata.errors import RwmError
from rwmdata.formats.lerobot_frames import vectors
from rwmdata.formats.mapping import Source, suffixes
from rwmdata.robots import RobotSpec

NUMBERED = re.compile(r"(.+)\[(\d+)\]")
SHOWN_NAMES = 12


class NamedColumns:
    """Finds the elements of features that a mapping names.

    Args:
        features: ``features`` of ``meta/info.json``.
        robot: Its joints and legs stand for ``{}`` in a name.
        extension: Names of the extension's columns.
    """

    def __init__(self, features: dict[str, dict[str, Any]], robot: RobotSpec, extension: list[str]) -> None:
        self._names = {feature: _names(about.get("names")) for feature, about in features.items()}
        self._robot, self._extension = robot, extension

    def features(self, group: str, source: Source) -> set[str]:
        """Return the features that a group is read from.

        Raises:
            RwmError: A name is of no feature, or of several.
        """
        return {feature for feature, _ in self._places(group, source)} or {source.path}

    def select(self, frames: pa.Table, group: str, source: Source, where: str) -> np.ndarray:
        """Return a group's values ``(n, k)``.

        Raises:
            RwmError: A name is of no feature, or of several, or a feature is too short.
        """
        places = self._places(group, source)
        if not places:
            return source.select(vectors(frames, source.path, where))
        columns = []
        for feature, index in places:
            values = vectors(frames, feature, where)
            if index >= values.shape[1]:
                raise RwmError(f"{where}: '{feature}' has {values.shape[1]} numbers, none at {index}.", "--mapping")
            columns.append(values[:, index])
        return np.stack(columns, axis=1)

    def _places(self, group: str, source: Source) -> list[tuple[str, int]]:
        if source.columns is None or isinstance(source.columns, tuple):
            return []
        names = source.columns
        if isinstance(names, str):
            ends = suffixes(group, self._robot, self._extension) if "{}" in names else [""]
            names = [names.replace("{}", end) for end in ends]
        return [self._place(name, source.path) for name in names]

    def _place(self, name: str, path: str) -> tuple[str, int]:
        """Return feature and index of a name."""
        searched = {path: self._names[path]} if path in self._names else self._names
        found = [(feature, names.index(name)) for feature, names in searched.items() if name in names]
        if not found and (match := NUMBERED.fullmatch(name)) and match[1] in self._names:
            found = [(match[1], int(match[2]))]
        if len(found) == 1:
            return found[0]
        if found:
            fault = f"'{name}' is a name in {' and in '.join(feature for feature, _ in found)}."
            raise RwmError(fault, "{path: FEATURE, columns: [...]} in the mapping")
        known = [f"{feature}: {', '.join(names[:SHOWN_NAMES])}" for feature, names in searched.items() if names]
        fault = f"meta/info.json names no '{name}'; {'; '.join(known) or 'it gives the features no names'}."
        raise RwmError(fault, "columns: [FEATURE[0], FEATURE[1], ...], or {path: FEATURE, columns: [first, end]}")


def _names(names: object) -> list[str]:
    """Return the names of a feature's elements: a list, or one below a single key as in ``{"motors": [...]}``."""
    if isinstance(names, dict):
        names = [name for part in names.values() for name in (part if isinstance(part, list) else [])]
    return [str(name) for name in names] if isinstance(names, list) else []
