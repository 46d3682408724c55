"""Smooth synthetic recordings whose episode boundaries and action alignment are known."""

from __future__ import annotations

import numpy as np
import pytest


def synthetic_episode(schema, length, seed):
    """A robot whose joints follow their (randomly wandering) actions, from a random start pose; first action zero."""
    rng = np.random.default_rng(seed)
    dt, joints = 0.02, len(schema.joints)
    rows = np.zeros((length, schema.width), np.float32)
    position, velocity = rng.uniform(-0.4, 0.4, joints), np.zeros(joints)
    tilt, rate, action = rng.uniform(-0.2, 0.2), 0.0, np.zeros(joints)
    for t in range(length):
        if t:
            action = 0.7 * action + rng.normal(0, 0.4, joints)
            force = 60 * (0.5 * action - position) - 5 * velocity
            before, velocity = velocity, velocity + dt * force
            position = position + 0.5 * dt * (before + velocity)
            before, rate = rate, 0.9 * rate + rng.normal(0, 0.1)
            tilt += 0.5 * dt * (before + rate)
        rows[t, schema.group("base_lin_vel")] = rng.normal(0, 0.05, 3)
        rows[t, schema.group("base_ang_vel")] = (rate, 0, 0)
        rows[t, schema.group("projected_gravity")] = (0, -np.sin(tilt), -np.cos(tilt))
        rows[t, schema.group("joint_pos")] = position
        rows[t, schema.group("joint_vel")] = velocity
        rows[t, schema.action] = action
        rows[t, schema.contact] = rng.integers(0, 2, 2 * len(schema.legs))
    return rows


@pytest.fixture
def episodes(schema):
    """Make ``count`` synthetic episodes of ``length`` rows."""
    return lambda count, length: [synthetic_episode(schema, length, seed) for seed in range(count)]
