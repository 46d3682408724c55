"""Any robot's log in: the mapping's units, signs, orders and conventions, at other rates, with every fault named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats.convert import convert
from rwmdata.formats.infer import infer_mapping
from rwmdata.formats.logs import read_log
from rwmdata.formats.mapping import Assembler, Mapping
from rwmdata.robots import load_robot
from rwmdata.schema import Schema

T = 40


@pytest.fixture
def log(robot):
    """Columns of a log at 50 Hz: absolute joint positions in degrees, targets for actions, no torque, no contact."""
    rng = np.random.default_rng(0)
    columns = {"t": np.arange(T) * 0.02, "run": np.repeat([7, 8], T // 2), "note": ["x"] * T}
    columns |= {f"v{a}": rng.normal(size=T) for a in "xyz"}
    columns |= {f"gyro_{a}": rng.normal(size=T) for a in "xyz"}
    columns |= {f"grav_{a}": np.full(T, -9.81 if a == "z" else 0.0) for a in "xyz"}
    columns |= {f"q_{j}": rng.normal(size=T) * 30 for j in robot.joints}
    columns |= {f"dq_{j}": rng.normal(size=T) for j in robot.joints}
    columns |= {f"target_{j}": rng.normal(size=T) for j in robot.joints}
    return columns


SPEC = {
    "groups": {
        "base_lin_vel": ["vx", "vy", "vz"],
        "base_ang_vel": {"columns": "gyro_{}", "scale": [1, -1, -1]},
        "projected_gravity": "grav_{}",
        "joint_pos": {"columns": "q_{}", "scale": float(np.pi / 180), "subtract_default": True},
        "joint_vel": "dq_{}",
        "action": {"columns": "target_{}", "kind": "target_position"},
        "joint_torque": {"kind": "drive"},
    },
    "missing": ["thigh_contact", "foot_contact", "termination"],
    "time": "t",
    "episode": "run",
}


def spec_file(path, **changes):
    path.write_text(yaml.safe_dump(SPEC | changes))
    return path


def as_file(path, columns):
    frame = pl.DataFrame(columns)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_units_signs_defaults_targets_and_drives(home, robot, schema, log, tmp_path, suffix):
    file = as_file(tmp_path / f"a{suffix}", log)
    dataset = convert(home, [file], "a", mapping=spec_file(tmp_path / "m.yaml"))
    rows = dataset.matrix()
    default = np.array(robot.default_joint_pos)
    assert dataset.episodes.length.tolist() == [20, 20]
    np.testing.assert_allclose(rows[:, 0], log["vx"], rtol=1e-6)
    np.testing.assert_allclose(rows[:, 4], -log["gyro_y"], rtol=1e-6)
    assert rows[:, schema.group("projected_gravity")].tolist() == [[0, 0, -1]] * T
    position = np.radians(np.stack([log[f"q_{j}"] for j in robot.joints], axis=1)) - default
    np.testing.assert_allclose(rows[:, schema.group("joint_pos")], position, atol=1e-6)
    action = (np.stack([log[f"target_{j}"] for j in robot.joints], axis=1) - default) / 0.5
    assert not rows[[0, 20], schema.action].any()
    np.testing.assert_allclose(rows[1:20, schema.action], action[:19], atol=1e-5)
    torque = 80 * (0.5 * action[4] - position[5]) - 2 * np.array([log[f"dq_{j}"][5] for j in robot.joints])
    np.testing.assert_allclose(rows[5, schema.group("joint_torque")], torque.clip(-80, 80), atol=1e-3)
    assert f"a{suffix}: not read: note" in dataset.manifest.provenance["notes"]


def test_additional_quantities_become_extension_columns(home, log, tmp_path):
    log["height_m"], log["slope"] = np.full(T, 0.5), np.full(T, 2.0)
    file = as_file(tmp_path / "a.csv", log)
    mapping = spec_file(tmp_path / "m.yaml", extension=["height", "slope"])
    said = yaml.safe_load(mapping.read_text())
    said["groups"]["extension"] = {"columns": ["height_m", "slope"], "scale": [100.0, 1.0]}
    mapping.write_text(yaml.safe_dump(said))
    dataset = convert(home, [file], "a", mapping=mapping)
    assert dataset.rows == T and dataset.manifest.extension == ["height", "slope"]
    assert dataset.matrix()[:, dataset.schema.extension].tolist() == [[50.0, 2.0]] * T


def test_a_pause_and_a_step_back_in_time_begin_episodes(home, log, tmp_path):
    log["t"] = np.concatenate((log["t"][:10], 5 + log["t"][10:25], log["t"][25:]))
    file = as_file(tmp_path / "a.csv", log)
    dataset = convert(home, [file], "a", mapping=spec_file(tmp_path / "m.yaml", episode=None))
    assert dataset.episodes.length.tolist() == [10, 15, 15]


@pytest.mark.parametrize(("rate", "rows"), [(200.0, 10), (100.0, 20), (50.0, 40), (40.0, 49), (120.0, 17)])
def test_other_rates_are_brought_to_the_robots(home, log, tmp_path, rate, rows):
    log["t"] = log["vx"] = np.arange(T) / rate  # a ramp: metres a second a second
    file = as_file(tmp_path / "a.csv", log)
    mapping = spec_file(tmp_path / "m.yaml", episode=None, time=None, rate_hz=rate)
    ramp = convert(home, [file], "a", mapping=mapping).matrix()[:, 0]
    assert len(ramp) == rows
    np.testing.assert_allclose(ramp, np.arange(rows) * 0.02, atol=1e-6)


def test_a_rate_that_the_stamps_contradict_is_refused(home, log, tmp_path):
    file = as_file(tmp_path / "a.csv", log)
    for time in ("t", None):
        mapping = spec_file(tmp_path / "m.yaml", episode=None, time=time, rate_hz=200)
        with pytest.raises(RwmError, match="a.csv: rate_hz is 200, but the stamps in 't' come at 50 Hz") as caught:
            convert(home, [file], "a", mapping=mapping)
        assert "check: false" in caught.value.hint
    mapping = spec_file(tmp_path / "m.yaml", episode=None, time=None, rate_hz=200, check=False)
    assert convert(home, [file], "unchecked", mapping=mapping).rows == 10
    mapping = spec_file(tmp_path / "m.yaml", episode=None, time=None, rate_hz=200)
    for name, stamps in {"counter": np.arange(T), "still": np.zeros(T), "right": 7 + np.arange(T) / 200}.items():
        file = as_file(tmp_path / f"{name}.csv", log | {"t": stamps})
        assert convert(home, [file], name, mapping=mapping).rows == 10


def test_forces_become_contacts_and_orders_are_followed(home, robot, schema, log, tmp_path):
    legs = ["RH", "RF", "LH", "LF"]
    for k in range(4):
        log[f"force{k}"] = np.where(np.arange(T) % 4 == k, 20.0, 0.5)
    groups = SPEC["groups"] | {
        "foot_contact": {"columns": [f"force{k}" for k in range(4)], "kind": "threshold"},
    }  # fmt: skip
    mapping = spec_file(tmp_path / "m.yaml", groups=groups, missing=["thigh_contact", "termination"], legs=legs)
    rows = convert(home, [as_file(tmp_path / "a.csv", log)], "a", mapping=mapping).matrix()
    feet = rows[:4, schema.group("foot_contact")]
    assert feet.tolist() == [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


def test_faults_name_file_row_and_column_and_leave_nothing(home, log, tmp_path):
    def converted(columns, **changes):
        return convert(
            home, [as_file(tmp_path / "a.csv", columns)], "a", mapping=spec_file(tmp_path / "m.yaml", **changes)
        )

    bad = [str(v) for v in log["vy"]]
    bad[3] = "broken"
    cases = [
        (log | {"vy": bad}, {}, r"a.csv, row 4, column 'vy': 'broken' is not a finite number"),
        (
            {k: v for k, v in log.items() if k != "vz"},
            {},
            r"has no column vz \(base_lin_vel\); its 47 columns: t, run",
        ),
        (log | {"vy": [None, *log["vy"][1:]]}, {}, r"a.csv, row 1, column 'vy': is empty, expected a number"),
        (
            {k: v for k, v in log.items() if k != "t"},
            {"time": None, "rate_hz": 5.0},
            "a row every 0.2 s is too coarse for a control step of 0.02 s",
        ),
        (
            log,
            {"groups": SPEC["groups"] | {"joint_vel": ["vx"]}},
            r"'joint_vel' has shape \(20, 1\), expected \(20, 12",
        ),
        (log, {"groups": SPEC["groups"] | {"joint_vel": {"path": "x"}}}, "names no columns for 'joint_vel'"),
    ]
    for columns, changes, message in cases:
        with pytest.raises(RwmError, match=message):
            converted(columns, **changes)
    with pytest.raises(RwmError, match="There is no file"):
        convert(home, [tmp_path / "none.csv"], "a", mapping=spec_file(tmp_path / "m.yaml"))
    assert home.datasets() == [] and list(home.data_dir.iterdir()) == []


def test_a_proposed_mapping_finds_the_columns_and_can_be_used(home, robot, log, tmp_path):
    file = as_file(tmp_path / "a.csv", log)
    text = infer_mapping(file, robot.name)
    found = yaml.safe_load(text)
    assert found["groups"]["base_lin_vel"] == ["vx", "vy", "vz"]
    assert found["groups"]["projected_gravity"] == ["grav_x", "grav_y", "grav_z"]
    assert found["groups"]["joint_vel"] == [f"dq_{j}" for j in robot.joints]
    assert found["groups"]["action"] == [f"target_{j}" for j in robot.joints]
    assert found["missing"] == ["joint_torque", "thigh_contact", "foot_contact", "termination"]
    assert found["time"] == "t" and "# not used: run, note" in text
    (tmp_path / "m.yaml").write_text(text)
    assert convert(home, [file], "a", mapping=tmp_path / "m.yaml").rows == T


def test_a_log_that_falls_into_shreds_is_refused_unless_told(home, log, tmp_path):
    log["run"] = np.arange(T) // 4
    file = as_file(tmp_path / "a.csv", log)
    with pytest.raises(RwmError, match=r"falls into 10 episodes, 10 of them shorter than 1 s \('run' changes\)"):
        convert(home, [file], "a", mapping=spec_file(tmp_path / "m.yaml"))
    dataset = convert(home, [file], "a", mapping=spec_file(tmp_path / "m.yaml", short_episodes=True))
    assert dataset.episodes.length.tolist() == [4] * 10


def test_a_folder_of_logs_with_bursts_is_an_episode_a_file(home, log, tmp_path):
    (tmp_path / "logs").mkdir()
    log["t"] = np.repeat(1_765_180_800_000 + 40 * np.arange(T // 2), 2)  # ms since 1970, two rows at once
    for k in range(2):
        as_file(tmp_path / "logs" / f"run [{k}].parquet", log | {"vx": log["vx"] + k})
    mapping = spec_file(tmp_path / "m.yaml", episode=None)
    dataset = convert(home, [tmp_path / "logs"], "a", mapping=mapping)
    assert dataset.episodes.length.tolist() == [T, T]
    np.testing.assert_allclose(dataset.matrix()[:T, 0], log["vx"], rtol=1e-6)
    notes = dataset.manifest.provenance["notes"]
    assert any(note.startswith("run [0].parquet and 1 more: the time 't' was read as milliseconds") for note in notes)


def test_rows_recorded_twice_are_left_out(home, log, tmp_path):
    order = np.sort(np.concatenate((np.arange(T), [5, 12, 12, 30])))
    file = as_file(tmp_path / "a.csv", {name: np.asarray(values)[order] for name, values in log.items()})
    dataset = convert(home, [file], "a", mapping=spec_file(tmp_path / "m.yaml"))
    np.testing.assert_allclose(dataset.matrix()[:, 0], log["vx"], rtol=1e-6)
    assert "a.csv: 4 rows are the row before once more and were left out" in dataset.manifest.provenance["notes"]


def test_an_episode_ends_with_a_fall_and_goes_on_once_the_robot_stands(home, log, tmp_path):
    log["fall"] = ((np.arange(T) >= 10) & (np.arange(T) < 15)).astype(int)
    groups = SPEC["groups"] | {"termination": ["fall"]}
    mapping = spec_file(tmp_path / "m.yaml", groups=groups, missing=["thigh_contact", "foot_contact"], episode=None)
    dataset = convert(home, [as_file(tmp_path / "a.csv", log)], "a", mapping=mapping)
    assert dataset.episodes.length.tolist() == [11, 25] and dataset.episodes.terminated.tolist() == [True, False]
    np.testing.assert_allclose(dataset.matrix()[11:, 0], log["vx"][15:], rtol=1e-6)
    assert "a.csv: 4 rows in which the robot had fallen already were left out" in dataset.manifest.provenance["notes"]


def test_missing_columns_are_counted_by_group_and_the_robot_that_the_log_names_is_proposed(tmp_path):
    joints = [f"{leg}_{joint}" for leg in ("FL", "FR", "RL", "RR") for joint in ("hip", "thigh", "calf")]
    file = as_file(
        tmp_path / "a.csv", {"t": [0.0, 0.02]} | {f"{p}_{j}": [0.0, 0.0] for p in ("q", "dq") for j in joints}
    )
    with pytest.raises(RwmError) as failure:
        read_log(file, ["q_LF_HAA", "q_LH_HAA", "q_RF_HAA", "q_RH_HAA", "dq_LF_HAA"], Mapping(
            groups={"joint_pos": "q_{}", "joint_vel": ["dq_LF_HAA"]}, time="stamp"))  # fmt: skip
    lacks = "joint_pos (4: q_LF_HAA, q_LH_HAA, q_RF_HAA, ...), joint_vel (1: dq_LF_HAA), time (1: stamp)"
    assert f"has no columns for {lacks}; its 25 columns: t, q_FL_hip," in failure.value.message
    assert failure.value.hint.startswith("--robot go1 or go2, whose joints the columns name")


def test_a_mapping_for_another_robot_is_told_which(robot):
    with pytest.raises(RwmError, match="the robot's are LF_HAA.* Try: --robot go1 or go2"):
        Assembler(robot, Schema.from_robot(robot, []), Mapping(
            groups={"joint_pos": "q_{}"}, joints=load_robot("go2").joints,
            missing=[g for g in Schema.from_robot(robot, []).groups if g != "joint_pos"]))  # fmt: skip


@pytest.fixture
def swinging(tmp_path, home):
    """Converts a robot whose joints swing and whose base rocks, columns times factors, and returns the dataset."""
    t = np.arange(200) * 0.02
    joints = load_robot("go2").joints
    phase = {joint: k for k, joint in enumerate(joints)}
    roll = 0.3 * np.sin(4 * t)
    columns = {f"q_{j}": 0.3 * np.sin(6 * t + phase[j]) for j in joints}
    columns |= {f"dq_{j}": 1.8 * np.cos(6 * t + phase[j]) for j in joints}
    columns |= {"w_x": 1.2 * np.cos(4 * t), "w_y": 0 * t, "w_z": 0 * t}
    columns |= {"g_x": 0 * t, "g_y": -np.sin(roll), "g_z": -np.cos(roll)} | {f"v_{axis}": 0.5 + 0 * t for axis in "xyz"}
    groups = {"joint_pos": "q_{}", "joint_vel": "dq_{}", "base_lin_vel": "v_{}"}
    groups |= {"base_ang_vel": "w_{}", "projected_gravity": "g_{}"}
    missing = ["joint_torque", "action", "thigh_contact", "foot_contact", "termination"]

    def converted(step_s=0.02, check=True, **factors):
        scaled = {name: values * factors.get(name.split("_")[0], 1.0) for name, values in columns.items()}
        file = as_file(tmp_path / "a.csv", {"t": np.arange(200) * step_s} | scaled)
        content = {"groups": groups, "missing": missing, "time": "t", "time_unit": "s", "check": check}
        (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
        return convert(home, [file], f"a{len(home.datasets())}", robot="go2", mapping=tmp_path / "m.yaml")

    return converted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_s": 0.01}, "joints move by their velocities as at 2[0-9]\\.?[0-9]* Hz"),
        ({"dq": 57.3}, "joints move by their velocities as at 2.*e[+]03 Hz"),
        ({"w": 57.3}, "gravity turns by the angular velocity as at 2.*e[+]03 Hz.* scale of base_ang_vel"),
        ({"q": 57.3, "dq": 57.3}, "'joint_pos' is beyond 1.* for half of the recording, which is not in rad"),
        ({"v": 1000.0}, "'base_lin_vel' is beyond 500 for half of the recording, which is not in m/s"),
    ],
)
def test_units_and_rates_that_the_motion_contradicts_are_refused_unless_told(swinging, changes, message):
    assert swinging().rows == 200
    with pytest.raises(RwmError, match=message):
        swinging(**changes)
    assert swinging(check=False, **changes).rows > 0
