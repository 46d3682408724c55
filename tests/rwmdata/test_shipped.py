"""What comes along has names, and a user's own things go before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.shipped import ASSETS, is_shipped, shipped_files


def test_the_sample_is_a_dataset_without_any_in_the_home(home):
    sample = home.dataset("sample")
    assert (sample.rows, sample.robot) == (10_000, "anymal_d")
    with pytest.raises(RwmError, match="comes along: sample"):
        home.dataset()
    with pytest.raises(RwmError, match="no dataset and no run of the home"):
        home.own(sample.path)


def test_its_recordings_are_its_rows(home):
    converted = convert(home, [Path("sample")], "mine")
    assert np.array_equal(converted.matrix(), home.dataset("sample").matrix())
    assert converted.manifest.provenance["files"] == ["state_action_data_0.csv.xz"]


def test_a_folder_of_that_name_goes_before_the_recordings(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    with pytest.raises(RwmError, match="sample"):
        convert(home, [Path("sample")], "mine")


def test_a_dataset_of_that_name_goes_before_the_sample(home, make_dataset):
    make_dataset([np.zeros((50, 66), np.float32)], name="sample")
    assert home.dataset("sample").rows == 50


@pytest.mark.parametrize("kind", ["model", "policy"])
def test_models_and_policies_have_names(home, kind):
    find = getattr(home, kind)
    own = find("shipped")
    assert own.run is None and is_shipped(own.file) and find("anymal_d/shipped").file == own.file
    assert find(str(own.file)).id == own.id
    for unknown in ("shippd", "go3/shipped", "../policies/anymal_d/expert"):
        with pytest.raises(RwmError, match=unknown):
            find(unknown)


def test_every_shipped_model_and_the_policy_of_it_have_a_card():
    for folder in (p for p in (ASSETS / "models").iterdir() if p.is_dir()):
        text = (folder / "README.md").read_text()
        assert all(f"`{name}`" in text for name in shipped_files("models", folder.name))
        assert "shipped" in shipped_files("policies", folder.name)


def test_another_robots_policy_is_found_by_its_name_with_the_robot(home):
    found = home.find_policy("go2/shipped")
    assert found is not None and found.run is None and found.file == shipped_files("policies", "go2")["shipped"]
    assert home.find_policy("go2/shippd") is None and home.find_policy("shipped") is None
