"""A command that is told to end says so, whenever it is told."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager

import pytest

import cli.main
from rwmdata.processes import ended_by_signals


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_that_comes_once_all_is_done_is_said_in_one_sentence(monkeypatch, capsys):
    """As the handlers are taken back, where the command itself is over."""

    @contextmanager
    def told_at_the_end():
        with ended_by_signals():
            try:
                yield
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli.main, "ended_by_signals", told_at_the_end)
    monkeypatch.setattr(cli.main, "_work", lambda: sys.exit(0))
    with pytest.raises(SystemExit) as ended:
        cli.main.run()
    assert ended.value.code == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in " ".join(capsys.readouterr().err.split())
