"""ROS bags in: fields by topic, joints by name, streams on one clock, both versions of ROS; every fault named."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.formats import rosbag_reader as rosbag
from rwmdata.formats.convert import convert
from rwmdata.formats.infer import infer_mapping
from rwmdata.formats.rosbag_align import align, without_sign_changes

rosbags = pytest.importorskip("rosbags")
from rosbags.rosbag1 import Writer as Writer1  # noqa: E402
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin  # noqa: E402
from rosbags.rosbag2 import Writer as Writer2  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

T = 60
BEGIN_NS = 1_700_000_000_000_000_000
STEP_NS = 20_000_000
KINDS = {"a.bag": None, "sqlite": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}
MAPPING = {
    "groups": {
        "base_lin_vel": "/odom.twist.twist.linear",
        "base_ang_vel": "/imu.angular_velocity.{}",
        "projected_gravity": {"columns": "/imu.orientation", "kind": "quaternion"},
        "joint_pos": "/joint_states.position[{}]",
        "joint_vel": "/joint_states.velocity[{}]",
        "joint_torque": "/joint_states.effort[{}]",
        "action": "/command.data[{}]",
    },
    "missing": ["thigh_contact", "foot_contact", "termination"],
    "action_index": "previous",
}


class Bag:
    """Writes messages of both versions of ROS; headers are stamped as told, reception is 5 ms later."""

    def __init__(self, path, ros1, more_types=""):
        self.store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
        if more_types:
            self.store.register(get_types_from_msg(more_types, "lab/msg/Legs"))
        kind = KINDS["a.bag" if ros1 else path.name.split("-")[0]]
        self.ros1, self.path, self.topics = ros1, path, {}
        self.writer = Writer1(path) if ros1 else Writer2(path, version=9, storage_plugin=kind)

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def make(self, kind, **fields):
        return self.store.types[kind](**fields)

    clock_ns = 0

    def header(self, ns, frame="base"):
        ns += self.clock_ns
        stamp = self.make("builtin_interfaces/msg/Time", sec=int(ns // 10**9), nanosec=int(ns % 10**9))
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame, **({"seq": 0} if self.ros1 else {}))

    def vector(self, values):
        return self.make("geometry_msgs/msg/Vector3", **dict(zip("xyz", map(float, values), strict=True)))

    def write(self, topic, kind, ns, delay_ns=5_000_000, **fields):
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        message = self.make(kind, **fields)
        data = self.store.serialize_ros1(message, kind) if self.ros1 else self.store.serialize_cdr(message, kind)
        self.writer.write(self.topics[topic], int(ns + delay_ns), data)

    def joints(self, ns, names, q, dq, tau, topic="/joint_states", **more):
        arrays = {"position": np.array(q), "velocity": np.array(dq), "effort": np.array(tau)}
        self.write(topic, "sensor_msgs/msg/JointState", ns, header=self.header(ns), name=names, **arrays, **more)

    def imu(self, ns, gyro, quaternion, topic="/imu"):
        q = self.make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", map(float, quaternion), strict=True)))
        none = {f"{n}_covariance": np.zeros(9) for n in ("orientation", "angular_velocity", "linear_acceleration")}
        parts = {"angular_velocity": self.vector(gyro), "linear_acceleration": self.vector([0, 0, 9.81])}
        self.write(topic, "sensor_msgs/msg/Imu", ns, header=self.header(ns, "imu"), orientation=q, **parts, **none)

    def odometry(self, ns, velocity, child="base"):
        make, vector = self.make, self.vector
        q = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
        point = make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
        pose = make("geometry_msgs/msg/Pose", position=point, orientation=q)
        twist = make("geometry_msgs/msg/Twist", linear=vector(velocity), angular=vector([0, 0, 0]))
        pose = make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36))
        twist = make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36))
        header, kind = self.header(ns, "odom"), "nav_msgs/msg/Odometry"
        self.write("/odom", kind, ns, header=header, child_frame_id=child, pose=pose, twist=twist)

    def command(self, ns, values, delay_ns=0):
        layout = self.make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
        self.write("/command", "std_msgs/msg/Float64MultiArray", ns, delay_ns, layout=layout, data=np.array(values))


@pytest.fixture
def truth(robot):
    """Columns of a recording, exactly representable; the base is rolled by 90 degrees."""
    rng = np.random.default_rng(0)
    sizes = {"v": 3, "gyro": 3, "q": 12, "dq": 12, "tau": 12, "a": 12}
    return {name: rng.integers(-64, 64, size=(T, n)) / 64.0 for name, n in sizes.items()}


ROLLED = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]


def write_bag(path, robot, truth, late_ns=None, child="base", rows=T, clock_ns=0, compressed=False):
    """Write a bag in which joints come in reverse order; ``late_ns`` gives each topic's delay, ``(T,)``."""
    late = {topic: np.zeros(T, int) for topic in ("joints", "imu", "odom", "command")} | (late_ns or {})
    names = robot.joints[::-1]
    path.parent.mkdir(exist_ok=True)
    bag = Bag(path, path.suffix == ".bag")
    bag.clock_ns = clock_ns
    if compressed:
        how = [Writer1.CompressionFormat.LZ4] if bag.ros1 else [CompressionMode.MESSAGE, CompressionFormat.ZSTD]
        bag.writer.set_compression(*how)
    with bag:
        for k in range(rows):
            at = {topic: BEGIN_NS + k * STEP_NS + int(ns[k]) for topic, ns in late.items()}
            bag.joints(at["joints"], names, *(truth[n][k][::-1] for n in ("q", "dq", "tau")))
            bag.imu(at["imu"], truth["gyro"][k], ROLLED)
            bag.odometry(at["odom"], truth["v"][k], child)
            bag.command(at["command"], truth["a"][k])
    return path


def mapping_file(tmp_path, robot, **changes):
    mapping = MAPPING | changes
    groups = MAPPING["groups"] | {"action": [f"/command.data[{k}]" for k in range(12)]}
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(mapping | {"groups": groups | changes.get("groups", {}), "check": False}))
    return path


def parts(dataset, schema):
    rows = dataset.matrix()
    return {group: rows[:, schema.group(group)] for group in schema.groups}


@pytest.mark.parametrize("kind", KINDS)
def test_streams_that_coincide_are_read_exactly_with_joints_by_name(home, robot, schema, truth, tmp_path, kind):
    bag = write_bag(tmp_path / kind, robot, truth)
    dataset = convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot))
    got = parts(dataset, schema)
    assert len(got["joint_pos"]) == T
    wanted = {"base_lin_vel": "v", "base_ang_vel": "gyro", "joint_pos": "q", "joint_vel": "dq", "joint_torque": "tau"}
    for group, name in wanted.items():
        np.testing.assert_array_equal(got[group], truth[name].astype(np.float32), err_msg=group)
    np.testing.assert_array_equal(got["action"], truth["a"].astype(np.float32))
    np.testing.assert_allclose(got["projected_gravity"], [[0, -1, 0]] * T, atol=1e-6)


def notes(dataset):
    return " ".join(dataset.manifest.provenance["notes"])


def test_a_mapping_proposed_from_the_types_of_topics_converts_once_the_commands_are_listed(
    home, robot, schema, truth, tmp_path
):
    bag = write_bag(tmp_path / "mcap", robot, truth, {"command": np.full(T, 4_000_000)})
    text = infer_mapping(bag)
    proposed = yaml.safe_load(text)
    assert proposed["groups"]["joint_pos"] == {"columns": "/joint_states.position[{}]"}
    assert proposed["groups"]["projected_gravity"] == {
        "columns": "/imu.orientation", "kind": "quaternion", "order": "xyzw"}  # fmt: skip
    assert proposed["groups"]["base_lin_vel"] == {"columns": "/odom.twist.twist.linear", "frame": "base"}
    assert proposed["groups"]["action"]["columns"] == "ASK"
    assert "List /command.data[0] to /command.data[11] in the order LF_HAA" in text
    assert (proposed["rows"], proposed["action_index"]) == ("/joint_states", "previous")
    mapping = tmp_path / "proposed.yaml"
    mapping.write_text(text)
    with pytest.raises(RwmError, match="'ASK' is no field of a topic"):
        convert(home, [bag], "b", mapping=mapping)
    mapping.write_text(text.replace("columns: ASK", f"columns: {[f'/command.data[{k}]' for k in range(12)]}"))
    dataset = convert(home, [bag], "b", mapping=mapping)
    np.testing.assert_array_equal(parts(dataset, schema)["base_lin_vel"], truth["v"][1:].astype(np.float32))


def test_the_latest_value_is_taken_and_none_from_the_future(home, robot, schema, truth, tmp_path):
    late = {"imu": np.full(T, 1_000_000), "odom": np.full(T, 9_000_000), "command": np.full(T, 9_000_000)}
    bag = write_bag(tmp_path / "a.bag", robot, truth, late)
    dataset = convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot))
    got = parts(dataset, schema)
    np.testing.assert_array_equal(got["joint_pos"], truth["q"][1:].astype(np.float32))
    np.testing.assert_array_equal(got["base_ang_vel"], truth["gyro"][1:].astype(np.float32))  # 1 ms is the same moment
    np.testing.assert_array_equal(got["base_lin_vel"], truth["v"][:-1].astype(np.float32))
    np.testing.assert_array_equal(got["action"], truth["a"][:-1].astype(np.float32))
    said = notes(dataset)
    assert "/odom (held; the latest is 11 ms old, 11 at most)" in said
    assert "/command has no header stamps; the recorder's were taken" in said
    assert "1 messages of /joint_states were left out" in said
    assert "twist in the child frame 'base'; taken to be in the base frame" in said


def test_measurements_are_interpolated_on_request_and_actions_never(home, robot, schema, truth, tmp_path):
    bag = write_bag(tmp_path / "a.bag", robot, truth, {t: np.full(T, 5_000_000) for t in ("odom", "command")})
    got = parts(convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot, align="linear")), schema)
    np.testing.assert_allclose(got["base_lin_vel"], 0.25 * truth["v"][:-1] + 0.75 * truth["v"][1:], atol=1e-6)
    np.testing.assert_array_equal(got["action"], truth["a"][:-1].astype(np.float32))


def test_jittered_streams_keep_every_row_within_the_jitter(home, robot, schema, truth, tmp_path):
    rng = np.random.default_rng(1)
    truth["v"] = np.repeat(np.arange(T)[:, None] / 8, 3, axis=1)
    jitter = {topic: rng.integers(-900_000, 900_000, T) for topic in ("joints", "imu", "odom", "command")}
    bag = write_bag(tmp_path / "sqlite", robot, truth, jitter)
    got = parts(convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot)), schema)
    assert len(got["joint_pos"]) == T
    np.testing.assert_array_equal(got["joint_pos"], truth["q"].astype(np.float32))
    np.testing.assert_array_equal(got["base_lin_vel"], truth["v"].astype(np.float32))


def test_a_topic_that_falls_silent_ends_an_episode(home, robot, schema, truth, tmp_path):
    late = np.where(np.arange(T) < 30, 0, 400_000_000)
    bag = write_bag(tmp_path / "a.bag", robot, truth, {"odom": late})
    dataset = convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot))
    assert dataset.episodes.length.tolist() == [30, 10]
    np.testing.assert_array_equal(parts(dataset, schema)["base_lin_vel"][30:], truth["v"][30:40].astype(np.float32))


def test_the_recorders_clock_by_option(home, robot, truth, tmp_path):
    bag = write_bag(tmp_path / "a.bag", robot, truth, clock_ns=-(10**18))
    with pytest.raises(RwmError, match="/command has no header stamps, and those of /imu are 1e.09 s behind"):
        convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot))
    late = {"command": np.full(T, 5_000_000)}
    bag = write_bag(tmp_path / "c.bag", robot, truth, late, clock_ns=-(10**18))
    dataset = convert(home, [bag], "c", mapping=mapping_file(tmp_path, robot, stamps="received"))
    assert dataset.rows == T
    assert "stamps are those of the recorder" in notes(dataset)


def test_a_twist_in_the_frame_of_its_pose_is_asked_about(home, robot, truth, tmp_path):
    bag = write_bag(tmp_path / "a.bag", robot, truth, child="odom")
    with pytest.raises(RwmError, match="gives its twist in 'odom', the frame of its pose"):
        convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot))


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        (
            {"base_lin_vel": "/vel.linear"},
            r"has no topic /vel; it has /command \(std_msgs/msg/Float64MultiArray\)",
        ),
        ({"joint_vel": "/joint_states.speed[{}]"}, "message 1 of /joint_states has no field 'speed'; fields there are"),
        (
            {"joint_vel": "/joint_states.velocity[{}_joint]"},
            "message 1 of /joint_states does not name LF_HAA_joint, .*; it names RH_KFE",
        ),
        (
            {
                "joint_pos": "/joint_states.position[{}_a]",
                "joint_vel": "/joint_states.velocity[{}_a]",
                "joint_torque": {"kind": "drive"},
            },
            "none of the 3 messages .*_states.position.LF_HAA_a.*; the last names RH_",
        ),
        ({"joint_vel": [f"/command.data[{k}]" for k in range(4, 16)]}, "has 12 values, 15 is not among them"),
        ({"joint_vel": ["/joint_states"] * 12}, "'/joint_states' is no field of a topic"),
        ({"joint_vel": ["/imu.angular_velocity"] * 12}, "'angular_velocity' has the fields x, y, z"),
    ],
)
def test_what_is_not_in_the_bag_is_said(home, robot, truth, tmp_path, groups, fault):
    bag = write_bag(tmp_path / "a.bag", robot, truth, rows=3)
    with pytest.raises(RwmError, match=fault):
        convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot, groups=groups))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_that_is_cut_off_is_refused_with_the_tool_that_repairs_it(home, robot, truth, tmp_path, kind):
    bag = write_bag(tmp_path / kind, robot, truth)
    file = bag if bag.is_file() else next(bag.glob("*.mcap"), None) or next(bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RwmError, match="cannot be read as a bag|is damaged after") as caught:
        convert(home, [bag], "b", mapping=mapping_file(tmp_path, robot))
    assert any(tool in str(caught.value.hint) for tool in ("reindex", "recover"))


def test_compressed_bags_and_the_storage_file_alone_are_read(home, robot, schema, truth, tmp_path):
    for kind in ("a.bag", "sqlite", "mcap"):
        bag = write_bag(tmp_path / "small" / kind, robot, truth, compressed=True)
        got = parts(convert(home, [bag], kind[0], mapping=mapping_file(tmp_path, robot)), schema)
        np.testing.assert_array_equal(got["joint_pos"], truth["q"].astype(np.float32))
    whole = write_bag(tmp_path / "mcap", robot, truth)
    (file,) = whole.glob("*.mcap")
    dataset = convert(home, [file], "b", mapping=mapping_file(tmp_path, robot))
    np.testing.assert_array_equal(parts(dataset, schema)["joint_pos"], truth["q"].astype(np.float32))


def test_messages_of_its_own_types_and_of_other_joints(home, robot, schema, truth, tmp_path):
    types = "float32[4] force\nbool[4] contact"
    with Bag(tmp_path / "a.bag", True, types) as bag:
        for k in range(T):
            ns = BEGIN_NS + k * STEP_NS
            bag.joints(ns, robot.joints, *(truth[n][k] for n in ("q", "dq", "tau")))
            bag.joints(ns, ["arm"], [9.0], [9.0], [9.0])
            contact = {"force": np.zeros(4, np.float32), "contact": np.arange(4) < k % 5}
            bag.write("/legs", "lab/msg/Legs", ns, **contact)
    groups = {g: s for g, s in MAPPING["groups"].items() if g.startswith("joint")}
    spec = {"groups": groups | {"foot_contact": [f"/legs.contact[{k}]" for k in range(4)]}}
    spec["missing"] = ["base_lin_vel", "base_ang_vel", "projected_gravity", "action", "thigh_contact", "termination"]
    spec["stamps"] = "received"
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(spec))
    got = parts(convert(home, [tmp_path / "a.bag"], "b", mapping=tmp_path / "m.yaml"), schema)
    np.testing.assert_array_equal(got["joint_pos"], truth["q"].astype(np.float32))
    np.testing.assert_array_equal(got["foot_contact"], [np.arange(4) < k % 5 for k in range(T)])


def test_definitions_that_a_bag_lacks_come_from_a_folder(home, robot, schema, truth, tmp_path):
    with Bag(tmp_path / "sqlite", False, "float64[12] q") as bag:
        for k in range(T):
            bag.write("/legs", "lab/msg/Legs", BEGIN_NS + k * STEP_NS, q=truth["q"][k])
    import sqlite3

    with sqlite3.connect(tmp_path / "sqlite" / "sqlite.db3") as database:
        database.execute("DELETE FROM message_definitions")
    groups = ["base_lin_vel", "base_ang_vel", "projected_gravity", "joint_vel", "joint_torque", "action"]
    spec = {"missing": [*groups, "thigh_contact", "foot_contact", "termination"]}
    spec["groups"] = {"joint_pos": [f"/legs.q[{k}]" for k in range(12)]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(RwmError, match="/legs is of lab/msg/Legs, whose definition is not in the bag"):
        convert(home, [tmp_path / "sqlite"], "b", mapping=tmp_path / "m.yaml")
    (tmp_path / "types" / "lab" / "msg").mkdir(parents=True)
    (tmp_path / "types" / "lab" / "msg" / "Legs.msg").write_text("float64[12] q\n")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(spec | {"messages": "types"}))
    got = parts(convert(home, [tmp_path / "sqlite"], "b", mapping=tmp_path / "m.yaml"), schema)
    np.testing.assert_array_equal(got["joint_pos"], truth["q"].astype(np.float32))


def test_several_topics_of_a_type_are_named_in_the_proposal(robot, truth, tmp_path):
    with Bag(tmp_path / "a.bag", True) as bag:
        for k in range(T):
            bag.joints(BEGIN_NS + k * STEP_NS, robot.joints, *(truth[n][k] for n in ("q", "dq", "tau")))
            for topic in ("/imu_base", "/imu_head"):
                bag.imu(BEGIN_NS + k * STEP_NS, truth["gyro"][k], ROLLED, topic)
    text = infer_mapping(tmp_path / "a.bag")
    assert "also of sensor_msgs/msg/Imu: /imu_head" in text
    assert yaml.safe_load(text)["groups"]["base_ang_vel"] == {"columns": "/imu_base.angular_velocity"}


ONLY_JOINTS = {
    "groups": {"joint_pos": "/joint_states.position[{}]", "action": [f"/command.data[{k}]" for k in range(12)]},
    "missing": ["base_lin_vel", "base_ang_vel", "projected_gravity", "joint_vel", "joint_torque",
                "thigh_contact", "foot_contact", "termination"],
    "action_index": "previous",
}  # fmt: skip


def write_long_bag(path, robot, rows, silent=()):
    """Write a bag at 50 Hz in which row k has positions k / 64 and the action k; no commands in ``silent`` rows."""
    path.parent.mkdir(exist_ok=True)
    bag = Bag(path, path.suffix == ".bag")
    with bag:
        if bag.ros1:
            bag.writer.chunk_threshold = 20_000
        for k in range(rows):
            ns = BEGIN_NS + k * STEP_NS
            if k not in silent:
                bag.command(ns, [float(k)] * 12, delay_ns=-7_000_000)
            bag.joints(ns, robot.joints, [k / 64] * 12, [0.0] * 12, [0.0] * 12)
    (path.parent / "joints.yaml").write_text(yaml.safe_dump(ONLY_JOINTS))
    return path, path.parent / "joints.yaml"


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_bag_is_read_in_pieces_of_which_each_is_an_episode(home, robot, schema, tmp_path, monkeypatch, kind):
    silent = range(200, 215)
    bag, mapping = write_long_bag(tmp_path / kind, robot, 600, silent)
    whole = convert(home, [bag], "whole", mapping=mapping)
    held = []

    def watched(*args):
        for streams, is_last in rosbag.read_pieces(*args):
            held.append(max(stream.count for stream in streams.values()))
            yield streams, is_last

    monkeypatch.setattr("rwmdata.formats.rosbag.PIECE_BYTES", 100 * 24 * 8)
    monkeypatch.setattr("rwmdata.formats.rosbag.read_pieces", watched)
    dataset = convert(home, [bag], "pieces", mapping=mapping)
    np.testing.assert_array_equal(dataset.matrix(), whole.matrix())
    used = [k for k in range(600) if not 199 <= k <= 214]  # Row 199 lies between two commands too far apart.
    np.testing.assert_array_equal(parts(dataset, schema)["joint_pos"][:, 0], np.array(used, np.float32) / 64)
    np.testing.assert_array_equal(parts(dataset, schema)["action"][:, 0], np.array(used, np.float32))
    assert len(held) >= 5 and max(held) < 250
    assert whole.episodes.length.tolist() == [199, 385]
    assert len(dataset.episodes.length) in (len(held), len(held) + 1)  # The silence may lie at the end of a piece.
    assert f"it was read in {len(held)} pieces, and an episode ends with each" in notes(dataset)
    (said,) = (note for note in whole.manifest.provenance["notes"] if "were left out" in note)
    assert said in dataset.manifest.provenance["notes"]


def test_the_memory_that_a_bag_of_ros_1_takes_does_not_grow_with_it(robot, tmp_path):
    peaks = []
    for rows in (10, 200, 1600):  # The first one loads modules.
        bag, _ = write_long_bag(tmp_path / f"{rows}.bag", robot, rows)
        tracemalloc.start()
        for streams, _ in rosbag.read_pieces(bag, ["/command.data[0]"], None, 400):
            for stream in streams.values():
                stream.drop(stream.count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def test_values_of_a_stream_at_given_moments():
    stamps, values = np.array([0, 10, 30]) * 1_000_000, np.array([[0.0], [10.0], [30.0]])
    moments = np.array([-1, 0, 9, 10, 20, 31]) * 1_000_000
    hold = np.array([False])
    held = align(moments, stamps, values, hold, 0.0, 0.05)
    assert held.usable.tolist() == [False, True, True, True, True, True]
    assert held.values[1:, 0].tolist() == [0, 0, 10, 10, 30]
    between = align(moments, stamps, values, np.array([True]), 0.0, 0.05)
    assert between.values[1:, 0].tolist() == [0, 9, 10, 20, 30]
    assert align(moments, stamps, values, np.array([False]), 0.0, 0.015).usable.tolist() == [
        False,
        *[True] * 3,
        False,
        True,
    ]
    signs = without_sign_changes(np.array([[1.0, 0, 0, 0], [-0.9, 0, 0.1, 0], [0.8, 0, 0, 0]]))
    assert signs[:, 0].tolist() == [1.0, 0.9, 0.8]
