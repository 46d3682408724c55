"""What a PPO training logs: to TensorBoard by rsl_rl, to the run's metrics, and to the progress bar."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rwmdata.errors import RwmError
from rwmdata.progress import Progress
from rwmdata.runs import Run
from rwmrl.rsl_env import needing_rsl_rl
from rwmrl.snapshots import Snapshot, copies, put_back

with needing_rsl_rl():
    from rsl_rl.utils.logger import Logger

RUNNING = ("cur_reward_sum", "cur_episode_length")
"""Tensors of rsl_rl's logger about the running episodes."""


class RunLogger(Logger):
    """rsl_rl's logger (TensorBoard), which also writes each iteration's numbers to the run and to the progress bar.

    The environment's logged values are averaged over an iteration; names ending in ``_max`` and ``_count`` take the
    maximum and the sum. ``progress`` gets the metrics ``shown``; ``options`` are rsl_rl's own arguments.
    """

    def __init__(self, run: Run, progress: Progress, shown: tuple[str, ...], **options: Any) -> None:
        super().__init__(log_dir=str(run.path / "tensorboard"), **options)
        self.run, self.progress, self.shown = run, progress, shown
        self.git_status_repos: list[str] = []
        self.beside: dict[str, float] = {}
        """What is logged of what is trained beside the policy."""

    def init_logging_writer(self) -> None:
        """Open TensorBoard's file."""
        if not self.disable_logs:
            super().init_logging_writer()

    def state(self) -> Snapshot:
        """Return returns and lengths of the last episodes, and those of the running ones so far."""
        return {"returns": list(self.rewbuffer), "lengths": list(self.lenbuffer), **copies(self, RUNNING)}

    def restore(self, state: Snapshot) -> None:
        """Go on from a :meth:`state`."""
        for buffer, saved in ((self.rewbuffer, state["returns"]), (self.lenbuffer, state["lengths"])):
            buffer.clear()
            buffer.extend(saved)
        put_back(self, RUNNING, state)

    def process_env_step(self, rewards: Tensor, dones: Tensor, extras: dict, intrinsic: Tensor | None = None) -> None:
        """Add a step's numbers to the buffers; of returns and lengths only those of simulated robots, if any are."""
        count = len(self.cur_reward_sum)
        super().process_env_step(rewards[:count], dones[:count], extras, intrinsic)

    def log(self, it: int, start_it: int, total_it: int, **numbers: Any) -> None:
        """Log one iteration; its text is printed.

        Raises:
            RwmError: A loss or the exploration is not finite.
        """
        if self.disable_logs:
            return
        metrics = {f"loss/{k}": float(v) for k, v in numbers["loss_dict"].items()}
        metrics["policy/std"] = float(numbers["action_std"].detach().mean())
        metrics["policy/learning_rate"] = float(numbers["learning_rate"])
        broken = [f"{k} is {v}" for k, v in metrics.items() if not math.isfinite(v)]
        for key in dict.fromkeys(k for step in self.ep_extras for k in step):
            metrics[key] = _reduce(key, [step[key] for step in self.ep_extras if key in step])
        if self.rewbuffer:
            metrics["episode/return"] = sum(self.rewbuffer) / len(self.rewbuffer)
            metrics["episode/length"] = sum(self.lenbuffer) / len(self.lenbuffer)
        seconds = numbers["collect_time"] + numbers["learn_time"]
        metrics["perf/steps_per_second"] = self.cfg["num_steps_per_env"] * self.num_envs * self.gpu_world_size / seconds
        metrics["perf/collect_s"], metrics["perf/learn_s"] = numbers["collect_time"], numbers["learn_time"]
        metrics |= self.beside
        super().log(it, start_it, total_it, **numbers)
        for key, value in self.beside.items():
            self.writer.add_scalar(key, value, it)
        self.run.log(it + 1, metrics)
        if broken:
            raise diverged("; ".join(broken))
        self.progress(it + 1, total_it, {k.split("/")[-1]: metrics[k] for k in self.shown if k in metrics})


def diverged(how: str) -> RwmError:
    """Return the error of a training whose numbers are no longer finite."""
    return RwmError(f"PPO diverged: {how}. The last checkpoint stays.", "a lower learning rate")


def _reduce(key: str, values: list[float | Tensor]) -> float:
    """Reduce one iteration's values of a logged number, each a scalar or ``(n,)``, to one."""
    joined = torch.cat([torch.as_tensor(v, dtype=torch.float32).reshape(-1) for v in values])
    if key.endswith("_max"):
        return float(joined.max())
    return float(joined.sum() if key.endswith("_count") else joined.mean())
