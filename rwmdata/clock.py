"""Times of creation that keep their order, also after a clock was set back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

HEAD_BYTES = 65_536
"""Of a record: its time of creation stands near its beginning."""
CREATED = re.compile(rb'"created": *"([^"]+)"')


def now() -> str:
    """Return the UTC time as ISO 8601, with microseconds so that runs sort by creation."""
    return text_of(datetime.now(UTC))


def text_of(moment: datetime) -> str:
    """Return a UTC time as ISO 8601, with microseconds."""
    return moment.isoformat(timespec="microseconds")


def moment_after(records: Iterable[Path]) -> datetime:
    """Return the UTC time; a microsecond after the newest of some JSON records where the clock is behind it."""
    moment = datetime.now(UTC)
    for record in records:
        with suppress(OSError, ValueError, TypeError), record.open("rb") as file:
            if created := CREATED.search(file.read(HEAD_BYTES)):
                moment = max(moment, datetime.fromisoformat(created[1].decode()) + timedelta(microseconds=1))
    return moment
