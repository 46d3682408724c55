"""PPO by rsl_rl: our configuration mapped in one function, its runner kept thin around safe checkpoints and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rwmdata.atomic import commit_file
from rwmdata.errors import RwmError
from rwmdata.progress import Progress
from rwmdata.robots import Frozen
from rwmdata.runs import Run
from rwmrl.envs.base import Observations, VecEnv
from rwmrl.policy_file import MlpPolicy, PolicyInfo, save_policy

try:
    from rsl_rl.runners import OnPolicyRunner
    from rsl_rl.utils.logger import Logger
    from tensordict import TensorDict
except ImportError as exc:
    raise RwmError("PPO needs the package rsl-rl-lib, which is not installed.", "pip install 'rwm[rl]'") from exc

STATE_FILE = "state.pt"
"""Networks, optimiser and iteration: what a resumed run starts from."""
POLICY_FILE = "policy.safetensors"
NORMALIZER_EPS = 1e-2
"""What rsl_rl's empirical normalisation adds to the standard deviation it divides by."""


class PPOConfig(Frozen):
    """PPO settings (arXiv:2504.16680, PPO table)."""

    num_steps: int = Field(24, ge=1)
    """Steps per environment and iteration."""
    epochs: int = Field(5, ge=1)
    mini_batches: int = Field(4, ge=1)
    clip: float = 0.2
    gamma: float = 0.99
    gae_lambda: float = 0.95
    value_coef: float = 1.0
    entropy_coef: float = 0.005
    lr: float = 1e-3
    schedule: Literal["adaptive", "fixed"] = "adaptive"
    desired_kl: float = 0.01
    max_grad_norm: float = 1.0
    hidden_dims: tuple[int, ...] = (128, 128, 128)
    activation: Literal["elu", "relu", "tanh"] = "elu"
    init_std: float = Field(1.0, gt=0)
    obs_normalization: bool = True
    """Normalise observations by their running statistics."""
    checkpoint_interval: int = Field(50, ge=1)
    """Iterations between checkpoints."""


def to_rsl_rl(config: PPOConfig) -> dict[str, Any]:
    """Return rsl_rl's configuration; a new dict each time, because rsl_rl changes the one it is given."""
    network = {
        "class_name": "MLPModel", "hidden_dims": list(config.hidden_dims), "activation": config.activation,
        "obs_normalization": config.obs_normalization,
    }  # fmt: skip
    return {
        "num_steps_per_env": config.num_steps,
        "save_interval": config.checkpoint_interval,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {
            **network, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": config.init_std},
        },
        "critic": {**network},
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": config.epochs, "num_mini_batches": config.mini_batches,
            "clip_param": config.clip, "gamma": config.gamma, "lam": config.gae_lambda,
            "value_loss_coef": config.value_coef, "use_clipped_value_loss": True,
            "entropy_coef": config.entropy_coef, "learning_rate": config.lr, "schedule": config.schedule,
            "desired_kl": config.desired_kl, "max_grad_norm": config.max_grad_norm,
        },
    }  # fmt: skip


class RslVecEnv:
    """One of our environments in the form rsl_rl expects."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.num_envs, self.num_actions = env.num_envs, env.num_actions
        self.max_episode_length, self.device = env.max_episode_length, env.device
        self.cfg: dict[str, Any] = {}

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since the last reset, ``(E,)``."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.env.episode_length_buf = value

    def _pack(self, observations: Observations) -> TensorDict:
        return TensorDict({"policy": observations["policy"]}, batch_size=[self.num_envs], device=self.device)

    def get_observations(self) -> TensorDict:
        """Return the policy's observations."""
        return self._pack(self.env.get_observations())

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Step; time-outs are handed over so that their value is bootstrapped: they are not deaths."""
        # rsl_rl collects in inference mode, whose tensors could not be changed in place after training.
        with torch.inference_mode(False), torch.no_grad():
            step = self.env.step(actions.clone())
        extras = {"time_outs": step.truncated.float(), "log": step.log}
        return self._pack(step.observations), step.reward, step.done.long(), extras


class RunLogger(Logger):
    """rsl_rl's logger (TensorBoard), which also writes each iteration's numbers to the run and to the progress bar."""

    run: Run
    progress: Progress | None = None
    shown: tuple[str, ...] = ()

    def log(self, it: int, start_it: int, total_it: int, **numbers: Any) -> None:
        """Log one iteration; its text goes to ``train.log``."""
        metrics = {f"loss/{k}": float(v) for k, v in numbers["loss_dict"].items()}
        keys = dict.fromkeys(k for extras in self.ep_extras for k in extras)
        for key in keys:
            values = [torch.as_tensor(e[key], dtype=torch.float32).mean() for e in self.ep_extras if key in e]
            metrics[key] = float(torch.stack(values).mean())
        if self.rewbuffer:
            metrics["episode/return"] = sum(self.rewbuffer) / len(self.rewbuffer)
            metrics["episode/length"] = sum(self.lenbuffer) / len(self.lenbuffer)
        seconds = numbers["collect_time"] + numbers["learn_time"]
        metrics["policy/std"] = float(numbers["action_std"].detach().mean())
        metrics["policy/learning_rate"] = float(numbers["learning_rate"])
        metrics["perf/steps_per_second"] = self.cfg["num_steps_per_env"] * self.num_envs / seconds
        metrics["perf/collect_s"], metrics["perf/learn_s"] = numbers["collect_time"], numbers["learn_time"]
        with quiet(self.run.path):
            super().log(it, start_it, total_it, **numbers)
        self.run.log(it + 1, metrics)
        if self.progress:
            self.progress(it + 1, total_it, {k.split("/")[-1]: metrics[k] for k in self.shown if k in metrics})


class Runner(OnPolicyRunner):
    """rsl_rl's runner with checkpoints of tensors and numbers only, read without unpickling code.

    Args:
        env: The environment.
        config: PPO settings.
        run: Where metrics, checkpoints and TensorBoard files go.
        robot: Robot's name, for the policy file.
        seed: Seed of networks and exploration.
        progress: Told each iteration.
        shown: Metrics the progress shows.
    """

    def __init__(
        self,
        env: VecEnv,
        config: PPOConfig,
        run: Run,
        robot: str,
        seed: int,
        progress: Progress | None = None,
        shown: tuple[str, ...] = ("episode/return", "episode/length"),
    ) -> None:
        self.run, self.ppo, self.robot, self.seed = run, config, robot, seed
        torch.manual_seed(seed)
        with quiet(run.path):
            super().__init__(RslVecEnv(env), to_rsl_rl(config), str(run.path / "tensorboard"), str(env.device))
        self.logger.__class__ = RunLogger
        self.logger.run, self.logger.progress, self.logger.shown = run, progress, shown
        self.logger.git_status_repos = []
        self.completed = 0

    def train(self, iterations: int) -> None:
        """Train until ``iterations`` are done in all, from the last checkpoint if the run has one."""
        self._restore()
        self.run.truncate_metrics(self.completed)
        if self.completed >= iterations:
            return
        torch.manual_seed(self.seed + self.completed)
        with quiet(self.run.path):
            self.logger.init_logging_writer()
        self.logger.init_logging_writer = lambda: None
        self.learn(iterations - self.completed)

    def save(self, path: str, infos: dict | None = None) -> None:
        """Write the newest state and policy; ``path`` is rsl_rl's own choice and not used."""
        self.completed = self.current_learning_iteration + 1
        state = {**self.alg.save(), "completed": self.completed}
        commit_file(self.run.checkpoints / STATE_FILE, lambda p: torch.save(state, p))
        save_policy(self.policy(), self.run.checkpoints / POLICY_FILE)

    def policy(self) -> MlpPolicy:
        """Return the current mean policy, its normaliser included."""
        actor = self.alg.get_policy()
        info = PolicyInfo(
            robot=self.robot, observation_dim=actor.obs_dim, action_dim=self.env.num_actions,
            hidden_dims=self.ppo.hidden_dims, activation=self.ppo.activation, source=f"{self.run.kind} {self.run.id}",
        )  # fmt: skip
        policy = MlpPolicy(info)
        linear = [m for m in policy.mlp if isinstance(m, torch.nn.Linear)]
        source = [m for m in actor.mlp if isinstance(m, torch.nn.Linear)]
        with torch.no_grad():
            for ours, theirs in zip(linear, source, strict=True):
                ours.load_state_dict(theirs.state_dict())
            if self.ppo.obs_normalization:
                policy.mean.copy_(actor.obs_normalizer.mean)
                policy.scale.copy_(actor.obs_normalizer.std + NORMALIZER_EPS)
        return policy

    def _restore(self) -> None:
        path = self.run.checkpoints / STATE_FILE
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.alg.load(state, None, strict=True)
            self.completed = self.current_learning_iteration = int(state["completed"])
        except Exception as exc:  # Arbitrary bytes fail in any way an unpickler can.
            raise RwmError(f"The checkpoint {path} cannot be read: {type(exc).__name__}.", "start a new run") from exc


@contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """Send what rsl_rl prints to ``train.log`` in ``folder``."""
    with (folder / "train.log").open("a") as file, redirect_stdout(file):
        yield


def first_and_last(run: Run, metric: str) -> tuple[float | None, float | None]:
    """Return a metric's value at the first and at the last iteration that has it."""
    values = [m["value"] for m in run.metrics() if m["metric"] == metric]
    return (values[0], values[-1]) if values else (None, None)
