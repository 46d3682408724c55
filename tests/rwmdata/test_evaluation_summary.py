from __future__ import annotations

import json

import pytest

from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import EvaluationSummary, Scalar, read_summary

SUMMARY = {
    "summary_version": 1,
    "evaluation": "dynamics",
    "run": "r",
    "dataset": "d",
    "model": "m",
    "robot": "anymal_d",
    "seed": 3,
    "units": "one",
    "windows": 64,
    "scalars": [{"metric": "hold_last_relative_l1", "mode": "mean", "horizon": 8, "value": None}],
}


def test_an_earlier_version_is_brought_up_to_date_and_keeps_its_own_fields(tmp_path):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(SUMMARY))
    found = read_summary(file)
    assert found.summary_version == 2 and found.policy is None and found.model_extra == {"windows": 64}
    assert found.scalars == [Scalar(metric="hold_last_rel_l1", mode="mean", horizon=8, value=None)]
    assert EvaluationSummary.read(found.model_dump(mode="json"), "again") == found


def test_what_follows_the_slash_is_the_group():
    assert Scalar(metric="rmse/joint_pos", value=1.0).group == "joint_pos"
    assert Scalar(metric="rel_l1", value=1.0).group is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is not the summary of an evaluation: it has no summary_version"),
        ({"loss": 1.0}, "is not the summary of an evaluation: it has no summary_version"),
        ({**SUMMARY, "summary_version": 3}, "newer version of rwm: summary version 3, known up to 2"),
        ({k: v for k, v in SUMMARY.items() if k != "robot"}, "robot: Field required"),
        ({**SUMMARY, "scalars": [{"metric": "x", "value": 1, "hi": 2}]}, "scalars.0.hi: Extra inputs"),
        ({**SUMMARY, "scalars": [{"metric": "x", "value": float("nan")}]}, "scalars.0.value: Input should be a finite"),
    ],
)
def test_a_foreign_or_newer_file_is_named_with_its_fault(tmp_path, content, message):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(content))
    with pytest.raises(RwmError) as caught:
        read_summary(file)
    assert str(file) in caught.value.message and message in caught.value.message


@pytest.mark.parametrize("text", [None, "{torn"])
def test_a_missing_or_torn_file_is_named(tmp_path, text):
    file = tmp_path / "summary.json"
    if text:
        file.write_text(text)
    with pytest.raises(RwmError, match="cannot be read as JSON"):
        read_summary(file)


def test_a_number_is_looked_up_by_metric_mode_and_horizon_and_a_missing_one_is_named():
    scalars = [Scalar(metric="rel_l1", mode="model", horizon=h, value=v) for h, v in ((1, 0.1), (8, None))]
    summary = EvaluationSummary(evaluation="dynamics", run="r", robot="go2", seed=0, scalars=scalars)
    assert summary.value("rel_l1") == 0.1 and summary.value("rel_l1", "model", 8) is None
    assert summary.find("rel_l1", horizon=8) is scalars[1] and summary.find("rel_l1", "ridge") is None
    with pytest.raises(RwmError, match="The dynamics evaluation r has no rel_l1 ridge 8."):
        summary.value("rel_l1", "ridge", 8)
