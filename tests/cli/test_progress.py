"""What long work says where no terminal shows a bar: its run at the start, a line now and then, one at the end."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cli import progress
from cli.main import app
from cli.progress import progress_bar
from rwmdata.runs import Run


@pytest.fixture
def clock(monkeypatch):
    """The time that progress is measured by, set by hand."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.s)
    return now


def test_a_line_every_half_minute_says_how_much_is_left(clock, capsys):
    with progress_bar("train") as update:
        for done in range(1, 12):
            clock.s += 12.0
            update(done, 1000, {"return": done / 10, "length": 200.0})
            if done == 2:
                assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.splitlines() == [
        # 12 s an iteration, seen from the first one on.
        "train 3 of 1,000, return 0.3, length 200 (0.6 min so far, 199.4 min left)",
        "train 6 of 1,000, return 0.6, length 200 (1.2 min so far, 198.8 min left)",
        "train 9 of 1,000, return 0.9, length 200 (1.8 min so far, 198.2 min left)",
        "train 11 of 1,000, return 1.1, length 200 (2.2 min so far, 197.8 min left)",
    ]


def test_a_resumed_run_and_a_second_part_are_measured_from_where_they_begin(clock, capsys):
    with progress_bar("fit") as update:
        for done in (500, 501, 502):
            clock.s += 30.0
            update(done, 512, {})
        clock.s += 60.0
        update(1, 10, {})
    assert capsys.readouterr().err.splitlines() == [
        "fit 500 of 512 (0.5 min so far)",
        "fit 501 of 512 (1.0 min so far, 5.5 min left)",
        "fit 502 of 512 (1.5 min so far, 5.0 min left)",
        "fit 1 of 10 (2.5 min so far)",
    ]


def test_how_far_it_was_is_said_when_it_fails(clock, capsys):
    with pytest.raises(ValueError, match="x"), progress_bar("fit") as update:
        update(3, 10, {"loss": 2.0})
        raise ValueError("x")
    assert capsys.readouterr().err == "fit 3 of 10, loss 2 (0.0 min so far)\n"


@pytest.fixture
def training(monkeypatch):
    """A training that makes a run and says once how far it is, in place of the real one."""

    def train(home, config, progress):
        run = Run.create(home, "train", {}, {}, 0)
        with run.running():
            progress(1, 1, {"return": 2.0})
            run.finish({"return": 2.0})
        return run

    monkeypatch.setattr("rwmrl.simulator_training.train_in_simulator", train)


def test_a_log_file_names_the_run_before_its_progress(home, training):
    result = CliRunner().invoke(app, ["train", "--home", str(home.root)])
    (run,) = home.runs("train")
    first, second, _ = result.stderr.splitlines()
    assert first == f"train {run.id} writes to {run.path}"
    assert re.fullmatch(r"train 1 of 1, return 2 \(0\.0 min so far\)", second)


def test_json_alone_is_printed_where_it_is_wanted(home, training):
    result = CliRunner().invoke(app, ["train", "--json", "--home", str(home.root)])
    assert result.stderr == "" and json.loads(result.stdout)["return"] == 2.0
    with Run.create(home, "train", {}, {}, 0).running() as run:
        run.finish({})
    assert result.stderr == ""


def test_a_terminal_shows_a_bar_and_no_lines(home, training, monkeypatch):
    monkeypatch.setattr(progress.err, "_force_terminal", True)
    result = CliRunner().invoke(app, ["train", "--home", str(home.root)])
    assert "━" in result.stderr and "writes to" not in result.stderr and "so far" not in result.stderr
