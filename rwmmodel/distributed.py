"""One training on several processes: ``torchrun --nproc-per-node 2 -m cli fit`` or ``policy``.

In a fit every process holds the whole model and the whole dataset, draws the same batch and the same noise, and
processes its share of the batch. Gradients are summed, so a fit on two processes takes the same steps as one process
would on the same batch, but for rounding. In policy training every process imagines its own robots, and rsl_rl averages
gradients and statistics. Only the first process validates and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's rank in its group; a group of one needs no torchrun and no communication."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """Return the rank and group size that torchrun gave this process."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def main(self) -> bool:
        """Whether this process validates, writes and reports."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Return this process's seed for draws that must differ between processes; rank 0 keeps the one given."""
        return seed + self.rank * 1_000_003

    def device(self, device: torch.device) -> torch.device:
        """Return this process's device: a GPU of its own unless one was named."""
        if self.world > 1 and device.type == "cuda" and device.index is None:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return device

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Join the process group, over NCCL on GPUs or gloo on CPUs, and leave it at the end.

        A process that exits without leaving may be aborted by group threads that are still running.
        """
        joining = self.world > 1 and not dist.is_initialized()
        if joining:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # NCCL uses the current device; two processes must not share one.
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            if joining:
                dist.destroy_process_group()

    def share(self, value: T) -> T:
        """Return the main process's ``value`` on all processes."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def sum_gradients(self, parameters: Iterable[nn.Parameter], extra: Tensor) -> Tensor:
        """Sum the gradients over all processes, in place; return ``extra (n,)`` summed in the same message."""
        if self.world == 1:
            return extra
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(grad.flatten() for grad in grads), extra.to(grads[0].dtype)])
        dist.all_reduce(flat)
        *parts, summed = flat.split([*(grad.numel() for grad in grads), len(extra)])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
        return summed
