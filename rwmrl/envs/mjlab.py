"""mjlab: Isaac Lab's managers on MuJoCo-Warp. Runs on a GPU, and slowly on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rwmdata.robots import RobotSpec
from rwmrl.envs.base import CONTACT_FORCE_N, EnvOptions, VecEnv
from rwmrl.envs.manager_based import ManagerBasedEnv, configure, device_of, pick_task

SENSOR = "rwm_contact_{}"
"""Contact sensors added to the task's scene, one per body: the task's own differ from task to task."""


class MjlabEnv(ManagerBasedEnv):
    """A task of mjlab.

    Bodies of ``robot.yaml`` that the model does not have are looked for among its collision geoms:
    ``FR_foot`` is ``FR_foot_collision``.
    """

    stale_torque_after_reset = False

    def _refresh(self) -> None:
        # Derived quantities lag the state by one physics step until this is called.
        self._env.sim.forward()

    def _find_contacts(self) -> None:
        names = [SENSOR.format(body) for body in (*self.robot.thigh_bodies, *self.robot.foot_bodies)]
        self._contact_sensors = [self._env.scene.sensors[name] for name in names]

    def _contact(self) -> Tensor:
        touching = []
        for sensor in self._contact_sensors:
            sensor.update(dt=0.0)  # Otherwise it repeats its reading from within the step.
            touching.append((sensor.data.force.sum(dim=1).norm(dim=-1) > CONTACT_FORCE_N).float())
        return torch.stack(touching, dim=1)


def make_mjlab_env(robot: RobotSpec, options: EnvOptions) -> VecEnv:
    """Return a registered task of mjlab; see :func:`rwmrl.backends.make_env`.

    Raises:
        RwmError: The task is not registered, or does not fit the robot.
    """
    import mjlab.tasks  # noqa: F401  registers the tasks
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.registry import list_tasks, load_env_cfg

    cfg: Any = load_env_cfg(pick_task(options.task, robot, "mjlab", list_tasks()))
    cfg.scene.num_envs = options.num_envs
    configure(cfg, options)
    cfg.scene.sensors = (*(cfg.scene.sensors or ()), *_contact_sensors(cfg.scene.entities["robot"], robot))
    return MjlabEnv.of_task(ManagerBasedRlEnv(cfg=cfg, device=device_of(options)), robot, options)


def _contact_sensors(entity: Any, robot: RobotSpec) -> list[Any]:
    from mjlab.sensor import ContactMatch, ContactSensorCfg

    bodies = {body.name for body in entity.spec_fn().bodies}
    return [
        ContactSensorCfg(
            name=SENSOR.format(body),
            primary=ContactMatch(mode="body", pattern=body, entity="robot")
            if body in bodies
            else ContactMatch(mode="geom", pattern=f"{body}_collision", entity="robot"),
            secondary=ContactMatch(mode="body", pattern="terrain"),
            fields=("force",),
            reduce="netforce",
        )
        for body in (*robot.thigh_bodies, *robot.foot_bodies)
    ]
