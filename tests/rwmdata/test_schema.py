from __future__ import annotations

import numpy as np
import pytest

from rwmdata.robots import load_robot
from rwmdata.schema import Schema


def test_anymal_has_the_66_columns_in_csv_order(schema):
    assert schema.width == 66
    assert schema.dims == {"state": 45, "action": 12, "extension": 0, "contact": 8, "termination": 1}
    one_based = {name: i + 1 for i, name in enumerate(schema.csv_names)}
    expected = {
        "base_lin_vel_x": 1, "base_ang_vel_z": 6, "projected_gravity_z": 9, "joint_pos_LF_HAA": 10,
        "joint_vel_LF_HAA": 22, "joint_torque_RH_KFE": 45, "action_LF_HAA": 46, "thigh_contact_LF": 58,
        "foot_contact_RH": 65, "terminated": 66,
    }  # fmt: skip
    assert {k: one_based[k] for k in expected} == expected


def test_a_biped_with_twelve_joints_has_62_columns():
    schema = Schema.from_robot(load_robot("g1"))
    assert schema.width == 62 and schema.dims["contact"] == 4
    assert schema.names[schema.contact] == (
        "thigh_contact_left", "thigh_contact_right", "foot_contact_left", "foot_contact_right",
    )  # fmt: skip


def test_extension_columns_stand_between_action_and_contact(robot):
    schema = Schema.build(robot.joints, robot.legs, extension=["mass", "friction"])
    assert schema.width == 68
    assert schema.names[schema.extension] == ("extension_mass", "extension_friction")
    assert schema.contact == slice(59, 67)
    assert schema.termination == slice(67, 68)


def test_reference_normalizer_matches_the_published_constants(robot, schema):
    mean, std = schema.normalizer(robot.normalizer)
    assert mean[8] == -1.0
    np.testing.assert_array_equal(mean[33:45], [-2, -2, 2, 2, -6, 8, -6, 8, 12, -12, 12, -12])
    np.testing.assert_allclose(std[:9], [0.5, 0.5, 0.1, 0.3, 0.3, 0.5, 0.02, 0.02, 0.04], rtol=1e-6)
    np.testing.assert_allclose(std[9:21], 0.15)
    np.testing.assert_allclose(std[21:33], np.repeat([1.0, 1.5, 2.5], 4))
    np.testing.assert_allclose(std[33:45], 15)
    assert (mean[45:] == 0).all() and (std[45:] == 1).all()


def test_an_unknown_group_names_the_known_ones(schema):
    with pytest.raises(KeyError, match="joint_torque"):
        schema.group("joint_effort")
