"""How long-running functions tell the caller where they are, without knowing what draws it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (done, total, numbers worth showing)."""
