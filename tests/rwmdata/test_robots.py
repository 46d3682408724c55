from __future__ import annotations

import pytest
import yaml

from rwmdata.errors import RwmError
from rwmdata.robots import JointDrive, load_robot


def write_robot(folder, **changes):
    shipped = load_robot("anymal_d")
    raw = yaml.safe_load((shipped.folder / "robot.yaml").read_text()) | {"name": folder.name} | changes
    folder.mkdir()
    (folder / "robot.yaml").write_text(yaml.safe_dump(raw))


def test_control_rate_is_50_hz(robot):
    assert robot.control_dt_s == pytest.approx(0.02)


def test_unknown_robot_lists_the_known_ones():
    with pytest.raises(RwmError, match="Unknown robot 'spot'; known robots: .*anymal_d"):
        load_robot("spot")


def test_a_robot_of_ones_own_is_found_by_folder_and_by_name(tmp_path, monkeypatch):
    write_robot(tmp_path / "mine", action_scale=0.3)
    assert load_robot(str(tmp_path / "mine")).action_scale == 0.3
    monkeypatch.setenv("RWM_ROBOTS", str(tmp_path))
    assert load_robot("mine").folder == tmp_path / "mine"


def test_a_robot_is_named_like_its_folder(tmp_path):
    write_robot(tmp_path / "mine", name="another")
    with pytest.raises(RwmError, match="has the name 'another', its folder 'mine'") as caught:
        load_robot(str(tmp_path / "mine"))
    assert caught.value.hint == "name: mine"


def test_every_fault_of_a_robot_file_is_named(tmp_path):
    write_robot(tmp_path / "odd", default_joint_pos=[0.0], thigh_bodies=["a"], legs=["L", "R"])
    with pytest.raises(RwmError) as caught:
        load_robot(str(tmp_path / "odd"))
    assert "default_joint_pos has 1 entries, expected 12" in caught.value.message
    assert "thigh_bodies has 1 entries, expected 2" in caught.value.message


def test_drives_may_differ_from_joint_to_joint(tmp_path):
    drive = {"stiffness": list(range(12)), "damping": 2, "effort_limit": 80, "saturation_effort": 120}
    write_robot(tmp_path / "mixed", drive=drive | {"velocity_limit": 7.5})
    drives = load_robot(str(tmp_path / "mixed")).drive.of_joints(12)
    assert [joint.stiffness for joint in drives] == list(range(12))
    assert drives[3] == JointDrive(3.0, 2.0, 80.0, 120.0, 7.5)
    write_robot(tmp_path / "short", drive=drive | {"velocity_limit": [7.5]})
    with pytest.raises(RwmError, match=r"drive.velocity_limit has 1 entries, expected 12"):
        load_robot(str(tmp_path / "short"))


def test_unknown_keys_are_refused(tmp_path):
    write_robot(tmp_path / "extra", colour="red")
    with pytest.raises(RwmError, match="colour"):
        load_robot(str(tmp_path / "extra"))
