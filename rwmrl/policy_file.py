"""Policies as files: safetensors with a JSON description inside, loadable without any RL library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rwmdata.config import one_line
from rwmdata.errors import RwmError
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.text import quoted
from rwmmodel.checkpoint import METADATA_KEY as MODEL_KEY
from rwmmodel.described_file import filled, read_described, save_described
from rwmrl.foreign_policy import WANTED, read_foreign
from rwmrl.policy_network import METADATA_KEY, MlpPolicy, PolicyInfo

FORMAT = "rwm-policy-1"


def save_policy(policy: MlpPolicy, path: Path) -> None:
    """Write a policy and its description to one file, atomically."""
    save_described(path, policy, METADATA_KEY, {"format": FORMAT, "info": policy.info.model_dump(mode="json")})


def load_policy(path: str | Path, robot: str | RobotSpec | None = None, strict: bool = True) -> MlpPolicy:
    """Load a policy, in evaluation mode, on the CPU: a file of :func:`save_policy`, or one trained elsewhere.

    Args:
        path: The file.
        robot: Refuse a policy of another robot, or with other observations or joints than this robot has now. A file
            from elsewhere does not say its robot, so it needs one, see :func:`rwmrl.foreign_policy.read_foreign`.
        strict: False takes a file of ours as it is.

    Raises:
        RwmError: The file is missing, foreign or damaged, or does not fit the robot.
    """
    path = Path(path)
    spec = load_robot(robot) if isinstance(robot, str) else robot
    content = read_described(path, "policy", "rwm policy, or rwm runs ls --kind policy")
    if content is not None and MODEL_KEY in content[0]:
        raise RwmError(f"{path} holds a world model, but a policy is expected here.", WANTED)
    if content is None or METADATA_KEY not in content[0]:
        return read_foreign(path, spec)
    metadata, tensors = content
    try:
        raw: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        if raw["format"] != FORMAT:
            raise ValueError(f"format '{raw['format']}', expected '{FORMAT}'")
        info = PolicyInfo(**raw["info"])
        policy = filled(lambda: MlpPolicy(info), info.hidden_dims, len(info.hidden_dims), tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise RwmError(
            f"The policy inside {path} is damaged: {one_line(exc)}.", "copy it again, or rwm runs ls"
        ) from exc
    if spec is not None and strict:
        _refuse_other_robot(path, policy.info, spec)
    return policy.eval()


def robot_of(path: Path) -> str | None:
    """Return the robot that a policy file of ours names; None for one from elsewhere, which names none.

    Raises:
        RwmError: See :func:`load_policy`.
    """
    content = read_described(path, "policy", "rwm runs ls --kind policy")
    return load_policy(path, strict=False).info.robot if content and METADATA_KEY in content[0] else None


def _refuse_other_robot(path: Path, info: PolicyInfo, robot: RobotSpec) -> None:
    if info.robot != robot.name:
        raise RwmError(f"{path} is a policy of '{info.robot}', not of '{robot.name}'.", f"--robot {quoted(info.robot)}")
    wanted = PolicyInfo.of(robot, ())
    for what in ("observations", "joints", "action_scale", "control_hz"):
        if getattr(info, what) != getattr(wanted, what):
            raise RwmError(f"{path} was trained on other {what} than robot '{robot.name}' has now.", "rwm policy")
