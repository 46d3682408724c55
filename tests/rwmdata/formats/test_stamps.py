"""Stamps as recorders write them: repaired to when rows were taken, cut at pauses, or refused with what was seen."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rwmdata.errors import RwmError
from rwmdata.formats.clock import read_clock
from rwmdata.formats.resample import to_control_rate
from rwmdata.formats.stamps import stretches

DT = 0.02


def split(stamps, pause_s=None):
    stamps = np.asarray(stamps, float)
    return stretches(stamps, np.zeros(len(stamps), bool), DT, pause_s, "log")


def bunched(times, period):
    return np.ceil(times / period - 1e-9) * period


@pytest.fixture
def lossy():
    """500 Hz for ten seconds, 1 % of the rows lost."""
    times = np.arange(5000) / 500
    return times[np.random.default_rng(0).random(5000) > 0.01]


def test_lost_packets_are_bridged_and_do_not_begin_episodes():
    times = np.delete(np.arange(1000) * DT, [100, 200, 201, 700])
    parts, notes = split(times)
    assert len(parts) == 1 and parts[0].stamps_s.tolist() == times.tolist()
    assert notes == ["log: 3 gaps of up to 0.06 s bridged by interpolation"]


def test_a_pause_is_measured_at_the_control_rate_and_can_be_set():
    times = np.arange(600) / 500
    times[300:] += 0.09  # 45 samples, but not five control steps
    assert len(split(times)[0]) == 1
    assert [len(p.rows) for p in split(times, pause_s=0.05)[0]] == [300, 300]
    times[300:] += 0.02
    parts, notes = split(times)
    assert [len(p.rows) for p in parts] == [300, 300]
    assert notes == ["log: after a pause of 0.112 s an episode begins"]


@pytest.mark.parametrize("jitter_s", [0.0, 1e-4])
def test_rows_in_bursts_are_spaced_as_they_were_taken(lossy, jitter_s):
    arrived = bunched(lossy, 0.02) + jitter_s * np.random.default_rng(1).random(len(lossy))
    (part,), notes = split(arrived)
    assert np.ptp(part.stamps_s - lossy) < 0.006
    assert "stamps repeat, come in bursts or go back a little; the rows were spaced evenly" in notes[0]


def test_rows_delayed_and_caught_up_are_spaced_as_they_were_taken():
    times = np.arange(1500) * DT
    arrived = times.copy()
    for k in (300, 700, 1100):
        arrived[k : k + 10] = times[k + 10] - 1e-4
    (part,), _ = split(arrived)
    assert np.ptp(part.stamps_s - times) < 1e-3


@pytest.mark.parametrize("period_s", [0.002, 0.00998, 0.0102])
def test_stamps_of_two_decimals_keep_one_episode(period_s):
    times = np.arange(3000) * period_s
    (part,), _ = split(np.round(times, 2))
    assert np.ptp(part.stamps_s - times) < 0.0102
    assert (np.diff(part.stamps_s) > 0).all()


@pytest.mark.parametrize("rows", [600, 1991])
@pytest.mark.parametrize("hz", [400, 500])
@pytest.mark.parametrize("write", [lambda t: np.round(t + 0.013, 1), lambda t: bunched(t, 0.1)])
def test_stamps_as_far_apart_as_a_pause_keep_the_rate(rows, hz, write):
    times = np.arange(rows) / hz
    (part,), notes = split(write(times))
    assert np.ptp(part.stamps_s - times) < 0.003
    assert len(notes) == 1 and f"spaced evenly, {hz} Hz" in notes[0]


def test_a_rate_that_varies_under_rounded_stamps_is_followed():
    times = np.cumsum(0.002 * (1 + 0.3 * np.sin(np.arange(9000) / 700)))
    (part,), _ = split(np.round(times, 2))
    assert np.ptp(part.stamps_s - times) < 0.01


def test_a_repeated_stamp_does_not_move_the_rows_behind_it():
    times = np.arange(300) * DT
    stamps = times.copy()
    stamps[[70, 150, 250]] = stamps[[69, 149, 249]]
    (part,), notes = split(stamps)
    np.testing.assert_allclose(part.stamps_s, times, atol=1e-9)
    assert notes[0].startswith("log: 3 of 300 stamps repeat")


def test_rows_out_of_order_are_sorted_and_a_small_step_back_is_not():
    times = np.arange(300) * DT
    order = np.arange(300)
    order[[50, 51]] = [51, 50]
    (part,), notes = split(times[order])
    assert part.rows.tolist() == order.tolist() and notes == ["log: 2 rows were out of order and were sorted by time"]
    times = np.arange(3000) / 500
    slewed = times - 0.005 * (np.arange(3000) >= 1000)
    (part,), _ = split(slewed)
    assert part.rows.tolist() == list(range(3000)) and np.ptp(part.stamps_s - times) < 0.006


def test_a_clock_set_back_begins_an_episode():
    times = np.arange(500) * DT
    parts, notes = split(np.concatenate((times, times[:200])))
    assert [len(p.rows) for p in parts] == [500, 200]
    assert notes == ["log: the clock goes back at row 501: an episode begins there"]


def test_a_recorder_that_records_now_and_then_has_an_episode_each():
    parts, _ = split(np.concatenate([np.arange(60) / 500 + 60 * k for k in range(20)]))
    assert [len(p.rows) for p in parts] == [60] * 20


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (np.zeros(100), "log, from row 1: 100 rows have the stamp 0 s"),
        (
            np.floor(np.delete(np.arange(1500), range(500, 530)) * DT),
            "stamps 1 s apart for many rows do not tell where",
        ),
    ],
)
def test_stamps_that_do_not_tell_when_rows_were_taken_are_refused(stamps, message):
    with pytest.raises(RwmError, match=message):
        split(stamps)


def clock(values, unit=None):
    return read_clock(pl.DataFrame({"t": values}), "t", unit, "log")


@pytest.mark.parametrize("start", [0.0, 12.5, 1_765_180_800.0])
@pytest.mark.parametrize(
    ("unit", "per_s"), [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)]
)
@pytest.mark.parametrize("hz", [20, 500])
def test_the_unit_of_time_shows_in_the_rate(start, unit, per_s, hz):
    values = [int(start * per_s) + k * per_s // hz for k in range(100)] if per_s > 1 else start + np.arange(100) / hz
    stamps, said = clock(values)
    assert said == ("" if unit == "seconds" else unit)
    np.testing.assert_allclose(stamps, np.arange(100) / hz, atol=1e-6)


def test_nanoseconds_since_1970_keep_every_digit():
    stamps, _ = clock([str(1_636_552_000_123_456_789 + 5_000_001 * k) for k in range(10)])
    np.testing.assert_allclose(stamps, 0.005000001 * np.arange(10), rtol=1e-12)


def test_an_unclear_unit_is_asked_for_and_taken():
    values = np.arange(50) * 0.3
    with pytest.raises(
        RwmError, match="the unit of time is not clear; a row every 0.3 is 3.33 Hz in seconds"
    ) as caught:
        clock(values)
    assert caught.value.hint == "time_unit: s, ms, us or ns in the mapping file"
    np.testing.assert_allclose(clock(values, "ms")[0], values / 1000)


@pytest.mark.parametrize(
    "texts",
    [
        ["2025-12-08T23:59:59.990", "2025-12-09T00:00:00.010"],
        ["2025-12-08 23:59:59,990", "2025-12-09 00:00:00,010"],
        ["12/08/2025 23:59:59.990", "12/09/2025 00:00:00.010"],
        ["23:59:59.99", "00:00:00.01"],
        ["11:59:59.99 AM", "12:00:00.01 PM"],
    ],
)
def test_dates_and_times_of_day_are_read(texts):
    np.testing.assert_allclose(clock(texts)[0], [0, 0.02], atol=1e-6)


@pytest.mark.parametrize(
    "texts",
    [["00:00", "00:00.02"], ["59:59.990", "00:00.010"], ["75:30,1", "75:30,12"], ["12:00:00:99", "12:00:01:01"]],
)
def test_minutes_and_seconds_are_read(texts):
    assert read_clock(pl.DataFrame({"t": texts}), "t", None, "log")[0] == pytest.approx([0, 0.02])


def test_hours_and_minutes_are_not_taken_for_minutes_and_seconds():
    with pytest.raises(RwmError, match=r"log, row 1, column 't': '12:30' is no time such as 12:00:00.00 or 59:59.99"):
        read_clock(pl.DataFrame({"t": ["12:30", "12:30"]}), "t", None, "log")


def test_seconds_and_nanoseconds_in_two_columns_are_added():
    frame = pl.DataFrame({"sec": [7, 7, 8], "nanosec": [980_000_000, 990_000_000, 0]})
    np.testing.assert_allclose(read_clock(frame, ("sec", "nanosec"), None, "log")[0], [0, 0.01, 0.02], atol=1e-12)


def test_rows_between_samples_are_interpolated_and_actions_held(schema):
    stamps = np.array([0.0, 0.02, 0.06, 0.08])
    rows = np.zeros((4, schema.width), np.float32)
    rows[:, 0] = rows[:, schema.action.start] = [0, 1, 3, 4]
    rows[:, schema.group("projected_gravity")] = [[0, 0, -1], [0, 0, -1], [1, 0, 0], [1, 0, 0]]
    sampled = to_control_rate(rows, stamps, schema, DT, "log")
    np.testing.assert_allclose(sampled[:, 0], [0, 1, 2, 3, 4], atol=1e-6)
    assert sampled[:, schema.action.start].tolist() == [
        0,
        1,
        3,
        3,
        4,
    ]  # What led to the third row led to it from 0.02 s on.
    np.testing.assert_allclose(sampled[2, schema.group("projected_gravity")], [0.5**0.5, 0, -(0.5**0.5)], atol=1e-6)


@pytest.mark.parametrize(
    ("hz", "action_index", "expected"),
    [
        (25, "next", [0, 1, 1, 2, 2, 3, 3]),
        (25, "previous", [0, 1, 1, 2, 2, 3, 3]),
        (50, "next", [0, 1, 2, 3]),
        (100, "next", [0, 1, 3, 5]),
        (100, "previous", [0, 2, 4, 6]),
        (75, "next", [0, 1, 2, 4, 5]),  # at 20 ms the second was in force, since 13.3 ms
        (75, "previous", [0, 2, 3, 5, 6]),
    ],
)
def test_the_action_of_a_row_is_the_one_applied_from_the_row_before_on(schema, hz, action_index, expected):
    count = {25: 4, 50: 4, 100: 7, 75: 7}[hz]  # Action k is applied from (k - 1) / hz on, and led to row k.
    rows = np.zeros((count, schema.width), np.float32)
    rows[:, schema.action] = np.arange(count)[:, None]
    sampled = to_control_rate(rows, np.arange(count) / hz, schema, DT, "log", action_index)
    assert sampled[:, schema.action.start].tolist() == expected


def test_a_recording_that_ends_with_its_fall_keeps_that_row(schema):
    rows = np.zeros((10, schema.width), np.float32)
    rows[:, 0], rows[-1, -1] = np.arange(10), 1.0
    assert to_control_rate(rows, np.arange(10) / 100, schema, DT, "log")[:, 0].tolist() == [1, 3, 5, 7, 9]
    interpolated = to_control_rate(rows, np.arange(10) / 75, schema, DT, "log")
    np.testing.assert_allclose(interpolated[:, 0], [0, 1.5, 3, 4.5, 6, 7.5, 9], atol=1e-4)
    assert interpolated[:, -1].tolist() == [0] * 6 + [1]


def test_a_fall_between_two_control_steps_is_kept(schema):
    rows = np.zeros((58, schema.width), np.float32)
    rows[-1, -1] = 1.0
    sampled = to_control_rate(rows, np.arange(58) / 500, schema, DT, "log")
    assert sampled[:, -1].tolist() == [0, 0, 0, 0, 0, 1]
