"""The exception type whose message is meant for the user."""

from __future__ import annotations


class RwmError(Exception):
    """A fault the user can fix, in one sentence, with the next thing to try.

    The command line prints ``error: <message>`` and ``try: <hint>`` and exits with 1.

    Args:
        message: What is wrong, where (file, row, column) and what was expected.
        hint: The command or edit that fixes it; empty when there is none to give.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message with its hint, as a traceback or a log should show it."""
        return f"{self.message} Try: {self.hint}" if self.hint else self.message
