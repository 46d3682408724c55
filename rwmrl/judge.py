"""What a model thinks of a policy: return, falls, tilt and uncertainty of long imagined walks; no simulator needed.

Meant for a model the policy was not trained in: a policy learns to exploit its own model's errors, and hardly those of
another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec
from rwmdata.runs import Checkpoint
from rwmdata.text import quoted
from rwmmodel.checkpoint import load_model
from rwmmodel.ensemble import DynamicsEnsemble
from rwmrl.behaviour_base import Behaviour
from rwmrl.behaviours import PolicyBehaviour
from rwmrl.control_loop import play
from rwmrl.envs.imagination import ImaginationConfig, ImaginationEnv
from rwmrl.policy_network import MlpPolicy

TILTED_COS = 0.866
"""A base is tilted where the downward part of projected gravity is less than this: beyond 30 degrees."""


class JudgeConfig(Frozen):
    """Options of :class:`Judge`."""

    episodes: int = Field(256, ge=2)
    """Imagined episodes, one for each robot."""
    steps: int = Field(500, ge=1)
    """Control steps of an episode: longer than those a policy is trained in, for what goes wrong late."""
    fallen_deg: float = Field(60.0, gt=0, lt=180)
    """A robot tilted this far counts as fallen, and earns nothing from then on: models let robots live on that lie on
    the ground."""
    seed: int = 0


@dataclass(frozen=True)
class Judgement:
    """Numbers of every imagined episode, each ``(episodes,)``."""

    reward: np.ndarray
    """Unpenalised reward up to the fall, over the longest length: a step."""
    fell: np.ndarray
    """1 for a predicted termination, or a base tilted by ``fallen_deg``."""
    tilted: np.ndarray
    """Share of the states before a predicted termination that are tilted beyond 30 degrees."""
    epistemic: np.ndarray
    """Mean epistemic uncertainty a step, up to the fall."""

    def means(self) -> dict[str, float]:
        """Return the mean over the episodes of each number, and the share of episodes without a fall."""
        return {
            "judged_reward": float(self.reward.mean()),
            "judged_share_without_fall": float(1 - self.fell.mean()),
            "judged_tilted": float(self.tilted.mean()),
            "judged_epistemic": float(self.epistemic.mean()),
        }


class Judge:
    """Lets policies walk in a model and scores them, all on the same starts, commands, members, pushes and noise.

    Args:
        model: The judging model.
        dataset: Its train split gives the starts.
        robot: Gives the rewards.
        config: Options.
    """

    def __init__(
        self, model: DynamicsEnsemble, dataset: Dataset, robot: RobotSpec, config: JudgeConfig | None = None
    ) -> None:
        self.config = config or JudgeConfig()
        imagination = ImaginationConfig(
            num_envs=self.config.episodes, episode_steps=self.config.steps, lam=0.0, seed=self.config.seed
        )
        self.env = ImaginationEnv(model, dataset, robot, imagination)

    def of_policy(self, policy: MlpPolicy) -> Judgement:
        """Return what the model thinks of a policy's mean actions."""
        return self(PolicyBehaviour(policy.to(self.env.device).eval(), self.env.num_envs, "judged"))

    @torch.no_grad()
    def __call__(self, behaviour: Behaviour, progress: Progress = silent) -> Judgement:
        """Return what the model thinks of a behaviour; unsound predictions count as falls."""
        env, steps = self.env, self.config.steps
        env.reseed()
        down = env.schema.group("projected_gravity").stop - 1
        fallen_cos = float(np.cos(np.deg2rad(self.config.fallen_deg)))
        running, living = (torch.ones(env.num_envs, device=env.device) for _ in range(2))
        reward, epistemic, walked, tilted, lived = (torch.zeros_like(running) for _ in range(5))
        for k, played in enumerate(play(env, behaviour, steps)):
            step = played.step
            upright = -step.transition[:, down]
            tilted += living * (upright < TILTED_COS)
            lived += living
            ended = step.done if k + 1 < steps else step.terminated  # No time limit before: what is cut was unsound.
            running *= (~ended & (upright > fallen_cos)).float()
            living *= (~ended).float()
            reward += running * step.reward
            epistemic += running * env.epistemic
            walked += running
            progress(k + 1, steps, {"fallen": float(env.num_envs - running.sum())})
        return Judgement(
            *(
                part.cpu().numpy().astype(np.float64)
                for part in (reward / steps, 1 - running, tilted / lived, epistemic / walked.clamp(min=1))
            )
        )


def judge_of(
    home: Home,
    checkpoint: Checkpoint,
    dataset: Dataset,
    robot: RobotSpec,
    name: str,
    config: JudgeConfig,
    device: torch.device,
) -> Judge:
    """Return the judge of policies that are trained in ``checkpoint``.

    Raises:
        RwmError: There is no such model, it is that very one, or it does not fit the dataset.
    """
    chosen = home.model(name)
    if chosen.id == checkpoint.id:
        fault = f"Model {chosen.id} cannot judge the policies that are trained in it"
        raise RwmError(f"{fault}.", f"rwm fit {quoted(dataset.name)} --seed 1")
    return Judge(load_model(chosen.file, device), dataset, robot, config)
