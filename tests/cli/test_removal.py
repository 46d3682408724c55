"""rwm data rm and rwm runs rm name what they delete, ask, and stay inside the home."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import Run


@pytest.fixture
def rows(schema):
    """Two episodes of 30 rows."""
    values = np.zeros((2, 30, schema.width), np.float32)
    values[..., 8] = -1
    return values


def asked(home, *words, answer):
    return CliRunner().invoke(app, [*map(str, words), "--home", str(home.root)], input=answer)


def test_the_path_is_named_and_no_is_no(home, make_dataset, rows):
    dataset, run = make_dataset(rows, "a"), Run.create(home, "model", {}, {}, seed=0)
    for words, path in ((("data", "rm", "a"), dataset.path), (("runs", "rm", run.id), run.path)):
        for answer in ("n\n", "\n", ""):
            result = asked(home, *words, answer=answer)
            assert result.exit_code == 1 and f"Delete {path}" in result.output and path.exists()
        assert asked(home, *words, answer="y\n").exit_code == 0 and not path.exists()


def test_nothing_outside_the_home_is_removed(home, make_dataset, rows, tmp_path, rwm):
    dataset, run = make_dataset(rows, "a"), Run.create(home, "model", {}, {}, seed=0)
    other = Home(tmp_path / "other")
    other.data_dir.mkdir(parents=True)
    (other.runs_dir / "model").mkdir(parents=True)
    far, far_run = dataset.path.rename(other.data_dir / "b"), run.path.rename(other.runs_dir / "model" / run.id)
    home.data_dir.joinpath("out").symlink_to(other.data_dir)
    (home.runs_dir / "model").rmdir()
    (home.runs_dir / "model").symlink_to(other.runs_dir / "model")
    for words in (
        ("data", "rm", far),
        ("data", "rm", "out/b"),
        ("data", "rm", "../data/out/b"),
        ("runs", "rm", far_run),
        ("runs", "rm", run.id),
    ):
        with pytest.raises(RwmError, match="is no dataset and no run of the home .*nothing was removed"):
            rwm(*words, "--yes")
    assert Dataset.open(far).rows == 60 and Run.open(far_run).id == run.id


def test_of_a_link_the_link_is_removed(home, make_dataset, rows, tmp_path):
    far = make_dataset(rows, "a").path.rename(tmp_path / "far")
    (home.data_dir / "linked").symlink_to(far)
    result = asked(home, "data", "rm", "linked", answer="y\n")
    assert f"Delete the link {home.data_dir / 'linked'}; its data stay" in result.output
    assert Dataset.open(far).rows == 60 and not list(home.data_dir.iterdir())
