"""The contract of a foreign format: recognise its sources, read them as episodes, and note what was filled in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rwmdata.episodes import Episode
from rwmdata.formats.mapping import Assembler, Mapping
from rwmdata.manifest import Provenance
from rwmdata.robots import RobotSpec
from rwmdata.schema import Schema

DEFAULT_ROBOT = "anymal_d"
"""Where nobody names a robot, and the sources do not tell."""


@dataclass(frozen=True)
class Request:
    """What to convert, and how."""

    sources: Sequence[Path]
    robot: RobotSpec
    mapping: Mapping | None = None
    episode_ends: str = "auto"
    extension: Sequence[str] = ()
    robot_given: bool = True
    """The robot was named, not found in the sources or presumed."""
    joint_order: str | None = None
    quaternions: str | None = None
    rate_hz: float | None = None


class Format(ABC):
    """Sources of one format, opened for conversion.

    A new format is a module with a subclass, and one line in :data:`rwmdata.formats.convert.FORMATS`.

    Attributes:
        label: Name of the format in error messages.
        schema: Columns of the episodes.
        files: Files to :meth:`read`, in order.
        assembler: Builds rows as the mapping says; None without a mapping.
        missing: Column groups that were not recorded and are zero.
        computed: Column groups that are computed from others.
        notes: Other things a user of the dataset should know, one sentence each; complete once all files are read.
        about: Further entries of the provenance.
    """

    label: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    """Options of a :class:`Request` that are of this format alone."""
    copies_are_left_out: ClassVar[bool] = True
    """Of files with the same content one is read: the user named them, so that a copy is a mistake."""

    def __init__(self, request: Request) -> None:
        self.robot, mapping = request.robot, request.mapping
        self.schema = Schema.from_robot(self.robot, mapping.extension if mapping else request.extension)
        self.files = list(request.sources)
        self.assembler = Assembler(self.robot, self.schema, mapping) if mapping else None
        self.missing: set[str] = self.assembler.missing if self.assembler else set()
        self.computed: set[str] = self.assembler.computed if self.assembler else set()
        self.notes: list[str] = []
        self.about: Provenance = {}

    @classmethod
    @abstractmethod
    def sniff(cls, source: Path, mapped: bool) -> bool:
        """Return whether ``source`` is of this format; ``mapped`` says that there is a mapping file."""

    @classmethod
    def robot_of(cls, sources: Sequence[Path]) -> str | None:
        """Return the name of the robot that sources were recorded on; None where they do not say.

        Raises:
            RwmError: They are of several robots, or cannot be read.
        """
        return None

    @abstractmethod
    def read(self, file: Path) -> Iterator[Episode]:
        """Yield the episodes of one of the ``files``.

        Raises:
            RwmError: It is missing, damaged, or not laid out as expected; the place in the file is named.
        """

    def provenance(self) -> Provenance:
        """Return what the manifest records about the conversion."""
        filled_in = [f"{group} was not recorded and is zero" for group in sorted(self.missing)]
        filled_in += [f"{group} was computed from the robot's drive" for group in sorted(self.computed)]
        groups = {"missing_groups": sorted(self.missing), "computed_groups": sorted(self.computed)}
        files = [file.name for file in self.files]
        return {"files": files, **groups, "notes": filled_in + self.notes, **self.about}
