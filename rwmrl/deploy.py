"""A trained policy in files that run without this toolkit: ONNX, TorchScript, rsl_rl's checkpoint, and a JSON."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwmdata.atomic import commit_file, write_json
from rwmdata.errors import RwmError
from rwmdata.optional import optional_import
from rwmdata.robots import PerJoint, RobotSpec, load_robot
from rwmmodel.checkpoint import save_state
from rwmrl.obs_normalizer import folded
from rwmrl.policy_file import load_policy
from rwmrl.policy_network import MlpPolicy

ONNX_FILE, TORCHSCRIPT_FILE, DESCRIPTION_FILE = "policy.onnx", "policy.pt", "policy.json"
RSL_RL_FILE = "model_0.pt"
"""As rsl_rl 2 and 3 (Isaac Lab 2.x) name and read it."""
RSL_RL_5_FILE = "model_0_rsl_rl_5.pt"
"""The same policy as rsl_rl 5 (Isaac Lab 3.0, mjlab) reads it."""
TOLERANCE = 1e-5
"""Largest allowed difference of an exported file's actions."""
CHECKED = 256
"""Observations compared."""


def export_policy(source: Path, folder: Path, robot: str | None = None) -> dict[str, Any]:
    """Write a policy file as ONNX and TorchScript, each with the observation normaliser inside, and describe it.

    Both files are run on random observations before they are kept.

    Args:
        source: A policy file of this toolkit, or one that :func:`rwmrl.foreign_policy.read_foreign` reads.
        folder: Where ``policy.onnx``, ``policy.pt``, ``model_0.pt`` and ``model_0_rsl_rl_5.pt`` (see
            :func:`rsl_rl_checkpoint`; left out for a policy with two kinds of activations, which rsl_rl's networks do
            not have) and ``policy.json`` go.
        robot: Robot name or folder; the policy's own when None.

    Returns:
        The content of ``policy.json``, and under ``check`` the largest difference of each file's actions.

    Raises:
        RwmError: The file is no policy of ours or of another robot, a package is missing, or an exported file gives
            other actions.
    """
    policy = load_policy(source, robot)
    info, spec = policy.info, load_robot(robot or policy.info.robot)
    if robot is None:
        policy = load_policy(source, spec)
    generator = torch.Generator().manual_seed(0)
    observation = policy.mean + policy.scale * torch.randn(CHECKED, len(info.observations), generator=generator)
    with torch.no_grad():
        expected = policy(observation).numpy()
    check = {
        TORCHSCRIPT_FILE: _torchscript(policy, folder / TORCHSCRIPT_FILE, observation, expected),
        ONNX_FILE: _onnx(policy, folder / ONNX_FILE, observation, expected),
    }
    if info.hidden_dims and info.last_activation in (None, info.activation):
        save_state(folder / RSL_RL_FILE, rsl_rl_checkpoint(policy))
        save_state(folder / RSL_RL_5_FILE, rsl_rl_5_checkpoint(policy))
    described = description(policy, spec)
    write_json(folder / DESCRIPTION_FILE, described)
    return described | {"check": check}


def rsl_rl_checkpoint(policy: MlpPolicy) -> dict[str, Any]:
    """Return a checkpoint for the runner of rsl_rl 2 and 3, with which Isaac Lab's play script runs the policy.

    The observation normaliser is folded into the first layer, so the agent's configuration has none; its actor and
    critic have the policy's layers. The critic is all zeros: acting needs none, and a policy file has none.
    """
    std, actor, critic = _networks(policy)
    networks = {"actor": actor, "critic": critic}
    weights = {f"{name}.{k}": v for name, network in networks.items() for k, v in network.state_dict().items()}
    return {"model_state_dict": {"std": std.detach(), **weights}, **_new_training(std, actor, critic)}


def rsl_rl_5_checkpoint(policy: MlpPolicy) -> dict[str, Any]:
    """Return the content of :func:`rsl_rl_checkpoint` in the layout of rsl_rl 4 and 5: a state dict for each network.

    Its distribution is a ``GaussianDistribution``, whose standard deviation is a parameter.
    """
    std, actor, critic = _networks(policy)
    actor_weights = {f"mlp.{k}": v for k, v in actor.state_dict().items()}
    critic_weights = {f"mlp.{k}": v for k, v in critic.state_dict().items()}
    states = {
        "actor_state_dict": {"distribution.std_param": std.detach(), **actor_weights},
        "critic_state_dict": critic_weights,
    }
    return {**states, **_new_training(std, actor, critic)}


def _networks(policy: MlpPolicy) -> tuple[torch.nn.Parameter, torch.nn.Sequential, torch.nn.Sequential]:
    """Return a standard deviation, the actor with the normaliser folded in, and a critic of zeros."""
    with torch.no_grad():
        actor = copy.deepcopy(policy.mlp).cpu()
        first = actor[0]
        assert isinstance(first, torch.nn.Linear)
        weight, bias = folded(first.weight, first.bias, policy.mean.cpu(), policy.scale.cpu())
        first.weight.copy_(weight)
        first.bias.copy_(bias)
        critic = copy.deepcopy(actor)
        critic[-1] = torch.nn.Linear(policy.info.hidden_dims[-1], 1)
        for parameter in critic.parameters():
            parameter.zero_()
    return torch.nn.Parameter(torch.ones(len(policy.info.joints))), actor, critic


def _new_training(std: torch.nn.Parameter, *networks: torch.nn.Module) -> dict[str, Any]:
    """Return what a checkpoint holds beside the networks at the start of a training."""
    optimizer = torch.optim.Adam([std, *(p for network in networks for p in network.parameters())])
    return {"optimizer_state_dict": optimizer.state_dict(), "iter": 0, "infos": None}


def description(policy: MlpPolicy, robot: RobotSpec) -> dict[str, Any]:
    """Return the data a controller needs to run a policy on its robot."""
    info, drive = policy.info, robot.drive
    return {
        "robot": robot.name, "source": info.source, "control_hz": info.control_hz,
        "input": {"name": "observation", "shape": ["batch", len(info.observations)], "order": list(info.observations)},
        "output": {"name": "action", "shape": ["batch", len(info.joints)], "order": list(info.joints)},
        "observation_normalizer": "inside the network; give it observations in SI units",
        "joint_target_rad": "default_joint_pos_rad + action_scale * action", "action_scale": info.action_scale,
        "default_joint_pos_rad": dict(zip(robot.joints, robot.default_joint_pos, strict=True)),
        "joint_pos_limits_rad": dict(zip(robot.joints, robot.joint_pos_limits, strict=True)),
        "stiffness_nm_per_rad": _by_joint(drive.stiffness, robot),
        "damping_nm_s_per_rad": _by_joint(drive.damping, robot),
        "effort_limit_nm": _by_joint(drive.effort_limit, robot),
        "notes": "joint_pos observations are relative to the default pose; the last action is the network's own output",
    }  # fmt: skip


def _by_joint(value: PerJoint, robot: RobotSpec) -> float | dict[str, float]:
    return dict(zip(robot.joints, value, strict=True)) if isinstance(value, list) else value


def _torchscript(policy: MlpPolicy, path: Path, observation: torch.Tensor, expected: np.ndarray) -> float:
    def write(temporary: Path) -> np.ndarray:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            packed = io.BytesIO()  # Where a disk is full, torch's own writer ends the process.
            torch.jit.save(torch.jit.trace(policy, observation[:1]), packed)
            temporary.write_bytes(packed.getbuffer())
            return torch.jit.load(str(temporary))(observation).numpy()

    return _commit_checked(path, write, expected)


def _onnx(policy: MlpPolicy, path: Path, observation: torch.Tensor, expected: np.ndarray) -> float:
    with optional_import("ONNX needs the packages onnxscript and onnxruntime", extra="onnx"):
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

    def write(temporary: Path) -> np.ndarray:
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                policy,
                (observation[:2],),
                dynamo=True,
                verbose=False,
                input_names=["observation"],
                output_names=["action"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            assert program is not None
            program.model.metadata_props["rwm"] = json.dumps(policy.info.model_dump(mode="json"))
            program.save(str(temporary))
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        (actions,) = session.run(None, {"observation": observation.numpy()})
        return np.asarray(actions)

    return _commit_checked(path, write, expected)


def _commit_checked(path: Path, write: Callable[[Path], np.ndarray], expected: np.ndarray) -> float:
    """Keep the file that ``write`` writes and runs, and return the largest difference of its actions.

    Raises:
        RwmError: The difference is above ``TOLERANCE``.
    """
    differences = []

    def write_and_compare(temporary: Path) -> None:
        difference = float(np.abs(write(temporary) - expected).max())
        if not difference <= TOLERANCE:
            raise RwmError(f"{path.name} would give actions that differ by {difference:.3g} (at most {TOLERANCE:g}).")
        differences.append(difference)

    commit_file(path, write_and_compare)
    return differences[0]
