"""From a robot's folder to MuJoCo models: MJCF + ``robot.yaml`` -> drives, ground, sensors, solver, randomisation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rwmdata.errors import RwmError
from rwmdata.robots import JointDrive, RobotSpec

GROUND = "ground"
CONTACT_SOFTNESS = (0.02, 1.0)
"""MuJoCo ``solref``: time constant (s) and damping ratio of the ground contact."""
IMPRATIO = 100.0
"""Stiffness of friction relative to the normal direction. At MuJoCo's default of 1 a standing robot's feet creep
apart by centimetres a second; at 100 they stay, as they do in PhysX."""
PGS_ITERATIONS = 50
SOLE = "sole_"
"""What the names of sensors begin with that tell where a foot's shapes are."""
POSITION_INPUT = 1
"""A DC motor's input is a target position."""


@dataclass(frozen=True)
class ModelLayout:
    """Where things are in a physics state row (time, qpos, qvel) and in the sensor array.

    Per-joint indices follow ``robot.joints``; per-leg blocks follow ``robot.legs``.
    """

    position: slice
    """Base position, world frame, m."""
    quaternion: slice
    """Base orientation, (w, x, y, z)."""
    lin_vel_w: slice
    """Velocity of the base frame's origin, world frame, m/s."""
    ang_vel_b: slice
    """Angular velocity, base frame, rad/s."""
    joint_pos: np.ndarray
    joint_vel: np.ndarray
    width: int
    torque: slice
    """Applied drive torques, N m."""
    contact: slice
    """Ground contact forces as xyz triples: thighs, feet, base; N."""
    sole_pos: slice
    """Positions of the shapes with which feet touch the ground as xyz triples, world frame, m."""
    sole_radius: np.ndarray
    """Radii of these shapes, or of the spheres around them, m."""


def load_model(robot: RobotSpec, visual: bool = False) -> mujoco.MjModel:
    """Compile the robot's MJCF with everything ``robot.yaml`` says.

    Args:
        robot: The robot.
        visual: Keep the geoms that are only there for looks; slower to step.

    Raises:
        RwmError: The robot has no MJCF, it does not compile, or a joint or body of ``robot.yaml`` is not in it.
    """
    try:
        spec = mujoco.MjSpec.from_file(str(robot.mjcf_path))
        _check_names(robot, spec)
        spec.compiler.discardvisual = not visual
        _set_options(spec, robot.physics_dt_s)
        _add_ground(spec, robot.randomization.friction)
        if visual:
            _light(spec)
        _add_drives(spec, robot)
        _add_sensors(spec, robot)
        return spec.compile()
    except (ValueError, mujoco.FatalError) as exc:
        raise RwmError(f"{robot.mjcf_path} does not compile: {' '.join(str(exc).split())}.") from exc


def _check_names(robot: RobotSpec, spec: mujoco.MjSpec) -> None:
    bodies = [robot.base_body, *robot.thigh_bodies, *robot.foot_bodies]
    missing = [f"joint {j}" for j in robot.joints if spec.joint(j) is None]
    missing += [f"body {b}" for b in bodies if spec.body(b) is None]
    if missing:
        raise RwmError(f"{robot.mjcf_path} has no {', no '.join(missing)}, named by {robot.name}'s robot.yaml.")


def _set_options(spec: mujoco.MjSpec, physics_dt_s: float) -> None:
    """Set solver and integrator: measured as the fastest that stands without creeping feet."""
    option = spec.option
    option.timestep = physics_dt_s
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = IMPRATIO
    # A few contacts are a small dual problem: half the time of Newton, which needs many steps at this impratio.
    option.solver = mujoco.mjtSolver.mjSOL_PGS
    option.iterations = PGS_ITERATIONS
    option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    # A simulation that blows up must be seen, not silently started anew.
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)


def _add_ground(spec: mujoco.MjSpec, friction: float) -> None:
    plane, grey = mujoco.mjtGeom.mjGEOM_PLANE, [0.7, 0.72, 0.7, 1]
    spec.worldbody.add_geom(name=GROUND, type=plane, size=[0, 0, 1], contype=1, conaffinity=0, rgba=grey)
    spec.worldbody.add_light(pos=[0, 0, 4], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
    for geom in spec.geoms:
        geom.solref = CONTACT_SOFTNESS
        geom.friction[0] = friction


def _light(spec: mujoco.MjSpec) -> None:
    """Make it look like a bright room: for pictures only."""
    sky, gradient = mujoco.mjtTexture.mjTEXTURE_SKYBOX, mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    blue, white = [0.75, 0.85, 0.95], [1, 1, 1]
    spec.add_texture(name="sky", type=sky, builtin=gradient, rgb1=blue, rgb2=white, width=64, height=64)
    checks = {"type": mujoco.mjtTexture.mjTEXTURE_2D, "builtin": mujoco.mjtBuiltin.mjBUILTIN_CHECKER}
    spec.add_texture(name="checks", rgb1=[0.52, 0.54, 0.52], rgb2=[0.44, 0.46, 0.44], width=128, height=128, **checks)
    material = spec.add_material(name="checks", texrepeat=[2, 2], texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "checks"
    spec.geom(GROUND).material, spec.geom(GROUND).rgba = "checks", [1, 1, 1, 1]
    spec.visual.headlight.ambient = spec.visual.headlight.diffuse = [0.5, 0.5, 0.5]


def _add_drives(spec: mujoco.MjSpec, robot: RobotSpec) -> None:
    drives = robot.drive.of_joints(len(robot.joints))
    for name, limits, drive in zip(robot.joints, robot.joint_pos_limits, drives, strict=True):
        spec.joint(name).range = limits
        spec.joint(name).limited = mujoco.mjtLimited.mjLIMITED_TRUE
        _add_drive(spec, name, drive)


def _add_drive(spec: mujoco.MjSpec, joint: str, drive: JointDrive) -> None:
    """Add one PD position drive behind a DC motor's torque-speed line.

    torque = clip(kp (target - q) - kd qd, +-effort_limit, saturation (+-1 - qd / velocity_limit)), exactly: a motor
    of constant 1 and resistance R = velocity_limit / saturation, driven by a voltage that is clipped at
    +-velocity_limit, gives torque = (voltage - qd) / R; the controller's derivative gain takes the back-EMF out.
    """
    limit, resistance = drive.velocity_limit, drive.velocity_limit / drive.saturation_effort
    gains = drive.stiffness, 0.0, drive.damping
    kind: dict[str, Any] = {"ctrlspec": POSITION_INPUT}
    if not hasattr(mujoco, "mjtCtrlInput"):  # Before MuJoCo 3.12 gains are of the voltage, back-EMF not yet taken out.
        gains = drive.stiffness * resistance, 0.0, drive.damping * resistance - 1.0
        kind = {"input_mode": POSITION_INPUT}
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    saturation, controller = [0.0, 0.0, limit], [*gains, 0, 0, limit]
    actuator.set_to_dcmotor(
        motorconst=[1.0, 1.0], resistance=resistance, saturation=saturation, controller=controller, **kind
    )
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.forcerange = [-drive.effort_limit, drive.effort_limit]


def _add_sensors(spec: mujoco.MjSpec, robot: RobotSpec) -> None:
    kind, obj = mujoco.mjtSensor, mujoco.mjtObj
    for joint in robot.joints:
        spec.add_sensor(name=f"torque_{joint}", type=kind.mjSENS_ACTUATORFRC, objtype=obj.mjOBJ_ACTUATOR, objname=joint)
    net_force = [1 << mujoco.mjtConDataField.mjCONDATA_FORCE.value, 3, 1]
    from_ground = {"reftype": obj.mjOBJ_GEOM, "refname": GROUND, "intprm": net_force}
    for body in (*robot.thigh_bodies, *robot.foot_bodies, robot.base_body):
        about = {"name": f"contact_{body}", "objtype": obj.mjOBJ_BODY, "objname": body}
        spec.add_sensor(type=kind.mjSENS_CONTACT, **about, **from_ground)
    for body in robot.foot_bodies:
        for number, geom in enumerate(g for g in spec.body(body).geoms if g.contype or g.conaffinity):
            geom.name = geom.name or f"{body}_{number}"
            name = f"{SOLE}{geom.name}"
            spec.add_sensor(name=name, type=kind.mjSENS_FRAMEPOS, objtype=obj.mjOBJ_GEOM, objname=geom.name)


def layout_of(robot: RobotSpec, model: mujoco.MjModel) -> ModelLayout:
    """Return where ``robot``'s quantities are in the state and sensor rows of its ``model``.

    Raises:
        RwmError: The model's first joint is not a free joint, or it has states this toolkit does not carry.
    """
    width = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
    if model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE or width != 1 + model.nq + model.nv:
        raise RwmError(f"{robot.mjcf_path} must have a free base and joints without hidden state.")
    joints, legs = [model.joint(j) for j in robot.joints], len(robot.legs)
    velocity, forces, soles = 1 + model.nq, len(joints), len(joints) + 3 * (2 * legs + 1)
    sensors = [model.sensor(k) for k in range(model.nsensor)]
    shapes = [int(sensor.objid[0]) for sensor in sensors if sensor.name.startswith(SOLE)]
    return ModelLayout(
        position=slice(1, 4),
        quaternion=slice(4, 8),
        lin_vel_w=slice(velocity, velocity + 3),
        ang_vel_b=slice(velocity + 3, velocity + 6),
        joint_pos=np.array([1 + j.qposadr[0] for j in joints]),
        joint_vel=np.array([velocity + j.dofadr[0] for j in joints]),
        width=width,
        torque=slice(0, forces),
        contact=slice(forces, soles),
        sole_pos=slice(soles, soles + 3 * len(shapes)),
        sole_radius=model.geom_rbound[shapes],
    )


def randomized_models(
    base: mujoco.MjModel, robot: RobotSpec, count: int, rng: np.random.Generator
) -> Sequence[mujoco.MjModel]:
    """Return ``count`` copies of ``base`` whose trunks differ in mass and centre of mass.

    Both are uniform in robot.yaml's ranges; inertia scales with mass.
    """
    ranges, body = robot.randomization, base.body(robot.base_body).id
    models = []
    for _ in range(count):
        model = copy.copy(base)
        scale = 1.0 + rng.uniform(*ranges.base_mass_kg) / base.body_mass[body]
        model.body_mass[body] *= scale
        model.body_inertia[body] *= scale
        model.body_ipos[body] += rng.uniform(-1.0, 1.0, 3) * ranges.base_com_m
        mujoco.mj_setConst(model, mujoco.MjData(model))
        models.append(model)
    return models


def trunk_offset(model: mujoco.MjModel, nominal: mujoco.MjModel, robot: RobotSpec) -> np.ndarray:
    """Return how a model's trunk differs from the nominal one, ``(4,)``: mass (kg), centre of mass x, y, z (m)."""
    body = nominal.body(robot.base_body).id
    mass = model.body_mass[body] - nominal.body_mass[body]
    return np.array([mass, *(model.body_ipos[body] - nominal.body_ipos[body])])
