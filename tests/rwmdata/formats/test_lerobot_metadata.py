"""Frames are found by the numbers they carry; metadata that contradict them or each other are refused."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rwmdata.episodes import Episode
from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.formats.lerobot import write_lerobot

DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
OLD_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
LENGTHS = (20, 15, 25)


@pytest.fixture
def dataset(make_dataset, episodes):
    parts = [rows[:n] for rows, n in zip(episodes(3, 30), LENGTHS, strict=True)]
    return make_dataset([Episode(rows, True, rows[:, :3], None, f"b{k}") for k, rows in enumerate(parts)], "a")


@pytest.fixture
def folder(dataset, tmp_path):
    return write_lerobot(dataset, tmp_path / "out")


@pytest.fixture
def change(folder):
    """Rewrite a Parquet file of the dataset, as a Polars frame or an Arrow table."""

    def rewrite(name, how):
        table = how(pl.read_parquet(folder / name))
        pq.write_table(table.to_arrow() if isinstance(table, pl.DataFrame) else table, folder / name)

    return rewrite


@pytest.fixture
def mapping(schema, tmp_path):
    groups = {
        name: {"path": "observation.state", "columns": [schema.group(name).start, schema.group(name).stop]}
        for name in schema.groups[:6]
    }
    file = tmp_path / "map.yaml"
    missing = ["thigh_contact", "foot_contact", "termination"]
    file.write_text(yaml.safe_dump({"groups": groups | {"action": {"path": "action"}}, "missing": missing}))
    return file


def set_info(folder, **changes):
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | changes))
    return info


def rows_of(dataset, *numbers):
    starts = np.cumsum([0, *LENGTHS])
    return np.concatenate([dataset.matrix()[starts[k] : starts[k] + LENGTHS[k]] for k in numbers])


@pytest.mark.parametrize("gone", [0, 1])
def test_an_episode_taken_out_of_the_metadata_is_left_out_and_noted(home, dataset, folder, change, gone):
    change(EPISODES, lambda t: t.filter(pl.col("episode_index") != gone))
    back = convert(home, [folder], "b")
    kept = [k for k in range(3) if k != gone]
    np.testing.assert_array_equal(back.matrix(), rows_of(dataset, *kept))
    assert back.episodes.behaviour == [f"b{k}" for k in kept]
    notes = back.manifest.provenance["notes"]
    assert f"file-000.parquet: {LENGTHS[gone]} frames of episode {gone}, which is not listed, were left out" in notes
    assert "meta/info.json counts 3 episodes, 2 are listed" in notes


def test_frames_in_another_order_are_sorted(home, dataset, folder, change):
    change(DATA, lambda t: t.sample(fraction=1.0, shuffle=True, seed=1))
    np.testing.assert_array_equal(convert(home, [folder], "b").matrix(), dataset.matrix())


def test_metadata_files_may_differ_in_order_number_and_types_of_columns(home, dataset, folder):
    about = pl.read_parquet(folder / EPISODES)
    names = sorted(about.columns, reverse=True)
    second = about[2:].select(names).with_columns(pl.col("episode_index").cast(pl.Float64), behaviour=None)
    about[:2].with_columns(pl.lit(0.5).alias("stats/action/mean")).write_parquet(folder / EPISODES)
    second.write_parquet(folder / "meta/episodes/chunk-000/file-001.parquet")
    (folder / "meta/episodes/chunk-000/._file-001.parquet").write_bytes(b"\0\5\26\7")
    back = convert(home, [folder], "b")
    np.testing.assert_array_equal(back.matrix(), dataset.matrix())
    assert back.episodes.behaviour == ["b0", "b1", None]


def test_other_writers_types_and_orders_of_names_are_read(home, dataset, folder, change):
    info = set_info(folder)
    names = info["features"]["observation.state"]["names"]
    info["features"]["observation.state"]["names"] = names[::-1]
    set_info(folder, features=info["features"])

    def as_others_write(table):
        wide = pl.List(pl.Float64)  # A large list of float64, as Polars writes it.
        turned = pl.col("observation.state").arr.to_list().list.reverse().cast(wide)
        ended = pl.concat_list(pl.col("next.terminated").cast(pl.Int64))
        return table.with_columns(turned, ended, pl.col("episode_index").cast(pl.Float64))

    change(DATA, as_others_write)
    np.testing.assert_array_equal(convert(home, [folder], "b").matrix(), dataset.matrix())


def test_features_of_another_robot_are_refused(home, folder):
    info = set_info(folder)
    names = info["features"]["observation.state"]["names"]
    names[9] = "joint_pos_FL_hip"
    set_info(folder, features=info["features"])
    with pytest.raises(RwmError, match="'observation.state' is not that of ANYmal D: joint_pos_FL_hip"):
        convert(home, [folder], "b")


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        (DATA, lambda t: t[:50], r"file-000.parquet, episode 2: the file holds 15 frames, the metadata list 25"),
        (DATA, lambda t: t[5:], "episode 0: the file holds 15 frames, the metadata list 20"),
        (DATA, lambda t: t.with_columns(index=pl.col("index") + 7), "first frame is number 7, the metadata say 0"),
        (DATA, lambda t: t.with_columns(frame_index=pl.col("frame_index") // 2), "'frame_index' has gaps or repeats"),
        (DATA, lambda t: t.drop("episode_index"), "has no feature 'episode_index'"),
        (DATA, lambda t: t.with_columns(episode_index=None), "'episode_index' has no value in 60 places"),
        (DATA, lambda t: t.with_columns(episode_index=pl.lit("a")), "'episode_index' holds .*string.*, expected num"),
        (DATA, lambda t: t.with_columns(timestamp=pl.col("timestamp") * 2), "frame 1 is 0.04 s after the one before"),
        (DATA, lambda t: t.with_columns(timestamp=pl.col("timestamp") * 1.2), "has 41.67 frames a second by its time"),
        (DATA, lambda t: t.drop("next.terminated"), "has no feature 'next.terminated'"),
        (EPISODES, lambda t: pl.concat((t, t[:1])), "lists episode 0 twice"),
        (EPISODES, lambda t: t.drop("length"), "row 1 is no entry of an episode: length: Field required"),
        (EPISODES, lambda t: t.drop("data/file_index"), "gives episode 0 no data/file_index"),
        (EPISODES, lambda t: t.with_columns(length=pl.col("length") + 1), "lists episode 0 with 21 frames, from 0 to"),
        (EPISODES, lambda t: t[:0], "lists no episode"),
        (EPISODES, lambda t: t.with_columns(pl.col("data/file_index") + 1), "file-001.parquet cannot be read"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(home, folder, change, file, how, message):
    change(file, how)
    with pytest.raises(RwmError, match=message):
        convert(home, [folder], "b")
    assert [d.name for d in home.datasets()] == ["a"]


def test_overlapping_episodes_are_refused(home, folder, change):
    bounds = {"length": [20, 20, 25], "dataset_from_index": [0, 15, 35], "dataset_to_index": [20, 35, 60]}
    change(EPISODES, lambda t: t.with_columns(**{name: pl.Series(values) for name, values in bounds.items()}))
    with pytest.raises(RwmError, match="overlap: 0 up to frame 20, 1 from 15"):
        convert(home, [folder], "b")


def test_lists_of_different_lengths_are_refused_even_if_their_sum_fits(home, folder):
    table = pq.read_table(folder / DATA)
    contact = table.column("observation.contact").to_pylist()
    contact[3], contact[4] = contact[3][:4], contact[4] + contact[3][4:]
    at = table.column_names.index("observation.contact")
    pq.write_table(table.set_column(at, "observation.contact", pa.array(contact)), folder / DATA)
    with pytest.raises(RwmError, match="'observation.contact' has lists of different lengths"):
        convert(home, [folder], "b")


@pytest.mark.parametrize(
    "template",
    [
        "data/chunk-{chunk_index:9999999999d}/file-{file_index:03d}.parquet",
        "data/chunk-{chunk_index:03d}/file-{file_index!r:>999}.parquet",
        "data/{chunk_index.__class__}/file-{file_index:03d}.parquet",
        "data/chunk-{episode_chunk:03d}/file-{file_index:03d}.parquet",
        "../out/data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "/data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "{{}}",
        "",
    ],
)
def test_data_path_has_known_fields_only_and_stays_inside(home, folder, template):
    set_info(folder, data_path=template or ".")
    with pytest.raises(RwmError, match="is no path inside the dataset with the fields {chunk_index} and {file_index}"):
        convert(home, [folder], "b")


def test_version_2_1_is_read(home, dataset, folder, mapping):
    frames = pl.read_parquet(folder / DATA)
    set_info(folder, codebase_version="v2.1", data_path=OLD_DATA, chunks_size=2)
    lines = [{"episode_index": k, "tasks": ["walk"], "length": n} for k, n in enumerate(LENGTHS)]
    (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for k in range(3):
        file = folder / f"data/chunk-{k // 2:03d}/episode_{k:06d}.parquet"
        file.parent.mkdir(exist_ok=True)
        frames.filter(episode_index=k).write_parquet(file)
    np.testing.assert_array_equal(convert(home, [folder], "b").matrix(), dataset.matrix())
    mapped = convert(home, [folder], "c", mapping=mapping)
    assert mapped.episodes.length.tolist() == list(LENGTHS)
    (folder / "meta/episodes.jsonl").write_text("{\n")
    with pytest.raises(RwmError, match="episodes.jsonl, line 1 is no JSON"):
        convert(home, [folder], "d")
    (folder / "meta/episodes.jsonl").unlink()
    with pytest.raises(RwmError, match="episodes.jsonl, which lists the episodes, cannot be read"):
        convert(home, [folder], "d")


def test_another_rate_is_resampled_with_a_mapping(home, dataset, schema, folder, change, mapping):
    set_info(folder, fps=100)
    change(DATA, lambda t: t.with_columns(timestamp=pl.col("timestamp") / 2))
    with pytest.raises(RwmError, match="has 100 frames a second; ANYmal D runs at 50"):
        convert(home, [folder], "b")
    halved = convert(home, [folder], "b", mapping=mapping)
    assert halved.episodes.length.tolist() == [10, 8, 13]
    found, expected = halved.matrix()[:10], dataset.matrix()[:20:2]
    np.testing.assert_allclose(found[:, schema.state], expected[:, schema.state], atol=1e-6)
    assert "100 frames a second were resampled to 50" in halved.manifest.provenance["notes"]
    mapping.write_text(mapping.read_text() + "rate_hz: 30\n")
    with pytest.raises(RwmError, match="rate_hz is 30, but meta/info.json says 100 Hz"):
        convert(home, [folder], "c", mapping=mapping)


@pytest.mark.parametrize(("fps", "taken"), [(25, [0, 0, 1, 1, 2, 2]), (100, [0, 2, 4, 6, 8]), (30, [0, 0, 1, 1, 2, 3])])
def test_at_another_rate_actions_are_those_applied_from_the_row_before_on(
    home, schema, folder, change, mapping, fps, taken
):
    """A frame holds a state and the action taken in it; so a row's action is that of the row before."""
    set_info(folder, fps=fps)
    number = pl.col("frame_index").cast(pl.Float32)
    actions = pl.concat_list([number] * 12).alias("action")
    change(DATA, lambda t: t.with_columns(actions, timestamp=(number / fps).cast(pl.Float32)))
    mapping.write_text(mapping.read_text() + "check: false\n")  # The joints move as at 50 Hz.
    rows = convert(home, [folder], "b", mapping=mapping).matrix()[:, schema.action.start]
    assert rows[: len(taken) + 1].tolist() == [0, *taken]
