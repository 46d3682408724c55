"""Every split has windows: whole episodes where they suffice, else the long ones, else parts of them by time."""

from __future__ import annotations

import json

import polars as pl
import pytest

from rwmdata.catalog import Dataset
from rwmdata.edit import merge, split_anew
from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.manifest import split_episodes
from rwmdata.splits import WINDOW_ROWS, deal, missing_windows
from rwmdata.validate import validate
from rwmdata.views import run_sql
from rwmdata.windows import split_starts, too_short

SPLITS = ("train", "val", "test")


@pytest.fixture
def long(make_dataset, episodes):
    """One episode of 1000 rows."""
    return make_dataset(episodes(1, 1000), "long")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lengths", [[100] * 7, [40, 100, 50], [10] * 5, [500, 400, 300, 200], [60, 70], [199], []])
def test_whole_episodes_are_dealt_as_before_where_they_suffice(lengths, seed):
    splits = deal(lengths, seed, window=40)
    assert splits.episodes == split_episodes(len(lengths), seed) and not splits.rows and not splits.notes


@pytest.mark.parametrize("seed", range(8))
def test_every_split_gets_a_long_episode_where_there_are_enough(seed):
    lengths = [10, 60, 10, 10, 60, 10, 60, 10, 10, 10]
    splits = deal(lengths, seed, window=40)
    assert all(any(lengths[k] >= 40 for k in splits.episodes[name]) for name in SPLITS)
    assert sorted(sum(splits.episodes.values(), [])) == list(range(10)) and not splits.rows
    if splits.notes:
        assert splits.notes == ["episodes 0, 2, 3, 5, 7, 8, 9 are shorter than a window of 40 rows, in train only"]
    else:
        assert splits.episodes == split_episodes(10, seed)


@pytest.mark.parametrize("seed", range(8))
def test_two_long_episodes_train_and_validate_where_they_cannot_be_divided(seed):
    splits = deal([20, 120, 20, 120, 20], seed, window=40).episodes
    assert sorted(splits["val"] + [k for k in splits["train"] if k % 2]) == [1, 3] and len(splits["val"]) == 1


@pytest.mark.parametrize(
    ("length", "window", "parts"),
    [
        (1000, 40, {"train": (0, 720), "val": (760, 860), "test": (900, 1000)}),
        (200, 40, {"train": (0, 40), "val": (80, 120), "test": (160, 200)}),
        (1000, 150, {"train": (0, 400), "val": (550, 700), "test": (850, 1000)}),
    ],
)
def test_one_long_episode_is_divided_by_time_with_a_window_between_the_parts(length, window, parts):
    splits = deal([length], 0, window=window)
    assert splits.rows == {name: [part] for name, part in parts.items()}
    assert splits.episodes == {"train": [0], "val": [], "test": []}
    what = f"episode 0 is divided by time, {window} rows between the parts are in no split"
    assert splits.notes == [f"too few long episodes for 3 splits: {what}"]


def test_parts_lie_in_their_episodes_and_short_episodes_train():
    splits = deal([30, 1000, 500], 3, window=40)
    assert splits.rows["train"] == [(0, 30), (30, 750), (1030, 1350)]
    assert splits.rows["val"] == [(790, 890), (1390, 1440)] and splits.rows["test"] == [(930, 1030), (1480, 1530)]


def test_windows_of_one_long_recording_are_apart_and_inside(home, long):
    assert [len(split_starts(long, name, WINDOW_ROWS)) for name in SPLITS] == [657, 53, 53]
    for shorter, longer in (("train", "val"), ("val", "test")):
        assert split_starts(long, shorter, 2).max() + 1 + WINDOW_ROWS < split_starts(long, longer, 80).min()
    assert [long.split(name).tolist() for name in SPLITS] == [[0], [0], [0]]
    assert long.split_sizes == {"train": "704 rows", "val": "100 rows", "test": "100 rows"}
    again = Dataset.open(long.path)
    assert again.manifest == long.manifest and not [f for f in validate(again) if f.check == "splits"]
    assert run_sql(home, "select split from episodes").item() == "train, val, test"
    with pytest.raises(RwmError, match="No episode in the test split of 'long' has the 101 rows") as caught:
        split_starts(long, "test", 101)
    assert "rwm data split long --name NEW --window 101" in caught.value.hint


def test_a_converted_recording_says_how_it_was_divided(home, tmp_path, episodes):
    file = tmp_path / "a.csv"
    pl.DataFrame(episodes(1, 400)[0]).write_csv(file, include_header=False)
    notes = convert(home, [file], "a").manifest.provenance["notes"]
    assert "episode 0 is divided by time, 48 rows between the parts are in no split" in notes[-1]


def test_splitting_anew_takes_the_window_that_is_wanted(home, long, rwm):
    wider = split_anew(home, long, "wider", {"train": 0.6, "val": 0.4}, window=100)
    assert wider.manifest.split_rows == {"train": [(0, 500)], "val": [(600, 1000)]}
    answer = json.loads(rwm("data", "split", "long", "--name", "b", "--window", 200, "--json"))
    assert answer["split_rows"] == {"train": [[0, 200]], "val": [[400, 600]], "test": [[800, 1000]]}
    with pytest.raises(RwmError, match="has 1 episodes, fewer than 3 splits"):
        split_anew(home, long, "c", {"train": 0.8, "val": 0.1, "test": 0.1}, window=201)


def test_a_merged_dataset_is_dealt_by_episode_again(home, long, make_dataset, episodes):
    other = make_dataset([rows[:60] for rows in episodes(5, 61)], "other")
    both = merge(home, [long, other], "both")
    assert not both.manifest.split_rows and "split_rows" not in (both.path / "dataset.json").read_text()


@pytest.mark.parametrize(
    "rows", [[(0, 1001)], [(-1, 5)], [(5, 5)], [(0, 10), (9, 20)], [(1000, 1010)], [(0, 10**30)], {"other": [(0, 5)]}]
)
def test_parts_that_overlap_or_leave_their_episode_are_refused(long, rows):
    content = json.loads((long.path / "dataset.json").read_text())
    content["split_rows"] = rows if isinstance(rows, dict) else {"train": rows}
    (long.path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(RwmError, match="split_rows are not separate parts of episodes"):
        Dataset.open(long.path)


def test_short_episodes_are_named(make_dataset, episodes):
    rows = episodes(4, 60)
    dataset = make_dataset([rows[0][:39], rows[1], rows[2][:40], rows[3][:5]])
    assert too_short(dataset, 40) == [0, 3] and too_short(dataset, 1) == []


def test_a_part_lies_within_one_of_several_episodes(make_dataset, episodes):
    dataset = make_dataset(episodes(3, 60))
    file = dataset.path / "dataset.json"
    content = json.loads(file.read_text())
    for parts, fits in (([(0, 60), (60, 90), (130, 180)], True), ([(50, 70)], False), ([(0, 60), (60, 121)], False)):
        file.write_text(json.dumps(content | {"split_rows": {"train": parts}}))
        if fits:
            assert Dataset.open(dataset.path).split("train").tolist() == [0, 1, 2]
        else:
            with pytest.raises(RwmError, match="split_rows are not separate parts"):
                Dataset.open(dataset.path)


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ([48] * 3, None),
        ([240], None),
        ([20] * 6, "train, val, test (the longest of its 6 episodes has 20 rows), so fit or evaluation refuse it; "
         "shorter ones do: rwm fit a --set history=14 --set forecast=6"),
        ([200], "val, test (its episode has 200 rows), so fit or evaluation refuse it; "
         "next: rwm data split a --name a-split --window 40, then rwm fit a-split --set history=32 --set forecast=8"),
        ([3], "train, val, test (its episode has 3 rows), so fit or evaluation refuse it; record longer episodes"),
    ],
)  # fmt: skip
def test_splits_without_a_window_are_said_with_what_fits(lengths, text):
    wanted = f"no training window of 48 rows fits into {text}" if text else None
    assert missing_windows(lengths, deal(lengths, 0), "a") == wanted


def test_conversion_and_validation_say_at_once_that_no_window_fits(make_dataset, episodes):
    short = make_dataset(episodes(6, 20), "short")
    text = missing_windows([20] * 6, deal([20] * 6, 0), "short")
    assert text in short.manifest.provenance["notes"]
    assert [f.message for f in validate(short) if f.check == "length"] == [text]
    assert all(len(split_starts(short, name, 14 + 6)) for name in SPLITS)
