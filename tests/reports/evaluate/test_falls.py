"""Falls: windows of hand-made walks, forecasts against a slow twin, counts by hand, and one evaluation throughout."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from reports.evaluate import falls_windows
from reports.evaluate.falls import LEADS, FallsConfig, evaluate_falls
from reports.evaluate.falls_causes import parameter_numbers, verdict, with_causes
from reports.evaluate.falls_figures import roc
from reports.evaluate.falls_forecasts import Forecast, forecast, teacher_forced, tilt_deg
from reports.evaluate.falls_scores import (
    SCORES,
    by_episode,
    combined,
    last_rows_above,
    score_table,
    thigh_contacts,
    warning_numbers,
)
from reports.evaluate.falls_windows import BEYOND, Walks, Windows, cut, joined, simulate
from rwmdata.errors import RwmError
from rwmdata.evaluation_summary import Scalar
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmmodel.checkpoint import save_model
from rwmrl.behaviour_base import Behaviour, BehaviourContext
from rwmrl.behaviours import make_behaviour
from rwmrl.observations import policy_observation

HISTORY = 4
"""Of the fixture ``model``."""


@pytest.fixture
def walks():
    """Three robots, 200 steps; a row's first number is 1000 * robot + step, as is its command's and its noise's.

    Robot 0 falls at step 99 and walks on; robot 1 walks all the time and is pushed at 150; robot 2 falls at 7 and 199.
    """
    number = (1000 * np.arange(3)[:, None] + np.arange(200))[..., None].astype(np.float32)
    pushed = np.zeros((3, 200), bool)
    pushed[1, 150] = pushed[2, 197] = True
    episodes = pl.DataFrame(
        {"robot": [0, 2, 0, 1, 2], "first": [0, 0, 100, 0, 8], "length": [100, 8, 100, 200, 192],
         "fell": [True, True, False, False, True], "mass": [1.0, 2.0, 3.0, 4.0, 5.0]}
    )  # fmt: skip
    return Walks(number.repeat(66, axis=2), number.repeat(3, axis=2), number.repeat(48, axis=2), pushed, episodes)


def cut_of(walks, lead, per_fall=1, seed=0):
    return cut(walks, HISTORY, lead, per_fall, "disturbed", 10, np.random.default_rng(seed))


def test_windows_end_in_the_fall_and_hold_the_last_command(walks):
    windows = cut_of(walks, lead=5)
    assert windows.fall.tolist() == [True, True, False, False]  # The fall at step 7 has 8 rows, not 4 + 5.
    assert windows.rows.shape == (4, HISTORY + 5, 66) and windows.command.shape == (4, 5 + BEYOND, 3)
    assert windows.rows[0, :, 0].tolist() == [*range(91, 100)]
    assert windows.rows[1, -1, 0] == 2199
    assert windows.command[0, :, 0].tolist() == [95, 96, 97, 98, 99, *[99] * BEYOND]
    assert windows.noise[0, :, 0].tolist() == [*range(95, 95 + 5 + BEYOND)]
    assert windows.noise[1, -1, 0] == 2199  # There is no later one.
    about = windows.about.filter("fall")
    assert about["episode"].to_list() == [10, 14] and about["age"].to_list() == [95, 187]
    assert about["mass"].to_list() == [1.0, 5.0] and about["pushed"].to_list() == [False, True]


def test_a_push_before_the_last_known_row_can_be_seen(walks):
    assert cut_of(walks, lead=2).about.filter("fall")["pushed"].to_list()[-1] is False
    assert cut_of(walks, lead=3).about.filter("fall")["pushed"].to_list()[-1] is True


def test_other_windows_are_of_walks_that_go_on_and_are_not_pushed(walks):
    ends = []
    for seed in range(40):
        windows = cut_of(walks, lead=10, per_fall=9, seed=seed)
        others = windows.about.filter(~pl.col("fall"))
        assert sorted(others["episode"]) == [10, 12, 13, 14]  # One of each episode that is long enough.
        last = windows.rows[2:, HISTORY - 1, 0] % 1000
        ends += zip(others["episode"], last, strict=True)
    assert max(end for e, end in ends if e == 10) <= 99 - 10 - falls_windows.CALM
    assert max(end for e, end in ends if e == 13) > 100
    assert not any(140 <= end < 150 for e, end in ends if e == 13)


def test_no_fall_gives_no_windows(walks):
    calm = replace(walks, episodes=walks.episodes.with_columns(fell=pl.lit(False)))
    assert len(joined([cut_of(calm, 5), cut_of(calm, 5)]).rows) == 0


class Reaching(Behaviour):
    """Acts on all it sees: a fixed linear map of the observation."""

    def __init__(self):
        self.map = 0.02 * torch.randn(48, 12, generator=torch.Generator().manual_seed(3))

    def act(self, observations):
        return observations["policy"] @ self.map


def random_windows(lead=3):
    rng = np.random.default_rng(1)
    shapes = (HISTORY + lead, 66), (lead + BEYOND, 3), (lead + BEYOND, 48)
    rows, command, noise = (rng.normal(size=(3, *shape)).astype(np.float32) for shape in shapes)
    about = pl.DataFrame({"episode": [0, 1, 2], "fall": [True, True, False], "age": [9, 9, 9], "pushed": [False] * 3})
    return Windows(lead, rows, command, noise, about)


@pytest.mark.parametrize("given", [True, False])
def test_forecasts_agree_with_reading_everything_anew(model, schema, given):
    windows, behaviour, normalizer = random_windows(), Reaching(), model.normalizer
    made = forecast(model, behaviour, windows, schema, given)
    rows, command, noise = (torch.from_numpy(v) for v in (windows.rows, windows.command, windows.noise))
    seen, done = [rows[:, k, schema.state] for k in range(HISTORY)], [rows[:, k, schema.action] for k in range(HISTORY)]
    with torch.no_grad():
        for k in range(3 + BEYOND):
            observation = policy_observation(seen[-1], command[:, k], done[-1], schema) + noise[:, k]
            acted = behaviour.act({"policy": observation})
            done.append(rows[:, HISTORY + k, schema.action] if given and k < 3 else acted)
            prediction = model(
                torch.stack([normalizer.state(s) for s in seen], dim=1),
                torch.stack([normalizer.action(a) for a in done[1:]], dim=1),
            )
            seen.append(normalizer.denorm_state(prediction.state))
            close = {"rtol": 1e-3, "atol": 1e-4}
            np.testing.assert_allclose(made.states[:, k], seen[-1], **close)
            np.testing.assert_allclose(made.contact[:, k], prediction.contact.sigmoid(), **close)
            np.testing.assert_allclose(made.termination[:, k], prediction.termination.sigmoid()[:, 0], **close)
            members = prediction.member_termination.sigmoid()[..., 0]
            np.testing.assert_allclose(made.any_member[:, k], members.amax(dim=0), **close)
            np.testing.assert_allclose(made.epistemic[:, k], prediction.epistemic, **close)


def test_true_states_are_read_whatever_was_predicted(model, schema):
    windows, normalizer = random_windows(), model.normalizer
    made, rows = teacher_forced(model, windows, schema), torch.from_numpy(windows.rows)
    states, actions = normalizer.state(rows[..., schema.state]), normalizer.action(rows[..., schema.action])
    for k in range(3):
        with torch.no_grad():
            wanted = model(states[:, : HISTORY + k], actions[:, 1 : HISTORY + k + 1])
        np.testing.assert_allclose(made.states[:, k], normalizer.denorm_state(wanted.state), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(made.termination[:, k], wanted.termination.sigmoid()[:, 0], rtol=1e-4)


def test_tilt_is_the_angle_of_gravity(schema):
    states = np.zeros((4, 45))
    states[:, schema.group("projected_gravity")] = [[0, 0, -1], [0, 0, 1], [3, 0, 0], [0, 1, -1]]
    np.testing.assert_allclose(tilt_deg(states, schema), [0, 180, 90, 45])


def test_scores_of_a_window(schema):
    """One window of a fall, three steps ahead, whose probabilities, tilts and uncertainties are known."""
    windows = replace(random_windows(), rows=np.zeros((3, HISTORY + 3, 66), np.float32))
    windows.rows[..., schema.group("projected_gravity")] = [0, 0, -1]
    windows.rows[0, -1, schema.group("projected_gravity")] = [1, 0, 0]
    steps = 3 + BEYOND
    states, chance = np.zeros((3, steps, 45), np.float32), np.zeros((3, steps))
    states[..., schema.group("projected_gravity")] = [0, 0, -1]
    states[0, 4, schema.group("projected_gravity")] = [0, 1, 0]
    states[0, 2, schema.group("base_lin_vel")] = [3, 4, 0]
    chance[0, 1], chance[0, 6] = 0.4, 0.5
    rising = np.broadcast_to(np.arange(steps, dtype=float), (3, steps))
    made = Forecast(states, np.zeros((3, steps, 8)), chance, chance + 0.1, rising)
    normalizer = type("Normalizer", (), {"state_std": torch.full((45,), 2.0)})
    first = score_table(windows, made, "imagined", schema, normalizer).row(0, named=True)
    wanted = {"termination": 0.5, "any_member": 0.6, "cumulative": 0.7, "tilt": 90, "tilt_now": 0, "tilt_at_fall": 0}
    wanted |= {"true_tilt_at_fall": 90, "velocity_error": 5, "epistemic_max": 12, "epistemic_mean": 6, "age": 9}
    wanted |= {"state_error": (3 + 4 + 1 + 1) / 2 / 3, "lead": 3, "mode": "imagined", "fall": True}
    assert {name: first[name] for name in wanted} == pytest.approx(wanted)


def test_only_the_last_rows_count_as_tilted():
    assert last_rows_above(np.array([[9, 1, 9, 9], [9, 9, 9, 1], [9, 9, 9, 9]]), 5).tolist() == [2, 0, 4]


def test_thigh_contacts_are_counted_in_the_last_rows(schema):
    there, predicted = np.zeros((2, 12, 8)), np.zeros((2, 12, 8))
    there[0, 3:6, 0] = 1
    there[0, :, 4:] = 1  # Feet.
    there[0, 1, 0] = 1  # Too early.
    predicted[0, 5:9, 0] = 0.6
    predicted[1, 11, 3] = 0.9
    counts = thigh_contacts(there, predicted, schema)
    assert {k: v.tolist() for k, v in counts.items()} == {
        "thigh_true": [3, 0], "thigh_predicted": [4, 1], "thigh_both": [1, 0],
    }  # fmt: skip


def test_the_combined_score_is_the_most_unusual_one():
    scores = np.array([[0.5, 10.0, 1.0], [0.5, 30.0, 1.0], [0.5, 50.0, 7.0], [0.9, 20.0, 1.0]])
    usual = scores[:2]
    found = combined(scores, np.array([False, False, True, True]))
    # Of the first two logits are 0, tilts 20 +- 10, uncertainties constant.
    assert found[:2].tolist() == [0.0, 1.0] and usual[:, 1].std() == 10
    assert found[2] == pytest.approx(6 / 1e-9) and found[3] == pytest.approx(np.log(9) / 1e-9)


def table_of(fall, pushed=None, **scores):
    n = len(fall)
    columns = {name: scores.get(name, [0.0] * n) for name in SCORES}
    return pl.DataFrame({"episode": range(n), "fall": fall, "pushed": pushed or [False] * n, **columns})


def test_shares_of_falls_and_false_alarms_by_hand():
    fall = [True] * 4 + [False] * 40
    others = [k / 100 for k in range(40)]
    table = table_of(
        fall, termination=[0.9, 0.6, 0.375, 0.1, *others], tilt=[10.0, 20.0, 70.0, 20.0, *[5.0] * 39, 80.0]
    )
    numbers = warning_numbers(by_episode(table), tilt_deg=60.0)
    assert numbers["foreseen/termination"] == 0.5 and numbers["false_alarms/termination"] == 0.0
    assert numbers["foreseen/tilt"] == 0.25 and numbers["false_alarms/tilt"] == 1 / 40
    assert numbers["foreseen_by_tilt/15_deg"] == 0.75 and numbers["false_alarms_by_tilt/60_deg"] == 1 / 40
    assert numbers["foreseen/either"] == 0.75 and numbers["false_alarms/either"] == 1 / 40
    # 5 % of 40 are 2, so at most two others lie above the limit; 0.375 does too, 0.1 does not.
    limit = numbers["limit_at_5_percent/termination"]
    assert sum(v > limit for v in others) <= 2 and limit == pytest.approx(0.38)
    assert numbers["foreseen_at_5_percent/termination"] == 0.5
    pairs = [(f, o) for f in (0.9, 0.6, 0.375, 0.1) for o in others]
    assert numbers["auroc/termination"] == pytest.approx(np.mean([(f > o) + 0.5 * (f == o) for f, o in pairs]))
    assert numbers["auroc/epistemic_max"] is None


def test_an_episode_may_hold_a_fall_and_a_walk_that_goes_on():
    table = table_of([True, False, True], tilt=[70.0, 3.0, 80.0]).with_columns(episode=pl.Series([4, 4, 9]))
    values = by_episode(table)[..., SCORES.index("tilt")]
    np.testing.assert_array_equal(values, [[70.0, 3.0], [80.0, np.nan]])
    assert warning_numbers(by_episode(table.filter("fall")), 60.0)["false_alarms/tilt"] is None


def test_every_missed_fall_has_a_cause():
    falls = pl.DataFrame(
        {"episode": range(6), "termination": [0.9, 0.1, 0.1, 0.1, 0.1, 0.1],
         "tilt_at_fall": [0.0, 70.0, 80.0, 10.0, 10.0, 66.0], "true_tilt_at_fall": [80.0] * 6}
    )  # fmt: skip
    heads = pl.DataFrame({"episode": range(6), "fall": [True] * 6, "head": [0.0, 0.1, 0.9, 0.9, 0.1, 0.9]})
    wanted = ["foreseen", "head", "rest", "state", "head_and_state", "rest"]
    assert with_causes(falls, heads).sort("episode")["cause"].to_list() == wanted


def test_thirds_of_a_parameter_hold_equal_times():
    """Light robots walk as long as the others, in more episodes, and fall more."""
    episodes = pl.DataFrame(
        {"robot": [0, 0, 0, 1, 2], "first": [0, 3, 6, 0, 0], "length": [3, 3, 3, 9, 9],
         "fell": [True, True, True, True, False], "scenario": ["disturbed"] * 5, "mass": [-1.0] * 3 + [0.0, 1.0]}
    )  # fmt: skip
    falls = pl.DataFrame({"mass": [-1.0, -1.0, 0.0], "termination": [0.9, 0.0, 0.0], "tilt": [0.0, 5.0, 70.0]})
    values = {(s.metric, s.mode): s.value for s in parameter_numbers(episodes, falls, 60.0)}
    assert [values[f"falls_in_third/{part}", "mass"] for part in ("low", "middle", "high")] == [0.75, 0.25, 0.0]
    assert [values[f"foreseen_in_third/{part}", "mass"] for part in ("low", "middle", "high")] == [0.5, 1.0, None]


def test_the_verdict_names_the_error_that_hides_most_falls():
    def number(metric, value, mode="recorded_actions", horizon=25):
        return Scalar(metric=metric, mode=mode, horizon=horizon, value=value)

    shares = {
        "foreseen/termination": 0.1, "foreseen/tilt": 0.5, "foreseen/either": 0.55, "false_alarms/either": 0.02,
        "foreseen_at_5_percent/termination": 0.6, "foreseen_at_5_percent/tilt_now": 0.4, "falls/head": 0.2,
        "falls/state": 0.6, "falls/head_and_state": 0.0, "falls/rest": 0.1, "at_fall/tilted": 0.4,
        "foreseen_at_5_percent/tilt": 0.7, "at_fall/true_tilt_at_fall": 80.0, "at_fall/tilt_at_fall": 20.0,
        "thigh_contacts/recall": None,
    }  # fmt: skip
    numbers = [number(metric, value) for metric, value in shares.items()]
    numbers += [number("foreseen/either", 0.3, "imagined"), number("pushed_after_window", 0.05, None)]
    numbers += [number(f"head_{name}/head", 0.9, "true_states", None) for name in ("fires", "auroc")]
    text = verdict(numbers, 25)
    assert "60 % of falls: the base is predicted too upright" in text and "55 % by either" in text
    assert "40 % of bases are tilted beyond the limit, by 80 degrees in the mean of all, predicted 20" in text
    assert "; - of thigh contacts" in text and "5 % of falls follow a push" in text


def test_the_curve_of_a_perfect_score_goes_up_first():
    alarms, found = roc(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False]))
    assert alarms.tolist() == [0, 0, 0, 0.5, 1] and found.tolist() == [0, 0.5, 1, 1, 1]


@pytest.fixture
def short(robot, tmp_path, monkeypatch, own_robot):
    """The robot of one's own with episodes of three seconds, and windows that fit them."""
    text = (own_robot.folder / "robot.yaml").read_text().replace("episode_length_s: 0.6", "episode_length_s: 2.4")
    (own_robot.folder / "robot.yaml").write_text(text)
    load_robot.cache_clear()
    monkeypatch.setattr(falls_windows, "CALM", 2)
    return load_robot("mine")


@pytest.fixture
def own_model(home, model):
    """A run that keeps an untrained model of the robot of one's own."""
    model.info = replace(model.info, robot="mine")
    run = Run.create(home, "model", {}, {"dataset": "set"}, 0)
    save_model(model, run.model_file)
    run.finish({})
    return run


def test_walks_keep_what_the_policy_saw_and_begin_anew_after_a_fall(short, schema, constant):
    behaviour = make_behaviour(constant(short, 4.0), BehaviourContext(short, 3, torch.Generator()), 0.0)
    seen = []
    act = behaviour.act
    behaviour.act = lambda observations: seen.append(observations["policy"].clone()) or act(observations)
    walked = simulate(short, behaviour, "disturbed", 0)
    assert walked.rows.shape == (3, 120, 66) and walked.noise.shape == (3, 120, 48)
    fell = walked.episodes.filter("fell")
    assert len(fell) >= 3 and walked.episodes["length"].sum() == 3 * 120
    for robot, first, length in fell.select("robot", "first", "length").iter_rows():
        ends = walked.rows[robot, first : first + length, -1]
        assert ends[-1] == 1 and not ends[:-1].any()
    # Within an episode the policy saw the row before, under the next command, with noise.
    robot, first, _ = fell.select("robot", "first", "length").row(0)
    row = torch.from_numpy(walked.rows[robot, first + 1])[None]
    command = torch.from_numpy(walked.command[robot, first + 2])[None]
    clean = policy_observation(row[:, :45], command, row[:, 45:57], schema)[0].numpy()
    np.testing.assert_allclose(seen[first + 2][robot], clean + walked.noise[robot, first + 2], atol=1e-5)
    assert 0.05 < np.abs(walked.noise[..., :3]).max() <= 0.1 + 1e-5
    assert "base_mass_offset_kg" in walked.episodes.columns


def test_an_evaluation_writes_numbers_table_verdict_and_figure(home, own_model, short, constant):
    config = FallsConfig(policy=constant(short, 4.0), robots=6, rounds=1, resamples=20)
    run = evaluate_falls(home, own_model.checkpoint, config)
    summary = run.meta.summary
    assert run.meta.status == "finished" and min(summary["falls"].values()) >= 3
    table = pl.read_parquet(run.path / "falls.parquet")
    assert set(table["lead"]) <= set(LEADS) and {"imagined", "recorded_actions"} == set(table["mode"])
    values = {(s["metric"], s["mode"], s["horizon"]): s for s in summary["scalars"]}
    part = table.filter("fall", ~pl.col("pushed"), pl.col("lead") == 10, pl.col("mode") == "imagined")
    foreseen = values["foreseen/tilt", "imagined", 10]
    assert foreseen["value"] == pytest.approx((part["tilt"] > 60).mean()) and foreseen["low"] is not None
    # The policy does the same whatever it sees, so both ways through the model are one.
    for metric in ("auroc/state_error", "at_fall/tilt_at_fall"):
        both = [values[metric, mode, 10]["value"] for mode in ("imagined", "recorded_actions")]
        assert both[0] == pytest.approx(both[1], rel=1e-4)
    assert sum(values[f"falls/{c}", "imagined", 10]["value"] for c in ("foreseen", "head", "state", "rest")) <= 1
    # Their first falls come in too little time for more.
    assert summary["verdict"].startswith("10 steps ahead") and "50 steps ahead" in " ".join(summary["not_computed"])
    assert any("friction" in text for text in summary["not_computed"])
    assert (run.path / "falls.png").stat().st_size > 10_000


def test_too_few_falls_and_what_is_no_policy_are_refused(home, own_model, short, constant):
    with pytest.raises(RwmError, match="Only 0 falls in 4 episodes") as caught:
        evaluate_falls(home, own_model.checkpoint, FallsConfig(policy=constant(short, 0.0), robots=2, rounds=1))
    assert "--robots 2" in caught.value.hint
    with pytest.raises(RwmError, match="'scripted' is not one trained policy"):
        evaluate_falls(home, own_model.checkpoint, FallsConfig(policy="scripted", robots=2, rounds=1))
    assert [r.meta.status for r in home.runs("eval")] == ["failed"] * 2


def test_a_policys_own_model_is_asked_unless_another_is_named(home, model, short, constant, rwm, monkeypatch):
    own, newer = (Run.create(home, "model", {}, {"dataset": "set"}, 0) for _ in range(2))
    policy = Run.create(home, "policy", {}, {"model": own.id}, 0)
    for run in (own, newer):
        save_model(model, run.model_file)
    shutil.move(constant(short, 0.0), policy.policy_file)
    for run in (own, newer, policy):
        run.finish({})
    asked = []

    def stop(home, checkpoint, config, progress):
        asked.append(checkpoint.id)
        raise RwmError("Enough.")

    monkeypatch.setattr("reports.evaluate.falls.evaluate_falls", stop)
    for words in ([], ["--policy", policy.id], ["--model", newer.id], ["--policy", "medium"]):
        with pytest.raises(RwmError, match="Enough"):
            rwm("eval", "falls", *words)
    assert asked == [own.id, own.id, newer.id, newer.id]
