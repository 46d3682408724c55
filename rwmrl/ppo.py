"""PPO by rsl_rl: its runner with safe checkpoints and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rwmdata.errors import RwmError
from rwmdata.processes import HeldBack, held_back
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec
from rwmdata.runs import Checkpoint, Run, state_before
from rwmmodel.checkpoint import load_resumable, save_resumable, unreadable
from rwmmodel.devices import Precision
from rwmmodel.distributed import Ranks
from rwmrl.envs.base import VecEnv
from rwmrl.policy_file import save_policy
from rwmrl.policy_network import MlpPolicy, PolicyInfo, linear_layers
from rwmrl.ppo_config import PPOConfig
from rwmrl.rsl_config import keep_outputs, to_rsl_rl
from rwmrl.rsl_env import RslVecEnv, needing_rsl_rl
from rwmrl.run_logger import RunLogger, diverged
from rwmrl.snapshots import Snapshot
from rwmrl.symmetry import Mirror
from rwmrl.warm_start import AVERAGED, begin_with

with needing_rsl_rl():
    from rsl_rl.runners import OnPolicyRunner
    from rsl_rl.storage import RolloutStorage

LEAST_LR = 1e-5
"""Smallest learning rate that rsl_rl's adaptive schedule takes."""


class Companion(Protocol):
    """What is trained beside the policy, after every update of it.

    Attributes:
        joined: Iterations after which it may add environments; 0 where it adds none.
    """

    joined: int

    def begin(self, iteration: int) -> None:
        """Prepare for a part of the training that begins with iteration ``iteration``."""

    def learn(self, iteration: int) -> dict[str, float]:
        """Learn from what was collected in iteration ``iteration``; return what is to be logged."""

    def save(self, run: Run, completed: int) -> None:
        """Write its files, before the state that a resumed training goes on from."""

    def state(self, resumable: bool) -> Snapshot:
        """Return its part of that state; less where nobody is to resume from it."""

    def restore(self, run: Run, state: Snapshot, anew: bool) -> None:
        """Go on from a whole state, with new episodes where ``anew``; without one yet it says that nothing is done."""


class Runner(OnPolicyRunner):
    """rsl_rl's runner with checkpoints of tensors and numbers only, read without unpickling code.

    An interrupted training goes on as if it had not been, bit for bit on the CPU: checkpoints hold the environments'
    state, the random stream and the running episodes too. Where the environments cannot tell their state, were on
    another kind of device, or several processes train together, new episodes begin at a resume.

    Args:
        env: The environment.
        config: PPO settings.
        run: Where metrics, checkpoints and TensorBoard files go.
        robot: Described in the policy file.
        seed: Seed of networks and exploration.
        progress: Called after each iteration with the metrics ``shown``.
        shown: Names of metrics.
        ranks: Processes that train this policy together, each with environments of its own; the first one alone
            writes. Their group is joined already.
        companion: What is trained beside the policy.
        precision: Arithmetic of the networks' products in an update.

    Attributes:
        completed: Iterations in the newest checkpoint.
    """

    def __init__(
        self,
        env: VecEnv,
        config: PPOConfig,
        run: Run,
        robot: RobotSpec,
        seed: int,
        progress: Progress = silent,
        shown: tuple[str, ...] = ("episode/return", "episode/length"),
        ranks: Ranks = Ranks(),
        companion: Companion | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.companion = companion
        self.run, self.ppo, self.robot, self.seed, self.ranks = run, config, robot, seed, ranks
        self.completed = self._end = 0
        self._begin_anew = True
        torch.manual_seed(seed)
        with quiet(run.path):
            mirror = Mirror(robot, env.device) if config.symmetry else None
            super().__init__(RslVecEnv(env), to_rsl_rl(config, mirror, precision), device=str(env.device))
        if precision == "bfloat16":
            for network in (self.alg.actor, self.alg.critic):
                keep_outputs(network.mlp)
        training = {"cfg": self.cfg, "env_cfg": self.env.cfg, "num_envs": self.env.num_envs, "device": self.device}
        group = {name: getattr(self, name) for name in ("is_distributed", "gpu_world_size", "gpu_global_rank")}
        self.signals = HeldBack()
        self.logger = RunLogger(run, self._saving(progress), shown, **training, **group)
        averaging = get_ema_multi_avg_fn(config.ema)
        self.averaged = AveragedModel(self.alg.actor.mlp, multi_avg_fn=averaging) if config.ema else None
        self.alg.update = partial(self._update_all, self.alg.update)

    def train(self, iterations: int) -> None:
        """Train until ``iterations`` are done in all, from the last checkpoint if the run has one.

        The environments are expected as they are at the start of a training; a checkpoint replaces their state.

        Raises:
            RwmError: The checkpoint cannot be read, or PPO diverged; the last checkpoint stays.
            KeyboardInterrupt: A signal asked for the end; the iteration was ended and its state saved.
        """
        self._begin_anew = True
        self.env.current = None
        self._restore()
        if self.ranks.main:
            self.run.truncate_metrics(self.completed)
        if self.completed >= iterations:
            return
        if self._begin_anew:
            torch.manual_seed(self.ranks.seed(self.seed + self.completed))
        self.env.env.steps_done = self.completed * self.ppo.num_steps
        try:
            alone, joined = self.ppo.critic_first, self.companion.joined if self.companion else 0
            for end in sorted({min(end, iterations) for end in (alone, joined, iterations)}):
                with self._critic_alone() if end <= alone else nullcontext():
                    self._learn_until(end)
        except (RuntimeError, ValueError) as exc:
            networks = (self.alg.actor, self.alg.critic)
            if all(torch.isfinite(p).all() for network in networks for p in network.parameters()):
                raise
            raise diverged("the networks are not finite") from exc

    def _update_all(self, update: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Update the policy, its average and what is trained beside it; return the policy's losses."""
        losses = update()
        held = not next(self.alg.actor.parameters()).requires_grad
        if self.averaged and not held:
            self.averaged.update_parameters(self.alg.actor.mlp)
        if self.companion:
            self.logger.beside = self.companion.learn(self.env.env.steps_done // self.ppo.num_steps - 1)
        return losses

    def _learn_until(self, iterations: int) -> None:
        if self.completed < iterations:
            self._prepare()
            self._end = iterations
            self.current_learning_iteration = self.completed
            # Random ages at the start: otherwise all environments would time out in the same step, again and again.
            random_ages, self._begin_anew = self._begin_anew, False
            with quiet(self.run.path), held_back() as self.signals:
                self.learn(iterations - self.completed, init_at_random_ep_len=random_ages)
            self.completed = iterations

    def _saving(self, progress: Progress) -> Progress:
        """Return a progress callback after which the state is saved and the training ends, if a signal asked for it."""

        def after_iteration(done: int, total: int, numbers: dict[str, float]) -> None:
            progress(done, total, numbers)
            if self.signals.asked:
                # A stage is kept where it would have been, so that a resumed run has the same ones.
                due = self.current_learning_iteration % self.ppo.checkpoint_interval == 0 or done == self._end
                self.save("") if due else self._save()
                self.signals.end()

        return after_iteration

    def _prepare(self) -> None:
        """Make room for environments that a companion has added."""
        if self.companion:
            self.companion.begin(self.completed)
        count = self.env.num_envs
        if count == self.alg.storage.num_envs:
            return
        if self.env.current is not None and len(self.env.current) != count:
            self.env.current = None
        self.logger.num_envs = count
        obs, steps = self.env.get_observations(), self.ppo.num_steps
        self.alg.storage = RolloutStorage("rl", count, steps, obs, [self.env.num_actions], self.device)

    def _configure_multi_gpu(self) -> None:
        """Tell rsl_rl which processes train together; its own group would support NVIDIA GPUs only."""
        r = self.ranks
        self.is_distributed, self.gpu_world_size, self.gpu_global_rank = r.world > 1, r.world, r.rank
        together = {"global_rank": r.rank, "local_rank": r.rank, "world_size": r.world}
        self.cfg["multi_gpu"] = together if self.is_distributed else None

    @contextmanager
    def _critic_alone(self) -> Iterator[None]:
        """Let the actor stay as it is, exploration and normaliser included.

        The learning rate is fixed, as there is no KL to adapt it to; afterwards the actor begins with the smallest. It
        grows within an iteration or two, and the first steps, which Adam makes as large as the rate whatever the
        gradient, leave the actor what it was.
        """
        actor, schedule, normalized = self.alg.actor, self.alg.schedule, self.alg.actor.obs_normalization
        self.alg.schedule = "fixed"
        actor.requires_grad_(False)
        actor.obs_normalization = False  # It still normalises, but its statistics are not updated.
        try:
            yield
        finally:
            self.alg.schedule, actor.obs_normalization = schedule, normalized
            actor.requires_grad_(True)
            if schedule == "adaptive" and self.completed == self.ppo.critic_first:
                self.alg.learning_rate = LEAST_LR

    def save(self, path: str, infos: dict | None = None) -> None:
        """Write the newest state and policy, and the policy as a stage; ``path`` is rsl_rl's choice and not used."""
        save_policy(self.policy(), self.run.stage_file(self.current_learning_iteration + 1))
        self._save()

    def _save(self) -> None:
        self.completed = self.current_learning_iteration + 1
        save_policy(self.policy(), self.run.policy_file)
        if self.companion:
            self.companion.save(self.run, self.completed)
        # Last: a resumed run must not start ahead of the policies on disk.
        self._save_state(self._moment())

    def forget(self) -> None:
        """Leave out of the state file what only a resumed training needs: the environments with all they keep."""
        self._save_state(None, resumable=False)
        state_before(self.run.state_file).unlink(missing_ok=True)

    def _save_state(self, moment: Snapshot | None, resumable: bool = True) -> None:
        beside = self.companion.state(resumable) if self.companion else {}
        if self.averaged:
            beside = {**beside, AVERAGED: self.averaged.state_dict()}
        state = {**self.alg.save(), **beside, "completed": self.completed, "moment": moment}
        self.run.sync()
        save_resumable(self.run.state_file, state)

    def _moment(self) -> Snapshot | None:
        """Return what the next iteration depends on beside the networks, if all of it can be told."""
        env = self.env.state() if self.ranks.world == 1 else None
        if env is None:
            return None
        device, random = torch.device(self.device), {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return {"device": device.type, "environments": env, "random": random, "logger": self.logger.state()}

    def _return_to(self, moment: Snapshot) -> None:
        """Put back what :meth:`_moment` returned."""
        self.env.restore(moment["environments"])
        self.logger.restore(moment["logger"])
        torch.set_rng_state(moment["random"]["cpu"].cpu())
        if "cuda" in moment["random"]:
            torch.cuda.set_rng_state(moment["random"]["cuda"].cpu(), torch.device(self.device))
        self._begin_anew = False

    def policy(self) -> MlpPolicy:
        """Return the current mean policy, averaged if configured, with its normaliser."""
        actor = self.alg.get_policy()
        mlp = self.averaged.module if self.averaged and self.averaged.n_averaged else actor.mlp
        source = f"{self.run.kind} {self.run.id}"
        with torch.random.fork_rng(devices=[]):  # Initial weights are random; saving must not advance the stream.
            policy = MlpPolicy(PolicyInfo.of(self.robot, self.ppo.hidden_dims, self.ppo.activation, source))
        with torch.no_grad():
            for ours, theirs in zip(linear_layers(policy.mlp), linear_layers(mlp), strict=True):
                ours.load_state_dict(theirs.state_dict())
            if self.ppo.obs_normalization:
                policy.mean.copy_(actor.obs_normalizer.mean)
                policy.scale.copy_(actor.obs_normalizer.std + actor.obs_normalizer.eps)
        return policy

    def warm_start(self, source: Checkpoint) -> None:
        """Begin with another run or policy, see :func:`~rwmrl.warm_start.begin_with`.

        A run with a checkpoint of its own continues from that instead.
        """
        begin_with(source, self.alg.actor, self.alg.critic, self.robot, self.ppo)

    def _restore(self) -> None:
        path = self.run.state_file
        if not path.exists():
            if self.companion:
                self.companion.restore(self.run, {"completed": 0}, anew=True)
            return
        state = load_resumable(path, torch.device(self.device))
        try:
            self.alg.load(state, None, strict=True)
            if self.averaged:
                self.averaged.load_state_dict(state[AVERAGED])
            self.completed = self.current_learning_iteration = int(state["completed"])
            moment = state.get("moment")
            known = self.ranks.world == 1 and moment and moment["device"] == torch.device(self.device).type
            if moment and known and self.env.env.state() is not None:
                self._return_to(moment)
            if self.companion:
                self.companion.restore(self.run, state, self._begin_anew)
        except RwmError:
            raise
        except Exception as exc:
            raise unreadable(path, exc) from exc


@contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """Redirect rsl_rl's output to ``train.log`` in ``folder``."""
    with (folder / "train.log").open("a") as file, redirect_stdout(file):
        yield
