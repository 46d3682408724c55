"""Every option that is a number refuses what is none, in a sentence and before any work."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from cli.main import app
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmmodel.fit_config import FitConfig
from rwmrl.policy_config import PolicyConfig

NEEDED = {
    "convert": ["none.csv", "--name", "x"],
    "split": ["--name", "x"],
    "filter": ["true", "--name", "x"],
    "merge": ["a", "--name", "x"],
    "import": ["none.pt"],
}


def number_options(group=None, words=()):
    """Give the words of each command, and its options that are numbers."""
    for name, each in (group or typer.main.get_command(app)).commands.items():
        if hasattr(each, "commands"):
            yield from number_options(each, (*words, name))
            continue
        for param in each.params:
            kind = getattr(param.type_descriptor, "annotation", None)
            if kind in (int, float) and param.opts[0].startswith("--"):
                yield pytest.param(
                    (*words, name), param.opts[0], kind, id=f"{' '.join((*words, name))} {param.opts[0]}"
                )


@pytest.mark.parametrize(("words", "option", "kind"), list(number_options()))
def test_what_is_no_number_is_one_sentence(home, words, option, kind):
    for value in ("nan", "inf", "-inf") if kind is float else ("1e30", "1.5", "nan"):
        command = [*words, *NEEDED.get(words[-1], []), f"{option}={value}", "--home", str(home.root)]
        result = CliRunner().invoke(app, command)
        fault = result.exception
        named = isinstance(fault, RwmError) and fault.message.startswith(f"{option} is {value}")
        assert named or result.exit_code == 2, (value, fault, result.output)
        assert not home.runs_dir.exists() and not home.data_dir.exists()


@pytest.mark.parametrize("given", [{"seed": -1}, {"seed": 2**64}, {"updates": 10**30}, {"lr": float("inf")}])
def test_a_configuration_refuses_numbers_that_no_library_takes(given):
    with pytest.raises(RwmError, match="whole number of 64 bits|finite number|greater than or equal to 0"):
        build(FitConfig, None, given)
    with pytest.raises(RwmError):
        build(PolicyConfig, None, {"lam": float("nan")})
