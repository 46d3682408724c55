"""The newest is what was made last, also where a clock was set back."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from rwmdata import clock, runs
from rwmdata.runs import Run

HOUR = timedelta(hours=1)


@pytest.fixture
def set_back(monkeypatch):
    """Set the clock back by an hour."""

    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - HOUR

    def change():
        monkeypatch.setattr(clock, "datetime", Earlier)
        monkeypatch.setattr(runs, "datetime", Earlier)

    return change


def test_a_run_made_after_the_clock_was_set_back_is_the_newest(home, set_back):
    made = [Run.create(home, "model", {}, {}, 0)]
    set_back()
    made += [Run.create(home, kind, {}, {}, 0) for kind in ("model", "policy")]
    assert [r.id for r in home.runs()] == [r.id for r in reversed(made)]
    assert [r.id[:15] for r in made] == sorted(r.id[:15] for r in made)


def test_a_dataset_made_after_the_clock_was_set_back_is_the_newest(home, make_dataset, episodes, set_back):
    make_dataset(episodes(1, 20), name="b")
    set_back()
    make_dataset(episodes(1, 20), name="a")
    assert [d.name for d in home.datasets()] == ["a", "b"] and home.dataset().name == "a"


def test_a_damaged_record_says_nothing_about_the_time(tmp_path):
    for name, content in (("a", b"\xff"), ("b", b'{"created": "soon"}'), ("c", b'{"created": "2999-01-01"}')):
        (tmp_path / name).write_bytes(content)
    assert clock.moment_after(tmp_path.glob("*")).year < 2999
