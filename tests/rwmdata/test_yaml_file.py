"""YAML of other people: bombs and bytes that are no text are refused in a sentence, quickly."""

from __future__ import annotations

import pytest

from rwmdata.errors import RwmError
from rwmdata.formats.mapping import load_mapping
from rwmdata.robots import load_robot, robot_folders
from rwmdata.yaml_file import read_yaml

GOOD = (robot_folders()["go2"] / "robot.yaml").read_text()
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 5000, "nested more than 50 levels"),
        ("{a: " * 5000, "nested more than 50 levels"),
        (LAUGHS, "more than 20000 values"),
        ("- x\n" * 100_000, "larger than 256 KiB"),
        (b"name: \xff\xfe", "byte 6 is no UTF-8"),
        ("name: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (f"name: {'9' * 5000}", "Exceeds the limit"),
        ("name: 2024-13-45", "month must be in 1..12"),
        ("", "no mapping of names"),
        ("1: 2", "no mapping of names"),
    ],
)
def test_a_description_that_is_none_is_one_sentence(tmp_path, content, sentence):
    file = tmp_path / "robot.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read, path in ((load_robot, tmp_path), (load_mapping, file)):
        with pytest.raises(RwmError, match=sentence) as caught:
            read(str(path) if read is load_robot else path)
        assert str(file) in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("physics_dt_s: 0", "physics_dt_s: Input should be greater than 0"),
        ("decimation: -4", "decimation: Input should be greater than or equal to 1"),
        ("action_scale: .inf", "action_scale: Input should be a finite number"),
        ("base_height_m: .nan", "base_height_m: Input should be a finite number"),
    ],
)
def test_a_robot_of_impossible_numbers_is_refused(tmp_path, line, sentence):
    (tmp_path / "robot.yaml").write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(RwmError, match=sentence):
        load_robot(str(tmp_path))


def test_aliases_that_repeat_little_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &gains {kp: 1}\nb: {<<: *gains, kd: 2}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"kp": 1}, "b": {"kp": 1, "kd": 2}}
