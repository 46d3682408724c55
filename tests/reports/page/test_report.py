"""The page says what the home holds, fetches nothing, and never breaks on what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import typer
from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis
from typer.testing import CliRunner

from cli.main import app
from reports.evaluate.statistics import Interval
from reports.evaluate.summary import finish_evaluation
from reports.page.compare import build_comparison
from reports.page.curves import PARTS, draw_curves, minutes_a_step, recorded, thinned
from reports.page.html import cell, picture, table
from reports.page.report import build_report
from rwmdata.config import build
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.runs import Run
from rwmrl.online_config import FinetuneConfig, PretrainConfig


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.html = [], [], html
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def read(found):
    with open(found["page"]) as file:
        return Page(file.read())


@pytest.fixture
def copy(report_home, tmp_path):
    """A home of its own to break things in, and the names of its runs."""
    home, runs = report_home
    shutil.copytree(home.root, tmp_path / "copy", symlinks=True)
    return Home(tmp_path / "copy"), {name: run.id for name, run in runs.items()}


@pytest.fixture(scope="module")
def page(report_home, tmp_path_factory):
    home, runs = report_home
    return read(build_report(home, [runs["policy"].id], tmp_path_factory.mktemp("page") / "page.html"))


def test_the_whole_lineage_is_on_the_page(page, report_home):
    _, runs = report_home
    anchors = {a.get("id") for _, a in page.tags}
    assert {f"run-{runs[name].id}" for name in ("dynamics", "score")} <= anchors and "dataset-walks" in anchors
    assert runs["model"].id in page.text and runs["other"].id not in page.text
    assert "0.1 0.09 to 0.11" in page.text and "0.9 0.89 to 0.91" in page.text
    assert "arXiv:2501.10100" in page.text and "0.91 (0.82 from simulated data alone)" in page.text
    assert "rwm policy walks --model" in page.text and "rwm eval dynamics walks" in page.text
    titles = [img["alt"] for img in page.all("img")]
    assert titles == ["Error by horizon", "How it walks", "Learning curves", "Learning curves"]


def test_everything_is_inside_the_page(page):
    assert all(img["src"].startswith("data:image/png;base64,") for img in page.all("img"))
    values = [value or "" for _, attributes in page.tags for value in attributes.values()]
    assert not [value[:80] for value in values if re.match(r"\s*([a-z]+:)?//", value)]
    assert "url(" not in page.html and "@import" not in page.html
    links = [a["href"] for a in page.all("a")]
    assert links and all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= {a.get("id") for _, a in page.tags}
    assert [a["href"] for a in page.all("link")] == ["data:,"]
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_hostile_text_stays_text(page):
    assert "<script>alert" not in page.html and "&lt;script&gt;alert" in page.html
    assert len(page.all("script")) == 1
    assert not any("evil" in img["src"] for img in page.all("img"))


def test_without_names_the_newest_model_or_policy_is_taken(report_home, tmp_path):
    home, runs = report_home
    assert build_report(home, out=tmp_path / "p.html")["policies"] == [runs["policy"].id]
    assert not home.runs("report")


def test_a_report_is_a_run_with_its_parents(copy):
    home, names = copy
    found = build_report(home, [names["model"]])
    run = home.run("report", found["run"])
    assert run.meta.status == "finished" and (run.path / "report.html").is_file()
    assert run.meta.parents == {"dataset": "walks", "model": names["model"], "policy": None}
    assert [n["command"] for n in found["missing"]] == [
        f"rwm eval uncertainty --model {names['model']}",
        f"rwm eval calibration --model {names['model']}",
        f"rwm eval noise --model {names['model']}",
        f"rwm report {names['policy']}",
    ]
    with pytest.raises(RwmError, match="is a report itself"):
        build_report(home, [run.id])


def test_an_evaluation_alone_shows_only_itself(report_home, tmp_path):
    home, runs = report_home
    found = build_report(home, [runs["dynamics"].id], tmp_path / "p.html")
    assert found["evaluations"] == [runs["dynamics"].id] and found["models"] == [runs["model"].id]


def test_an_evaluations_verdict_stands_below_its_question(home, tmp_path):
    run = Run.create(home, "eval", {"evaluation": "falls", "seed": 0}, {"policy": "medium"}, seed=0)
    finish_evaluation(run, "anymal_d", [], verdict="It misses <most> of them.")
    text = read(build_report(home, [run.id], tmp_path / "p.html")).text
    question, verdict = "What does the model believe about its policy's failures?", "It misses <most> of them."
    assert 0 < text.index(question) < text.index(verdict)


def test_what_is_gone_broken_or_newer_is_said_with_the_next_command(copy):
    home, names = copy
    shutil.rmtree(home.data_dir / "walks")
    shutil.rmtree(home.runs_dir / "model" / names["model"])
    next((home.runs_dir / "eval" / names["score"]).glob("*.png")).write_bytes(b"torn")
    policy = home.run("policy", names["policy"])
    policy.update(status="failed", error="RuntimeError: <b>out of memory</b>")
    (policy.path / "metrics.jsonl").unlink()
    old = home.run("eval", names["dynamics"])
    old.update(parents={"policy": policy.id}, summary={**old.meta.summary, "summary_version": 99})
    (home.runs_dir / "model" / names["other"] / "run.json").write_text("{")
    found = build_report(home, [names["policy"]])
    said = {n["text"]: n["command"] for n in found["missing"]}
    expected = {
        f"The policy {policy.id} is not finished but failed: RuntimeError": f"rwm runs resume {policy.id}",
        f"The model {names['model']}, which policy": "rwm runs ls --kind model",
        "The dataset 'walks' cannot be read": "rwm data ls",
        "newer version of rwm: summary version 99": "update rwm",
        "is not a readable run record": "rwm runs ls",
    }
    for start, command in expected.items():
        assert any(start in text and said[text].startswith(command) for text in said), (start, said)
    assert any("film.png of evaluation" in t for t in said) and any("recorded no metrics" in t for t in said)
    page = read(found)
    assert "<b>out of" not in page.html and "&lt;b&gt;out of memory" in page.html


def test_an_empty_home_says_what_to_do_first(home):
    with pytest.raises(RwmError, match="No model and no policy yet") as caught:
        build_report(home)
    assert caught.value.hint == "rwm demo"


def test_a_model_that_has_only_begun_is_reported_on_too(home, tmp_path):
    run = Run.create(home, "model", {}, {"dataset": None}, seed=0)
    found = build_report(home, [], tmp_path / "p.html")
    assert found["models"] == [run.id] and "is not finished but created" in found["missing"][0]["text"]


def test_repetitions_are_listed_and_the_newest_shown(copy):
    home, names = copy
    again = Run.create(home, "eval", {"evaluation": "dynamics"}, {"dataset": "walks", "model": names["model"]}, 0)
    again.finish({**home.run("eval", names["dynamics"]).meta.summary, "run": again.id})
    found = build_report(home, [names["model"]])
    assert found["evaluations"] == [again.id]
    assert f"rwm report {names['dynamics']}" in read(found).text


def test_two_runs_side_by_side(report_home, tmp_path):
    home, runs = report_home
    found = build_comparison(home, runs["model"].id, runs["other"].id, tmp_path / "c.html")
    assert found["differences"] == [{"key": "lr", "a": 1e-3, "b": 2e-3}]
    (row,) = found["scalars"]
    assert (row["metric"], row["horizon"], row["a"], row["b"]) == ("rel_l1", 1, 0.1, 0.2)
    assert row["difference"] == pytest.approx(0.1) and row["apart"] is True
    page = read(found)
    assert "+100.0 %" in page.text and "val/rel_l1_h8 0.1 0.05 −0.05" in page.text
    titles = [img["alt"] for img in page.all("img")]
    assert titles == ["A: Error by horizon", "B: Error by horizon", "Learning curves"]


def test_a_comparison_says_what_is_not_alike(copy):
    home, names = copy
    other = home.run("eval", names["other dynamics"])
    other.update(summary={**other.meta.summary, "windows": 9})
    found = build_comparison(home, names["model"], names["other"])
    assert "The dynamics evaluations are not alike: windows 4 and 9." in [n["text"] for n in found["missing"]]
    found = build_comparison(home, names["model"], names["policy"])
    texts = [n["text"] for n in found["missing"]]
    assert any("they have no common curves" in t for t in texts) and found["scalars"] == []
    with pytest.raises(RwmError, match="are the same run"):
        build_comparison(home, names["model"], names["model"])


def test_two_evaluations_are_compared_themselves(report_home, tmp_path):
    home, runs = report_home
    found = build_comparison(home, runs["dynamics"].id, runs["other dynamics"].id, tmp_path / "c.html")
    assert len(found["scalars"]) == 1 and {d["key"] for d in found["differences"]} == {"model"}


def test_the_command_prints_where_it_wrote_or_one_object(report_home, tmp_path):
    home, runs = report_home
    words = ["report", runs["policy"].id, "--home", str(home.root), "--out", str(tmp_path / "p.html")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and result.stdout.strip() == f"wrote {tmp_path / 'p.html'}"
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found["models"] == [runs["model"].id]
    with pytest.raises(RwmError, match="--compare takes two runs, 1 were named"):
        typer.main.get_command(app).main([*words, "--compare"], standalone_mode=False)


def test_cells_sort_by_value_and_missing_ones_have_no_key():
    assert (cell(1234567).text, cell(1234567).sort) == ("1,234,567", "1234567")
    assert (cell(-0.25678).text, cell(-0.25678).sort) == ("−0.2568", "-0.25678")
    assert cell(None).sort == "" and cell(None).text == "–"


def test_a_file_that_is_no_picture_is_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert picture(tmp_path / "a.png", "", "") is None and picture(tmp_path / "b.png", "", "") is None


def test_a_column_is_numeric_when_all_that_is_there_is_a_number():
    shown = table("", ("a", "b", "c"), [(None, 1, None), (2.5, "x", None)])
    assert [shown.numeric(k) for k in range(3)] == [True, False, False]


def test_a_training_with_a_model_shows_its_curves_and_the_training_the_model_is_from(home, monkeypatch):
    first = Run.create(home, "train", build(PretrainConfig, "smoke").model_dump(mode="json"), {"model": None}, 0)
    second = Run.create(home, "train", build(FinetuneConfig, "smoke").model_dump(mode="json"), {"model": first.id}, 0)
    for run in (first, second):
        held = {f"val/{name}_h{h}": 0.1 * h for name in ("rel_l1", "hold_last") for h in (1, 100)}
        for step in (1, 2):
            run.log(step, {"episode/return": 1.0, "model/total": 3.0, "val/rel_l1_noise0.1_h1": 1.0, **held})
        run.finish({})
    drawn = []
    monkeypatch.setattr("reports.page.curves._draw", lambda ax, panel, lines, *_: drawn.append((panel.title, lines)))
    found = build_report(home, [second.id])
    assert {*found["policies"]} == {first.id, second.id}
    assert not any("not in this home" in notice["text"] for notice in found["missing"])
    assert dict(drawn)["loss of the model"] == [("model/total", "training")]
    assert dict(drawn)["held-out error of the model"] == [
        ("val/rel_l1_h1", "model, 1 steps"), ("val/rel_l1_h100", "model, 100 steps"),
        ("val/hold_last_h1", "last state held, 1"), ("val/hold_last_h100", "last state held, 100"),
    ]  # fmt: skip


def test_what_a_model_is_compared_with_is_dashed_in_its_colour(home, tmp_path, monkeypatch):
    run = Run.create(home, "train", {}, {}, 0)
    for step in (1, 2):
        run.log(step, {f"val/{name}_h{h}": 0.1 * h for name in ("rel_l1", "hold_last") for h in (1, 100)})
    drawn = {}
    monkeypatch.setattr(Axes, "plot", lambda ax, x, y, **style: drawn.update({style["label"]: style}))
    monkeypatch.setattr(Axes, "legend", lambda ax, **_: None)
    assert draw_curves(tmp_path / "curves.png", [run])
    model, held = drawn["model, 100 steps"], drawn["last state held, 100"]
    assert model["color"] == held["color"] != drawn["model, 1 steps"]["color"]
    assert (model["linestyle"], held["linestyle"]) == ("-", "--")


def test_minutes_stand_above_the_updates_and_iterations_of_one_run(home, tmp_path, monkeypatch):
    fit = Run.create(home, "model", {"batch": 60}, {}, 0)
    fit.log(1, {"train/total": 1.0})
    assert minutes_a_step(fit, recorded(fit)) is None
    fit.finish({"windows_per_second": 10.0})
    assert minutes_a_step(fit, recorded(fit)) == pytest.approx(0.1)
    policy = Run.create(home, "policy", {}, {}, 0)
    for step, seconds in ((1, 20.0), (2, 40.0)):
        policy.log(step, {"perf/collect_s": seconds, "perf/learn_s": 2 * seconds, "episode/length": 9.0})
    assert minutes_a_step(policy, recorded(policy)) == pytest.approx(1.5)
    named = []
    monkeypatch.setattr(SecondaryAxis, "set_xlabel", lambda axis, text, **_: named.append(text))
    assert draw_curves(tmp_path / "one.png", [policy]) and named == ["minutes"]
    assert draw_curves(tmp_path / "two.png", [policy, policy]) and named == ["minutes"]


def test_a_long_curve_is_thinned_to_its_extremes_and_gaps():
    x = np.arange(100 * PARTS, dtype=float)
    y = np.sin(x / 1e4)
    y[123_456], y[54_321], y[77_777] = 9.0, -9.0, np.nan
    thin_x, thin_y = thinned(x, y)
    assert len(thin_x) <= 5 * PARTS and (np.diff(thin_x) > 0).all()
    assert {0.0, 123_456.0, 54_321.0, 77_777.0, x[-1]} <= {*thin_x}
    assert np.array_equal(thin_y, y[thin_x.astype(int)], equal_nan=True)


def test_a_short_curve_is_drawn_as_it_is():
    x = np.arange(5 * PARTS, dtype=float)
    assert np.array_equal(thinned(x, -x), (x, -x))


def test_the_page_of_a_policy_begins_with_whether_it_can_be_trusted(copy):
    home, runs = copy
    of = {"dataset": "walks", "model": runs["model"], "policy": runs["policy"]}

    def measure(name, *numbers):
        run = Run.create(home, "eval", {"evaluation": name, "seed": 0}, of, seed=0)
        scalars = [Interval(value, value - 0.011, value + 0.011).scalar(*key) for *key, value in numbers]
        finish_evaluation(run, "anymal_d", scalars, "")

    def page():
        return read(build_report(home, [runs["policy"]])).text

    own = ("foreseen/termination", "recorded_actions")
    measure("falls", (*own, 10, 0.9), (*own, 25, 0.854))
    measure("closed-loop", ("rel_l1", "imagined", 25, 0.2661))
    asked = page().partition("Can it be trusted?")[2]
    assert "Does it stay on its feet? ? Not measured yet." in asked
    assert f"rwm eval policy --policy {runs['policy']}" in asked
    assert "Are its falls foreseen? 85 % of its falls" in asked
    assert "95 % interval 84 % to 86 %" in asked or "95 % interval 84 % to 87 %" in asked
    assert "Does it walk as imagined? 0.266 relative error" in asked
    measure("policy", ("share_without_fall", "disturbed", None, 0.974))
    assert "Does it stay on its feet? 97 % of its episodes in the simulator" in page()
    assert "Can it be trusted?" not in read(build_report(home, [runs["model"]])).text
