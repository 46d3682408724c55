"""Mirror images (left and right) of observations and actions, for data augmentation (Mittal et al., ICRA 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec

POLAR = (1.0, -1.0, 1.0)
"""Signs of a velocity or direction mirrored at the xz plane."""
AXIAL = (-1.0, 1.0, -1.0)
"""Signs of an angular velocity."""
COMMAND = (1.0, -1.0, -1.0)
"""Signs of forward speed, sideways speed and yaw rate."""


class Mirror:
    """Mirrors the observations ``(E, 12 + 3 J)`` and actions ``(E, J)`` of a robot with two like sides.

    Args:
        robot: Needs ``mirror_signs``; a leg's twin stands at the same x and the opposite y.
        device: Where the tensors live.

    Raises:
        RwmError: The robot has no ``mirror_signs``, or a leg has no twin.
    """

    def __init__(self, robot: RobotSpec, device: torch.device) -> None:
        if robot.mirror_signs is None:
            raise RwmError(f"Robot '{robot.name}' says nothing of its mirror image.", "mirror_signs in its robot.yaml")
        joints = len(robot.joints)
        twin = _twins(robot)
        self.joint_index = torch.tensor([robot.joints.index(twin[j]) for j in robot.joints], device=device)
        self.joint_sign = torch.tensor(robot.mirror_signs, device=device)
        blocks = [self.joint_index + 12 + k * joints for k in range(3)]
        self.index = torch.cat([torch.arange(12, device=device), *blocks])
        base = torch.tensor([*POLAR, *AXIAL, *POLAR, *COMMAND], device=device)
        self.sign = torch.cat([base, self.joint_sign.repeat(3)])

    def observations(self, values: Tensor) -> Tensor:
        """Return the mirror image of policy observations."""
        return values[..., self.index] * self.sign

    def actions(self, values: Tensor) -> Tensor:
        """Return the mirror image of actions."""
        return values[..., self.joint_index] * self.joint_sign


def _twins(robot: RobotSpec) -> dict[str, str]:
    """Return each joint's counterpart on the other side, by the leg's name within the joint's."""
    places = torch.tensor(robot.foot_positions_m)
    distance = (places[:, None] * torch.tensor([1.0, -1.0]) - places).norm(dim=-1)
    other = [robot.legs[int(i)] for i in distance.argmin(dim=1)]
    twins = {}
    for joint in robot.joints:
        leg = next((k for k, name in enumerate(robot.legs) if name in joint), None)
        twin = joint.replace(robot.legs[leg], other[leg]) if leg is not None else joint
        if twin not in robot.joints:
            raise RwmError(f"Joint {joint} of robot '{robot.name}' has no counterpart {twin} on its other side.")
        twins[joint] = twin
    return twins
