"""What the documentation shows works: its queries run, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from cli.main import app
from rwmdata.home import Home
from rwmdata.views import run_sql
from rwmrl.export import ExportConfig, export_dataset

ROOT = Path(__file__).resolve().parents[1]
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "queries.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def small_home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("docs"))
    export_dataset(home, ExportConfig(transitions=600, num_envs=6, name="a"))
    return home


def test_there_are_ten_queries():
    assert len(QUERIES) == 10


@pytest.mark.parametrize("query", QUERIES)
def test_a_documented_query_runs(small_home, query):
    frame = run_sql(small_home, query)
    assert len(frame.columns) >= 3
    if "from transitions" in query or "from episodes" in query or "from datasets" in query:
        assert frame.height > 0


def commands(group, words=()):
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))
    if not hasattr(group, "commands"):
        yield words


def test_every_command_is_in_the_readme_and_every_command_there_exists():
    """``rwm data validate | ls`` stands for both."""
    block = re.search(r"## Commands\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    known = {" ".join(words) for words in commands(typer.main.get_command(app))}
    missing = [name for name in known if not all(word in block for word in name.split())]
    assert missing == []
    named = {m for m in re.findall(r"^rwm (\w[\w-]*(?: [a-z][\w-]*)?)", block, re.MULTILINE)}
    heads = {name.split()[0] for name in known}
    assert {n.split()[0] for n in named} <= heads
