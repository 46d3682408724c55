"""Names and labels out of files, on their way to a person: into a terminal, or into a command to be copied."""

from __future__ import annotations

import re
import shlex

UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that command a terminal, end a line, reorder or hide text, or are half of one."""


def shown(text: object) -> str:
    r"""Return a text in one line as a terminal may show it: what would command it is spelt out, ESC as ``\x1b``."""
    return UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def quoted(word: object) -> str:
    """Return a name or a path as one word of a shell's command line."""
    return shlex.quote(str(word))
