"""What files say reaches a person as text: it commands no terminal, is no markup, and no shell runs it."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from cli.progress import PlainConsole
from rwmdata.errors import RwmError
from rwmdata.runs import Run
from rwmdata.text import quoted, shown

NASTY = "\x1b]0;own\x07\x1b[31m[/bold][red]x:\u202e\x9b2J\r\nnext: rm -rf ~"
HARMLESS = r"\x1b]0;own\x07\x1b[31m[/bold][red]x:\u202e\x9b2J\r\nnext: rm -rf ~"
FOLDER = "a; touch hacked #[bold]x"


def harmless(text):
    return not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_what_commands_a_terminal_is_spelt_out_and_words_are_one_word():
    assert shown(NASTY) == HARMLESS and shown(HARMLESS) == HARMLESS
    assert shown("Größe 0.5 µm 日本 \udcff") == r"Größe 0.5 µm 日本 \udcff"
    assert quoted("a b;c") == "'a b;c'" and quoted("20261126-x") == "20261126-x"


@pytest.fixture
def rows(schema):
    """Two episodes of 30 rows."""
    values = np.zeros((2, 30, schema.width), np.float32)
    values[..., 8] = -1
    return values


@pytest.fixture
def said(monkeypatch):
    """Return all that a command says, on both channels."""
    from cli import common, progress

    def run(*words, rwm):
        for console in (common.out, progress.err):
            monkeypatch.setattr(console, "record", True, raising=False)
        rwm(*words)
        return common.out.export_text() + progress.err.export_text()

    return run


def test_a_console_takes_every_text_as_it_is(capsys):
    console = PlainConsole(force_terminal=False, width=200)
    console.print(f"{NASTY} :warning: [link=x]", style="red")
    assert capsys.readouterr().out == f"{HARMLESS} :warning: [link=x]\n"


def test_labels_runs_columns_and_paths_are_shown_literally(home, make_dataset, rows, rwm, said):
    dataset = make_dataset(rows, "a", behaviour=NASTY)
    run = Run.create(home, "model", {"label": NASTY}, {"dataset": NASTY}, seed=0)
    run.finish({"summary": NASTY})
    for words in (
        ("runs", "ls"),
        ("runs", "show", run.id),
        ("sql", f'select behaviour, 1 as "{NASTY}" from episodes'),
        ("data", "info", "a"),
        ("data", "sample", "a", "--length", "5", "--windows", "1"),
    ):
        text = said(*words, rwm=rwm)
        assert harmless(text) and len(text) > 100, words
    with pytest.raises(RwmError) as caught:
        rwm("sql", f"select '{NASTY}' from nothing")
    assert caught.value.message  # Printed by a console as above.
    assert json.loads(rwm("sql", "select behaviour from episodes", "--json"))["rows"][0]["behaviour"] == NASTY
    shutil.move(dataset.path, home.data_dir / FOLDER)
    assert FOLDER in said("data", "ls", rwm=rwm)


def test_commands_to_be_copied_hold_names_as_one_word(home, make_dataset, rows, rwm):
    dataset = make_dataset(rows, "a")
    shutil.move(dataset.path, home.data_dir / FOLDER)
    shard = next((home.data_dir / FOLDER).glob("*.parquet"))
    shard.write_bytes(b"PAR1")
    with pytest.raises(RwmError) as caught:
        rwm("data", "sample", "--length", 5)
    assert caught.value.hint == f"rwm data validate '{FOLDER}'"
