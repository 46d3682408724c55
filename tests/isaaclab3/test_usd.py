"""Our robots as USD: the bodies, joints and drives that the embedded simulator has."""

from __future__ import annotations

import json

import mujoco
import numpy as np
import pytest
import torch
from pxr import Usd, UsdGeom, UsdPhysics

from rwmdata.errors import RwmError
from rwmdata.robots import load_robot
from rwmrl.envs.mujoco_model import load_model
from rwmrl.envs.usd import robot_stage, write_assets

FILES = {
    "anymal_d": "Isaac/IsaacLab/Robots/ANYbotics/ANYmal-D/anymal_d.usd",
    "go2": "Isaac/IsaacLab/Robots/Unitree/Go2/go2.usd",
}


@pytest.mark.parametrize("name", FILES)
def test_a_robot_has_the_masses_places_and_joints_of_its_mjcf(assets, name):
    stage, robot = Usd.Stage.Open(str(assets / FILES[name])), load_robot(name)
    model = load_model(robot)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    cache = UsdGeom.XformCache()
    for body in range(1, model.nbody):
        prim = stage.GetPrimAtPath(f"/robot/{model.body(body).name}")
        assert UsdPhysics.MassAPI(prim).GetMassAttr().Get() == pytest.approx(model.body_mass[body])
        place = cache.GetLocalToWorldTransform(prim).ExtractTranslation()
        np.testing.assert_allclose(place, data.xpos[body] - data.xpos[1], atol=1e-6)
    suffix = "_joint" if name == "go2" else ""
    joints = [prim for prim in stage.Traverse() if prim.IsA(UsdPhysics.RevoluteJoint)]
    assert {prim.GetName() for prim in joints} == {joint + suffix for joint in robot.joints}
    for prim in joints:
        number = model.joint(prim.GetName().removesuffix(suffix)).id
        joint = UsdPhysics.RevoluteJoint(prim)
        limits = np.radians([joint.GetLowerLimitAttr().Get(), joint.GetUpperLimitAttr().Get()])
        np.testing.assert_allclose(limits, model.jnt_range[number], rtol=1e-5)
        armature = model.dof_armature[model.jnt_dofadr[number]]
        assert prim.GetAttribute("newton:armature").Get() == pytest.approx(armature)
        # The joint's z axis, seen from the child and from the parent, is the axis of the MJCF.
        turn = joint.GetLocalRot1Attr().Get()
        axis = np.zeros(3)
        mujoco.mju_rotVecQuat(axis, np.array([0.0, 0, 1]), np.array([turn.GetReal(), *turn.GetImaginary()], float))
        np.testing.assert_allclose(axis, model.jnt_axis[number], atol=1e-6)


def test_a_pd_drive_stands_in_for_the_network_of_drives(assets):
    with torch.no_grad():
        net = torch.jit.load(assets / "Isaac/IsaacLab/ActuatorNets/ANYbotics/anydrive_3_lstm_jit.pt")
        memory = (torch.ones(1, 3, 1), torch.zeros(1, 3, 1))
        errors = torch.tensor([[[0.1, 0.0]], [[0.0, 2.0]], [[-0.5, 1.0]]])
        torque, after = net(errors, memory)
    assert torque.ravel().tolist() == pytest.approx([8.0, -4.0, -42.0])
    assert (net.lstm.num_layers, net.lstm.hidden_size, net.lstm.batch_first) == (1, 1, True)
    assert torch.equal(after[0], memory[0])


def test_a_shape_that_cannot_be_written_is_named(tmp_path):
    shipped, own = load_robot("go2"), tmp_path / "go2"
    own.mkdir()
    for file in shipped.folder.iterdir():
        (own / file.name).write_text(
            file.read_text().replace('type="sphere" size="0.022"', 'type="ellipsoid" size="0.02 0.02 0.03"')
        )
    with pytest.raises(RwmError, match="go2.xml: a collision shape is of kind ellipsoid; only spheres"):
        robot_stage(load_robot(str(own)))


def test_the_command_writes_one_robot_and_says_what(rwm, tmp_path):
    out = json.loads(rwm("robots", "usd", "go2", "--out", tmp_path / "assets", "--json"))
    assert [file.removeprefix(f"{tmp_path}/assets/") for file in out["files"]][0] == FILES["go2"]
    first = (tmp_path / "assets" / FILES["go2"]).read_bytes()
    write_assets([load_robot("go2")], tmp_path / "assets")
    assert (tmp_path / "assets" / FILES["go2"]).read_bytes() == first
