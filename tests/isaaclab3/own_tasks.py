"""Tasks of Isaac Lab 3.0 as a user would register them: one that records, one with observation groups of its own."""

from __future__ import annotations

import os

import gymnasium as gym
import torch
from isaaclab.envs import mdp
from isaaclab.envs.mdp.recorders.recorders_cfg import ActionStateRecorderManagerCfg
from isaaclab.managers import ObservationGroupCfg, SceneEntityCfg
from isaaclab.managers import ObservationTermCfg as Term
from isaaclab.utils import configclass
from isaaclab_tasks.core.velocity.config.anymal_d.flat_env_cfg import AnymalDFlatEnvCfg

from rwmdata.robots import load_robot

ROBOT = load_robot("anymal_d")
JOINTS = {"asset_cfg": SceneEntityCfg("robot", joint_names=ROBOT.joints, preserve_order=True)}
FOLDER_VARIABLE = "RWM_TEST_RECORDINGS"


def touching(env, sensor_cfg):
    forces = env.scene.sensors[sensor_cfg.name].data.net_normal_forces_w.torch[:, sensor_cfg.body_ids]
    return (forces.norm(dim=-1) > 1.0).float()


def contacts(bodies):
    return Term(
        func=touching, params={"sensor_cfg": SceneEntityCfg("contact_forces", body_names=bodies, preserve_order=True)}
    )


def no_termination(env):
    return torch.zeros(env.num_envs, 1, device=env.device)


@configclass
class SystemState(ObservationGroupCfg):
    base_lin_vel = Term(func=mdp.base_lin_vel)
    base_ang_vel = Term(func=mdp.base_ang_vel)
    projected_gravity = Term(func=mdp.projected_gravity)
    joint_pos = Term(func=mdp.joint_pos_rel, params=JOINTS)
    joint_vel = Term(func=mdp.joint_vel_rel, params=JOINTS)
    joint_torque = Term(func=mdp.joint_effort, params=JOINTS)


@configclass
class SystemContact(ObservationGroupCfg):
    thighs = contacts(ROBOT.thigh_bodies)
    feet = contacts(ROBOT.foot_bodies)


@configclass
class SystemTermination(ObservationGroupCfg):
    fallen = Term(func=no_termination)


@configclass
class GroupsCfg(AnymalDFlatEnvCfg):
    """The robot's state, contacts and termination as groups of the task's own, as the reference's tasks have them."""

    def __post_init__(self):
        super().__post_init__()
        self.observations.system_state = SystemState()
        self.observations.system_contact = SystemContact()
        self.observations.system_termination = SystemTermination()


@configclass
class RecordedCfg(AnymalDFlatEnvCfg):
    """What the stock recorder writes."""

    def __post_init__(self):
        super().__post_init__()
        self.recorders = ActionStateRecorderManagerCfg()
        self.recorders.dataset_export_dir_path = os.environ[FOLDER_VARIABLE]


for name, cfg in {"Groups-AnymalD": GroupsCfg, "Recorded-AnymalD": RecordedCfg}.items():
    gym.register(
        id=name,
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={"env_cfg_entry_point": f"{__name__}:{cfg.__name__}"},
    )
