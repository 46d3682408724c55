"""Model-free offline baselines by the library d3rlpy: CQL (arXiv:2006.04779) and IQL (arXiv:2110.06169)."""

from __future__ import annotations

import io
import math
from contextlib import redirect_stderr
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from rwmdata.catalog import Dataset
from rwmdata.config import Frozen, build
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.optional import optional_import
from rwmdata.processes import held_back
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.runs import Run
from rwmdata.windows import WindowSampler, split_starts
from rwmmodel.checkpoint import load_resumable, save_resumable, unreadable
from rwmmodel.devices import resolve_device
from rwmmodel.updates import seed_of
from rwmrl.observations import add_noise, noise_scale
from rwmrl.policy_file import save_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo, linear_layers
from rwmrl.transitions import Transitions

DEFAULTS: dict[str, dict[str, float]] = {"cql": {"alpha_learning_rate": 0.0, "n_action_samples": 4}, "iql": {}}
"""Departures from the library's defaults: CQL's weight is fixed instead of tuned on the fly, and fewer actions are
sampled to estimate its penalty, which is half its cost."""
MEASURED = 20_000
"""Most transitions used for held-out numbers and observation statistics."""


class OfflineRLConfig(Frozen):
    """Options of :func:`train_offline_rl`."""

    presets: ClassVar = {"cql": {"algo": "cql", "updates": 6_000}, "iql": {"algo": "iql", "updates": 20_000}}
    """Minutes on a laptop, a hundredth of the papers' updates."""

    algo: Literal["cql", "iql"]
    updates: int = Field(ge=1)
    batch: int = Field(256, ge=1)
    hidden_dims: tuple[int, ...] = Field((128, 128, 128), min_length=1)
    """Of actor and critics; the size of the policies trained in imagination."""
    gamma: float = Field(0.99, ge=0, le=1)
    command: Literal["auto", "recorded", "hindsight"] = "auto"
    """As for behaviour cloning."""
    noise: bool = True
    """The policy's observation noise, as in the simulator and in imagination."""
    options: dict[str, bool | int | float] = {}
    """Numbers of the library's own configuration, by its names: ``expectile``, ``conservative_weight``, ..."""
    log_interval: int = Field(250, ge=1)
    """Updates between logged numbers."""
    checkpoint_interval: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)
    device: str = "auto"
    wandb: str | None = None
    """Project of Weights & Biases the metrics go to as well."""


def train_offline_rl(
    home: Home,
    dataset: Dataset,
    config: OfflineRLConfig | None = None,
    progress: Progress = silent,
    resume: Run | None = None,
) -> Run:
    """Train a policy on the recorded transitions of the train split, without a model.

    The library does the learning; transitions, seeds, checkpoints and metrics are ours, so that a resumed run ends with
    the same weights (on the CPU). Rewards are those of :func:`~rwmrl.transitions.recorded_rewards`, per second.

    Raises:
        RwmError: d3rlpy is missing or does not know an option, a split has no transition, or training diverged.
        KeyboardInterrupt: Passed on after the state was saved; the run can be resumed.
    """
    config = resume.configuration(OfflineRLConfig) if resume else config or build(OfflineRLConfig, "iql")
    learner = Learner(dataset, config)
    parents: dict[str, str | None] = {"dataset": home.name_of(dataset)}
    run = resume or Run.create(home, "policy", config.model_dump(mode="json"), parents, config.seed)
    with run.running():
        learner.restore(run)
        run.truncate_metrics(learner.done)
        with held_back() as signals:
            while learner.done < config.updates:
                losses = learner.update()
                broken = [f"{k} is {v}" for k, v in losses.items() if not math.isfinite(v)]
                if broken:
                    fault = f"{config.algo} diverged: {'; '.join(broken)}"
                    raise RwmError(f"{fault}. The last checkpoint stays.", "another seed")
                if learner.due(config.log_interval):
                    held_out = learner.score()
                    run.log(learner.done, {f"loss/{k}": v for k, v in losses.items()} | held_out)
                    progress(learner.done, config.updates, {k.removeprefix("val/"): v for k, v in held_out.items()})
                if learner.due(config.checkpoint_interval) or signals.asked:
                    learner.save(run)
                    signals.end()
        chosen = config.model_dump(include={"algo", "updates"})
        about = {"robot": dataset.robot, **chosen, "command": learner.data.source}
        run.finish(about | {k.replace("/", "_"): v for k, v in learner.score().items()})
    return run


class Learner:
    """One of d3rlpy's algorithms on a dataset's transitions.

    All random numbers of an update are a function of (seed, update), so no generator is kept.

    Attributes:
        algo: The library's object.
        data: The transitions.
        done: Updates so far.

    Raises:
        RwmError: d3rlpy is missing, an option is unknown to it, or a split has no transition.
    """

    def __init__(self, dataset: Dataset, config: OfflineRLConfig) -> None:
        self.config = config
        library()
        starts = {split: split_starts(dataset, split, 2) for split in ("train", "val")}
        self.robot = load_robot(dataset.robot)
        # The library takes arrays, and moves each batch itself.
        self.data = Transitions(dataset, config.command, torch.device("cpu"))
        self.sampler = WindowSampler(starts["train"], config.seed)
        self.held_out = WindowSampler(starts["val"], config.seed).draw(0, min(len(starts["val"]), MEASURED))
        self.noise = noise_scale(dataset.schema, torch.device("cpu"))
        seen = self.data.observations(self.sampler.draw(0, min(len(starts["train"]), MEASURED)))
        self.mean, self.std = seen.mean(dim=0), seen.std(dim=0)
        actions = self.data.actions(starts["train"])
        self.low, self.high = actions.amin(dim=0), actions.amax(dim=0)
        self.device = resolve_device(config.device)
        torch.manual_seed(config.seed)
        self.algo = self._create()
        self.done = 0

    def _create(self) -> Any:
        d3, config = library(), self.config
        kind = {"cql": d3.algos.CQLConfig, "iql": d3.algos.IQLConfig}[config.algo]
        own = DEFAULTS[config.algo] | config.options
        numbers = {k for k, v in vars(kind()).items() if isinstance(v, bool | int | float)}
        unknown = sorted(set(own) - (numbers - {"batch_size", "gamma"}))
        if unknown:
            fault = f"d3rlpy's {config.algo} has no number {', '.join(unknown)}"
            raise RwmError(f"{fault}; it has {', '.join(sorted(numbers))}.", "--set options.NAME=VALUE")
        network = d3.models.VectorEncoderFactory(hidden_units=list(config.hidden_dims))
        networks = {k: network for k in vars(kind()) if k.endswith("_encoder_factory")}
        scalers = {
            "observation_scaler": d3.preprocessing.StandardObservationScaler(self.mean.numpy(), self.std.numpy()),
            "action_scaler": d3.preprocessing.MinMaxActionScaler(self.low.numpy(), self.high.numpy()),
            "reward_scaler": d3.preprocessing.MultiplyRewardScaler(1.0 / self.robot.control_dt_s),
        }
        d3_config = kind(batch_size=config.batch, gamma=config.gamma, **networks, **own, **scalers)
        algo = d3_config.create(device=f"{self.device.type}:{self.device.index or 0}")
        algo.create_impl((len(self.mean),), len(self.low))
        return algo

    def due(self, interval: int) -> bool:
        """Return whether an action taken every ``interval`` updates and at the end is due."""
        return self.done % interval == 0 or self.done == self.config.updates

    def batch(self, first: np.ndarray, generator: torch.Generator | None = None) -> Any:
        """Return transitions as the library takes them, with observation noise when there is a generator."""
        transitions = self.data.batch(first)
        seen, seen_next = transitions.observation, transitions.next_observation
        if generator:
            seen, seen_next = (add_noise(x, self.noise, generator) for x in (seen, seen_next))
        columns = {"observations": seen, "actions": transitions.action, "rewards": transitions.reward[:, None]}
        columns |= {"next_observations": seen_next, "next_actions": transitions.next_action}
        columns |= {"terminals": transitions.terminal[:, None].float(), "intervals": torch.ones(len(first), 1)}
        return library().dataset.TransitionMiniBatch(**{k: v.numpy() for k, v in columns.items()}, transitions=[])

    def update(self) -> dict[str, float]:
        """Make one update and return its losses."""
        config = self.config
        seed = seed_of(config.seed, self.done)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed) if config.noise else None
        first = self.sampler.draw(self.done, min(config.batch, len(self.sampler.starts)))
        losses = self.algo.update(self.batch(first, generator))
        self.done += 1
        return {k: float(v) for k, v in losses.items()}

    def score(self) -> dict[str, float]:
        """Return the policy's error on held-out actions and the value the critics expect there."""
        seen = self.data.observations(self.held_out).numpy()
        actions = self.algo.predict(seen)
        error = np.square(actions - self.data.actions(self.held_out).numpy()).mean()
        return {"val/action_mse": float(error), "val/value": float(self.algo.predict_value(seen, actions).mean())}

    def policy(self, source: str = "") -> MlpPolicy:
        """Return the actor as a policy of this toolkit that takes the same actions.

        The library's action is ``low + (high - low) (tanh(y) + 1) / 2`` with y from the actor's network; here that is a
        hidden layer of tanh units, one per joint, and a last layer that scales them.
        """
        sizes = (*self.config.hidden_dims, len(self.low))
        # The actor of CQL has one more layer, for the width of its distribution.
        linear = linear_layers(self.algo.impl.policy)[: len(sizes)]
        info = PolicyInfo.of(self.robot, sizes, "relu", source).model_copy(update={"last_activation": "tanh"})
        policy = MlpPolicy(info)
        ours = linear_layers(policy.mlp)
        with torch.no_grad():
            for layer, trained in zip(ours, linear, strict=False):
                layer.load_state_dict(trained.state_dict())
            ours[-1].weight.copy_(torch.diag((self.high - self.low) / 2))
            ours[-1].bias.copy_((self.high + self.low) / 2)
            policy.mean.copy_(self.mean)
            policy.scale.copy_(self.std + self.algo.config.observation_scaler.eps)
        return policy.eval()

    def save(self, run: Run) -> None:
        """Write the newest policy, then the state a resumed run starts from."""
        save_policy(self.policy(f"policy {run.id}"), run.policy_file)
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        run.sync()
        save_resumable(run.state_file, {"completed": self.done, "parts": parts})

    def restore(self, run: Run) -> None:
        """Go back to the run's last checkpoint, if it has one.

        Raises:
            RwmError: It cannot be read, or is of another network.
        """
        path = run.state_file
        if not path.exists():
            return
        state = load_resumable(path, self.device)
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state["parts"][name])
            self.done = int(state["completed"])
        except (KeyError, TypeError, ValueError, RuntimeError) as exc:
            raise unreadable(path, exc) from exc
        self.algo.set_grad_step(self.done)

    def _parts(self) -> dict[str, Any]:
        """Return the library's networks and optimisers by name."""
        return self.algo.impl.modules.create_checkpointer(str(self.device)).modules


def library() -> Any:
    """Return the package d3rlpy.

    Raises:
        RwmError: It is not installed.
    """
    need, advice = "CQL and IQL need the package d3rlpy", " in an environment of its own"
    # One of its dependencies prints a warning about its own age.
    with optional_import(need, extra="d3rlpy", advice=advice), redirect_stderr(io.StringIO()):
        import d3rlpy
    return d3rlpy
