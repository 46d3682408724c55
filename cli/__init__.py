"""The command line: Typer commands that parse, call one function and print."""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rwmdata", "rwmmodel", "rwmrl", "reports", "assets")


def hidden_by() -> str | None:
    """Return the file of another package that would be imported as one of this toolkit's; None where there is none.

    ``python -m`` looks into the current folder first, whoever put what is there.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        places = [Path(place).resolve() for place in spec.submodule_search_locations or ()] if spec else []
        if ROOT / name not in places:
            return str(spec.origin or name) if spec else name
    return None


if foreign := hidden_by():
    text = f"error: {foreign!r} would be imported in place of this toolkit's package beside {str(ROOT / 'cli')!r}."
    sys.exit(f"{text}\ntry:   the command rwm, or another folder")
