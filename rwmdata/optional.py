"""Packages that only some features need: a missing one is reported with the extra that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rwmdata.errors import RwmError


@contextmanager
def optional_import(need: str, extra: str, advice: str = "") -> Iterator[None]:
    """Report a failed import inside the block with the command that installs the package.

    Args:
        need: What needs which package: ``PPO needs the package rsl-rl-lib``.
        extra: Extra of this toolkit that installs it.
        advice: Added to the command.

    Raises:
        RwmError: An import failed.
    """
    try:
        yield
    except ImportError as exc:
        raise RwmError(f"{need}: {exc}.", f"pip install 'rwm[{extra}]'{advice}") from exc
