"""Policy files kept as runs."""

from __future__ import annotations

from pathlib import Path

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmrl.foreign_policy import Reading, is_own, read_foreign
from rwmrl.policy_file import load_policy, save_policy


def keep_policy(home: Home, path: Path, robot: str | None = None, reading: Reading | None = None) -> Run:
    """Make a finished train run of a policy file, ours or another's.

    Raises:
        RwmError: It is no policy, or it does not fit the robot.
    """
    reading = reading or Reading()
    if is_own(path):
        if reading != Reading():
            raise RwmError(f"{path} says itself what its network is.", "no --activation and no --layout")
        policy = load_policy(path, robot)
    else:
        policy = read_foreign(path, load_robot(robot) if robot else None, reading)
    info = policy.info
    config = {"imported": path.name, "robot": info.robot, **reading.model_dump()}
    run = Run.create(home, "train", config, {"policy": None}, 0)
    with run.running():
        policy.info = info.model_copy(
            update={"source": f"train {run.id}, {info.source or f'imported from {path.name}'}"}
        )
        save_policy(policy, run.policy_file)
        sizes = " x ".join(map(str, (len(info.observations), *info.hidden_dims, len(info.joints))))
        run.finish({"robot": info.robot, "network": sizes, "activation": info.activation, "source": info.source})
    return run
