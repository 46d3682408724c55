"""How long-running functions report how far they are, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (done, total, numbers worth showing)."""


def silent(done: int, total: int, numbers: dict[str, float]) -> None:
    """Report nothing."""
