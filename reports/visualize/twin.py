"""The imagined twin of a real robot: a model's states under the real robot's actions, from its history on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reports.evaluate.rollouts import HeldOutWindows, Rollout, roll_out
from reports.visualize.pose import ORIGIN, Pose, integrate
from reports.visualize.recording import Recording
from rwmdata.errors import RwmError
from rwmdata.progress import Progress, silent
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.envs.mujoco_shapes import RobotShapes


@dataclass(frozen=True)
class Imagined:
    """What was imagined from one synchronisation to the next, or to the episode's end."""

    robot: int
    synchronised: int
    """Row of the real robot it starts from; row ``synchronised + 1`` is the first imagined."""
    error: np.ndarray
    """L1 error of each step, ``(n,)``, in standard deviations."""
    held_error: np.ndarray
    """That of the state at the synchronisation, held."""
    magnitude: np.ndarray
    """Sum of the real state's magnitudes, ``(n,)``: what relative errors divide by."""

    @property
    def steps(self) -> int:
        """Imagined control steps."""
        return len(self.error)


@dataclass(frozen=True)
class Twin:
    """The twins of a recording's robots; ``(N, T, ...)``, not a number where there is none."""

    rows: np.ndarray
    """``(N, T, width)``, physical units: imagined states, contacts and terminations under the real actions."""
    since: np.ndarray
    """Control steps since the last synchronisation, ``(N, T)`` int; -1 where there is no twin."""
    rel_l1: np.ndarray
    """Error of the step over the real state's magnitude, normalised space, ``(N, T)``."""
    epistemic: np.ndarray
    aleatoric: np.ndarray
    parts: list[Imagined]

    @property
    def exists(self) -> np.ndarray:
        """``(N, T)`` bool."""
        return self.since > 0

    @property
    def disagrees(self) -> bool:
        """Whether the members ever disagree; one member never does, and then there is no epistemic uncertainty."""
        return bool(np.nanmax(self.epistemic) > 0)


def imagine_twins(
    model: DynamicsEnsemble, recording: Recording, resync: int | None = None, progress: Progress = silent
) -> Twin:
    """Roll a model from the real robots' histories under the real robots' actions.

    A twin begins after the first M rows of an episode and ends with it. With ``resync`` it is given the real history
    anew every so many steps: row ``k`` is then predicted from real rows at most ``resync`` steps before it.

    Raises:
        RwmError: No episode is longer than the model's history, or a prediction is not finite.
    """
    history, (count, length, width) = model.config.history, recording.rows.shape
    windows = _windows(recording, history, resync)
    if not windows:
        longest = max(stop - start for n in range(count) for start, stop in recording.segments(n))
        raise RwmError(
            f"The longest episode here has {longest} rows; the model needs a history of {history} and one more.",
            "a longer episode, more --steps, or --no-twin",
        )
    rows = np.full((count, length, width), np.nan, np.float32)
    numbers = np.full((3, count, length), np.nan, np.float32)
    since, parts = np.full((count, length), -1), []
    # Windows of one length go through the model together.
    for steps in sorted({n for *_, n in windows}):
        group = [(robot, at) for robot, at, n in windows if n == steps]
        first = np.array([at + 1 - history for _, at in group])
        given = np.stack([recording.rows[r, at + 1 - history : at + 1 + steps] for r, at in group])
        held_out = HeldOutWindows(given, first, np.zeros(len(group), np.int64), "real")
        rollout = roll_out(model, recording.schema, held_out, progress=progress, aux=True)
        imagined = _rows(model, given[:, history:], rollout, recording)
        held_error = rollout.l1_of(rollout.hold_last)
        for k, (robot, at) in enumerate(group):
            here = robot, slice(at + 1, at + 1 + steps)
            rows[here], since[here] = imagined[k], np.arange(1, steps + 1)
            relative = rollout.l1[k] / np.maximum(rollout.recorded_l1[k], 1e-9)
            for values, of_window in zip(numbers, (relative, rollout.epistemic[k], rollout.aleatoric[k]), strict=True):
                values[here] = of_window
            parts.append(Imagined(robot, at, rollout.l1[k], held_error[k], rollout.recorded_l1[k]))
    parts.sort(key=lambda part: (part.robot, part.synchronised))
    return Twin(rows, since, numbers[0], numbers[1], numbers[2], parts)


def _windows(recording: Recording, history: int, resync: int | None) -> list[tuple[int, int, int]]:
    """Return robot, row of synchronisation and number of steps of every part that is imagined."""
    windows = []
    for robot in range(len(recording.rows)):
        for start, stop in recording.segments(robot):
            at = start + history - 1
            while at + 1 < stop:
                steps = min(resync or stop, stop - at - 1)
                windows.append((robot, at, steps))
                at += steps
    return windows


def _rows(model: DynamicsEnsemble, real: np.ndarray, rollout: Rollout, recording: Recording) -> np.ndarray:
    """Return real rows ``(W, steps, width)`` with what was imagined in their place; actions stay."""
    schema, rows = recording.schema, real.copy()
    device = next(model.parameters()).device
    states = model.normalizer.denorm_state(torch.from_numpy(rollout.predicted).to(device))
    rows[..., schema.state] = states.cpu().numpy()
    rows[..., schema.extension] = np.nan
    assert rollout.contact is not None and rollout.termination is not None
    rows[..., schema.contact], rows[..., -1] = rollout.contact > 0.5, rollout.termination > 0.5
    return rows


@dataclass(frozen=True)
class Poses:
    """Poses ``(N, T, ...)`` of the real robots and their twins; not a number where there is no twin."""

    real: Pose
    twin: Pose


def poses_of(recording: Recording, twin: Twin | None, shapes: RobotShapes | None) -> Poses:
    """Return where everyone is: real robots from the origin in each episode, twins from the real robot's pose."""
    shape, schema, dt = recording.rows.shape[:2], recording.schema, recording.dt_s
    real, imagined = (Pose(np.full((*shape, 3), np.nan), np.full((*shape, 4), np.nan)) for _ in range(2))
    for robot in range(shape[0]):
        for start, stop in recording.segments(robot):
            path = integrate(recording.rows[robot, start:stop], schema, dt, ORIGIN, shapes)
            real.position[robot, start:stop], real.quaternion[robot, start:stop] = path.position, path.quaternion
    for part in twin.parts if twin else ():
        robot, at, stop = part.robot, part.synchronised, part.synchronised + 1 + part.steps
        assert twin is not None
        rows = np.concatenate((recording.rows[robot, at : at + 1], twin.rows[robot, at + 1 : stop]))
        begin = Pose(real.position[robot, at], real.quaternion[robot, at])
        pose = integrate(rows, schema, dt, begin, shapes)
        imagined.position[robot, at + 1 : stop] = pose.position[1:]
        imagined.quaternion[robot, at + 1 : stop] = pose.quaternion[1:]
    return Poses(real, imagined)
