"""Policies as files: safetensors with a JSON description inside, loadable without any RL library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError
from rwmdata.robots import Frozen, one_line

FORMAT = "rwm-policy-1"
METADATA_KEY = "rwm_policy"
ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}


class PolicyInfo(Frozen):
    """What a policy file says of itself."""

    robot: str
    observation_dim: int
    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str = "elu"
    source: str = ""
    """Run the policy comes from."""


class MlpPolicy(nn.Module):
    """Deterministic policy: normalised observation through an MLP to the mean action.

    ``forward`` maps observations ``(E, O)`` to actions ``(E, A)``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, info: PolicyInfo) -> None:
        super().__init__()
        self.info = info
        self.register_buffer("mean", torch.zeros(info.observation_dim))
        self.register_buffer("scale", torch.ones(info.observation_dim))
        sizes = (info.observation_dim, *info.hidden_dims)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[info.activation]()]
        self.mlp = nn.Sequential(*layers, nn.Linear(sizes[-1], info.action_dim))

    def forward(self, observation: Tensor) -> Tensor:
        """Return the mean action ``(E, A)`` for ``observation (E, O)``."""
        return self.mlp((observation - self.mean) / self.scale)


def save_policy(policy: MlpPolicy, path: Path) -> None:
    """Write a policy and its description to one file, atomically."""
    description = json.dumps({"format": FORMAT, "info": policy.info.model_dump(mode="json")})
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in policy.state_dict().items()}
    commit_file(path, lambda p: save_file(tensors, p, {METADATA_KEY: description}))


def load_policy(path: str | Path, robot: str | None = None) -> MlpPolicy:
    """Load a policy written by :func:`save_policy`, in evaluation mode, on the CPU.

    Args:
        path: The file.
        robot: Refuse a policy of another robot.

    Raises:
        RwmError: The file is missing, foreign or damaged, or of another robot.
    """
    path = Path(path)
    if not path.is_file():
        raise RwmError(f"There is no policy file {path}.", "rwm policy, or rwm runs ls --kind policy")
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as exc:
        raise _foreign(path) from exc
    if description is None:
        raise _foreign(path)
    try:
        raw: dict[str, Any] = json.loads(description)
        policy = MlpPolicy(PolicyInfo(**raw["info"]))
        policy.load_state_dict(tensors)
    except (ValidationError, KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise RwmError(f"The policy inside {path} is damaged: {one_line(exc)}.") from exc
    if robot is not None and policy.info.robot != robot:
        raise RwmError(
            f"{path} is a policy of '{policy.info.robot}', not of '{robot}'.", f"--robot {policy.info.robot}"
        )
    return policy.eval()


def _foreign(path: Path) -> RwmError:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        return RwmError(f"{path} is a Git LFS pointer, not the policy itself.", f"git lfs pull --include {path.name}")
    return RwmError(
        f"{path} is not a policy file of this toolkit.", "the checkpoints/policy.safetensors of a policy or train run"
    )
