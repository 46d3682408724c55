"""E simulations side by side on MuJoCo's threaded rollout: one call per control step, no Python loop over them."""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout

from rwmdata.machine import available_threads
from rwmdata.robots import RobotSpec
from rwmrl.envs.mujoco_model import layout_of, load_model, randomized_models, trunk_offset
from rwmrl.snapshots import Snapshot, like

GROUND_CLEARANCE_M = 0.002
"""Gap left under the lowest foot of a robot that is placed."""


class BatchPhysics:
    """The physical states of E robots and what their sensors read.

    A control step is a pure function of a state row and a target, so neither the number of threads nor the company an
    environment is in changes its motion.

    Args:
        robot: The robot.
        num_envs: E.
        variants: Randomised models to spread over the environments; 0 simulates the nominal robot.
        threads: Threads to step on; the cores this process may use when None.
        seed: Seed of the variants.

    Attributes:
        layout: Where things are in ``state`` and ``sensors``.
        state: ``(E, layout.width)`` float64: time, qpos, qvel.
        sensors: ``(E, K)`` float64. Forces and torques are those of the last physics step.
        trunk_offsets: ``(E, 4)``: how each trunk's mass (kg) and centre of mass (m) differ from the nominal robot's.
    """

    def __init__(
        self, robot: RobotSpec, num_envs: int, variants: int = 0, threads: int | None = None, seed: int = 0
    ) -> None:
        nominal = load_model(robot)
        self.layout = layout_of(robot, nominal)
        self.decimation, self._control_dt_s = robot.decimation, robot.control_dt_s
        count = min(variants, num_envs)
        models = randomized_models(nominal, robot, count, np.random.default_rng(seed)) if count else [nominal]
        # Neighbours share a model, which keeps it in the cache.
        variant = [i * len(models) // num_envs for i in range(num_envs)]
        self._models = [models[k] for k in variant]
        self.trunk_offsets = np.stack([trunk_offset(m, nominal, robot) for m in models])[variant]
        self._rollout = Rollout(nthread=available_threads() if threads is None else threads)
        self._data = [mujoco.MjData(nominal) for _ in range(max(1, self._rollout.nthread))]
        self._states = np.zeros((num_envs, self.decimation, self.layout.width))
        self._readings = np.zeros((num_envs, self.decimation, nominal.nsensordata))
        self._targets = np.zeros((num_envs, self.decimation, len(robot.joints)))
        self.state = np.zeros((num_envs, self.layout.width))
        self.sensors = np.zeros((num_envs, nominal.nsensordata))
        # Divergence is read off the clock (step); MuJoCo would also print it, and write a file where one stands.
        mujoco.set_mju_user_warning(lambda _: None)

    def close(self) -> None:
        """Stop the threads."""
        self._rollout.close()

    def snapshot(self) -> Snapshot:
        """Return ``state`` and ``sensors``: a control step depends on nothing else."""
        return {"state": torch.from_numpy(self.state.copy()), "sensors": torch.from_numpy(self.sensors.copy())}

    def restore(self, saved: Snapshot) -> None:
        """Go on from a :meth:`snapshot` of the same robots."""
        self.state = like(torch.from_numpy(self.state), saved["state"]).numpy()
        self.sensors = like(torch.from_numpy(self.sensors), saved["sensors"]).numpy()

    def step(self, target: np.ndarray) -> np.ndarray:
        """Run one control step towards joint targets ``(E, J)``, rad.

        Returns:
            ``(E,)`` bool: the simulation is sound. Where it is not, MuJoCo gave up part-way.
        """
        self._targets[:] = target[:, None]
        started = self.state[:, 0].copy()
        self._run(self._models, self.state, self._targets, state=self._states, sensordata=self._readings)
        np.copyto(self.state, self._states[:, -1])
        np.copyto(self.sensors, self._readings[:, -1])
        return np.asarray(self.state[:, 0] - started > self._control_dt_s * 0.9)

    def replay(self, start: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the states ``(E, layout.width)`` after control steps from ``start``, of the same shape.

        All steps are made in one call, which leaves this object's state alone. ``targets (E, T, J)`` are the joint
        targets of every control step, rad.
        """
        held = np.repeat(targets, self.decimation, axis=1)
        states, _ = self._rollout.rollout(self._models, self._data, start, held)
        return np.asarray(states[:, -1])

    def place(self, env_ids: np.ndarray, states: np.ndarray, target: np.ndarray) -> None:
        """Put the robots ``env_ids (n,)`` into new ``states (n, layout.width)`` and read their sensors.

        A robot whose feet would be in the ground is lifted on to it. ``target (n, J)`` are the joint targets the
        drives see at that moment, rad.
        """
        soles = self._measure(env_ids, states, target)[:, self.layout.sole_pos][:, 2::3] - self.layout.sole_radius
        height = self.layout.position.stop - 1
        states[:, height] += np.maximum(0.0, GROUND_CLEARANCE_M - soles.min(axis=1))
        self.sensors[env_ids] = self._measure(env_ids, states, target)
        self.state[env_ids] = states

    def _measure(self, env_ids: np.ndarray, states: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the sensors of ``states``, ``(n, K)``: those of a physics step that starts there and is discarded."""
        count = len(env_ids)
        after, readings = np.empty((count, 1, states.shape[1])), np.empty((count, 1, self.sensors.shape[1]))
        models, targets = [self._models[i] for i in env_ids], np.ascontiguousarray(target[:, None])
        self._run(models, states, targets, state=after, sensordata=readings)
        return readings[:, 0]

    def _run(self, models: list[mujoco.MjModel], start: np.ndarray, targets: np.ndarray, **out: np.ndarray) -> None:
        # The contact solver starts cold at each control step: measured, a warm start saves it nothing.
        self._rollout.rollout(models, self._data, start, targets, nstep=targets.shape[1], skip_checks=True, **out)
