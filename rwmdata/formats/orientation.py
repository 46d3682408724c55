"""Gravity in the base frame from what logs hold in its place: quaternions, roll-pitch-yaw, accelerometers."""

from __future__ import annotations

import numpy as np

from rwmdata.errors import RwmError

GRAVITY_S = 1.0
"""An accelerometer's mean over this time, in a frame that turns with the gyroscope, points up."""
COMPARED_S = 0.1
"""Time over which the turning of an orientation is compared with the gyroscope."""
LEAST_TURN_RAD = 0.02
"""Typical turn in that time below which the two cannot be compared."""
AGREES, BETTER = 0.5, 0.5
"""An orientation disagrees if its error over the turn is larger, and that of another order this much smaller."""
ORDERS = {"wxyz": [0, 1, 2, 3], "xyzw": [3, 0, 1, 2]}
UNIT_ERROR = 0.05


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrices, base to world, of quaternions (w, x, y, z): ``(n, 4)`` -> ``(n, 3, 3)``."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True).clip(min=1e-12)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def rotation_of_angles(angles: np.ndarray) -> np.ndarray:
    """Return the rotation matrices, base to world, of roll, pitch and yaw, rad: yaw first, then pitch, then roll."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def axes_of(values: np.ndarray, kind: str, order: str, where: str) -> np.ndarray:
    """Return base-to-world rotations ``(n, 3, 3)`` of recorded quaternions ``(n, 4)`` or angles ``(n, 2 or 3)``.

    Raises:
        RwmError: The values cannot be what they are said to be.
    """
    if kind == "quaternion":
        length = np.linalg.norm(values, axis=1)
        if (off := np.abs(length - 1) > UNIT_ERROR).any():
            row = int(off.argmax())
            fault = f"{where}: the quaternion of row {row + 1} has length {length[row]:.3g}, expected 1."
            raise RwmError(
                fault, f"scale: {1 / max(length[row], 1e-9):.6g} beside its columns, if it is in another unit"
            )
        return rotation(values[:, ORDERS[order]])
    if np.abs(values[:, :2]).max() > 2 * np.pi:
        fault = f"{where}: roll and pitch reach {np.abs(values[:, :2]).max():.4g}, which are no radians."
        raise RwmError(fault, "scale: 0.0174533 under projected_gravity, if they are degrees")
    return rotation_of_angles(np.pad(values, ((0, 0), (0, 3 - values.shape[1]))))


def turn_error(axes: np.ndarray, gyro: np.ndarray, stamps_s: np.ndarray) -> float:
    """Return how far an orientation's turning is from the gyroscope's, relative to the turn; 0 is perfect, 1 unrelated.

    Args:
        axes: Base to world, ``(n, 3, 3)``.
        gyro: Angular velocity in the base frame, rad/s, ``(n, 3)``.
        stamps_s: Times, ``(n,)``.

    Returns:
        The relative error; not a number where there is too little motion to tell.
    """
    later = np.searchsorted(stamps_s, stamps_s + COMPARED_S)
    now = np.flatnonzero(later < len(stamps_s))
    if not len(now):
        return float("nan")
    between = np.einsum("nji,njk->nik", axes[now], axes[later[now]])
    skew = between - between.transpose(0, 2, 1)
    turn = 0.5 * np.stack((skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]), axis=1)
    steps = 0.5 * (gyro[1:] + gyro[:-1]) * np.diff(stamps_s)[:, None]
    total = np.concatenate((np.zeros((1, 3)), np.cumsum(steps, axis=0)))
    expected = total[later[now]] - total[now]
    size = np.sqrt((expected**2).sum(axis=1).mean())
    if size < LEAST_TURN_RAD:
        return float("nan")
    return float(np.sqrt(((turn - expected) ** 2).sum(axis=1).mean()) / size)


def check_order(values: np.ndarray, order: str, gyro: np.ndarray, stamps_s: np.ndarray, where: str) -> str:
    """Compare a quaternion's turning with the gyroscope, in its order and in others.

    Returns:
        What was found, for the notes.

    Raises:
        RwmError: Another order, or the inverse, agrees far better.
    """
    inverse = np.array([1.0, -1.0, -1.0, -1.0])
    errors: dict[str, float] = {}
    for name, columns in ORDERS.items():
        ours = values[:, columns]
        errors[f"order: {name}"] = turn_error(rotation(ours), gyro, stamps_s)
        signs = (inverse[[columns.index(k) for k in range(4)]]).astype(int).tolist()
        errors[f"order: {name}, scale: {signs}"] = turn_error(rotation(ours * inverse), gyro, stamps_s)
    own, best = errors[f"order: {order}"], min(errors, key=lambda name: errors[name])
    if own > AGREES and errors[best] < BETTER * own:
        fault = f"{where}: as {order}, the quaternion turns otherwise than the gyroscope (error {own:.2f} of the turn"
        raise RwmError(f"{fault}); with '{best}' it agrees ({errors[best]:.2f}).", f"{best} under projected_gravity")
    return f"quaternion taken as {order}, which {compared(own)}"


def compared(error: float) -> str:
    """Return in words what :func:`turn_error` says."""
    if np.isnan(error):
        return "turns too little to be compared with the gyroscope"
    if error <= AGREES:
        return f"turns as the gyroscope does (error {error:.2f} of the turn)"
    return f"turns otherwise than the gyroscope (error {error:.2f} of the turn): look at axes, signs and units"


def gravity_from_accelerometer(force: np.ndarray, gyro: np.ndarray | None, stamps_s: np.ndarray) -> np.ndarray:
    """Return an estimate of unit gravity in the base frame from specific force ``(n, 3)``, which is up at rest.

    The force is averaged over :data:`GRAVITY_S` before and after each row, in a frame that turns with the gyroscope
    ``(n, 3)``; without one, in the base frame.
    """
    turned = np.broadcast_to(np.eye(3), (len(force), 3, 3)) if gyro is None else _turned(gyro, stamps_s)
    still = np.einsum("nij,nj->ni", turned, force)
    total = np.concatenate((np.zeros((1, 3)), np.cumsum(still, axis=0)))
    first = np.searchsorted(stamps_s, stamps_s - GRAVITY_S)
    last = np.searchsorted(stamps_s, stamps_s + GRAVITY_S, side="right")
    mean = (total[last] - total[first]) / (last - first)[:, None]
    gravity = -np.einsum("nji,nj->ni", turned, mean)
    return gravity / np.linalg.norm(gravity, axis=1, keepdims=True).clip(min=1e-9)


def _turned(gyro: np.ndarray, stamps_s: np.ndarray) -> np.ndarray:
    """Integrate angular velocity to rotations ``(n, 3, 3)`` since the first row, by products over twice the reach."""
    angle = 0.5 * (gyro[1:] + gyro[:-1]) * np.diff(stamps_s)[:, None]
    half = 0.5 * np.linalg.norm(angle, axis=1, keepdims=True)
    small = np.concatenate((np.cos(half), 0.5 * angle * np.sinc(half / np.pi)), axis=1)
    turned = np.concatenate((np.eye(3)[None], rotation(small)))
    reach = 1
    while reach < len(turned):
        turned = np.concatenate((turned[:reach], turned[:-reach] @ turned[reach:]))
        reach *= 2
    return turned
