"""How long would the paper's sizes take on this device? Updates, imagination and PPO, beside what its products need."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from reports.bench.fit import BenchFitConfig, bench_fit, random_problem, update_flops
from reports.bench.imagine import BenchImagineConfig, bench_imagine
from reports.bench.measure import BenchRow, content_of
from reports.bench.peak import matrix_peak
from rwmdata.config import Frozen, build
from rwmdata.progress import Progress, silent
from rwmmodel.devices import Precision, reduced_precisions, resolve_device
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import LossConfig, ensemble_loss
from rwmrl.policy_config import PolicyConfig

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


class BenchGpuConfig(Frozen):
    """Options of :func:`bench_gpu`; the sizes are those of RWM-U's Tables S7 and S10."""

    robot: str = "anymal_d"
    hidden: int = Field(256, ge=1)
    batch: int = Field(1024, ge=1)
    """Windows of an update."""
    robots: int = Field(8192, ge=1)
    """Imagined side by side."""
    steps: int = Field(24, ge=1)
    """Of every robot in an iteration."""
    repeats: int = Field(3, ge=1)
    """The fastest of so many counts."""
    device: str = "auto"
    seed: int = 0


def bench_gpu(config: BenchGpuConfig | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Time what ``rwm bench fit`` and ``rwm bench imagine`` time, at the paper's sizes, and what whole trainings take.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: the rows of both, then for every arithmetic the
        minutes of the ``paper`` preset's updates beside those its matrix products alone would need, and those of its
        iterations; on a GPU also how many kernels an update launches.
    """
    config = config or BenchGpuConfig()
    device = resolve_device(config.device)
    alike = config.model_dump(include={"robot", "hidden", "repeats", "seed", "device"})
    fitting = BenchFitConfig(batch=config.batch, **alike)
    fit = bench_fit(fitting, progress)
    imagine = bench_imagine(BenchImagineConfig(num_envs=(config.robots,), steps=config.steps, **alike), progress)
    rows = [*_rows(fit), *_rows(imagine)]
    values = {row.name: row.value for row in rows}
    updates, iterations = build(FitConfig, "paper").updates, build(PolicyConfig, "paper").iterations
    model = random_problem(fitting.model_copy(update={"batch": 1}), device)[0]
    windows, steps = updates * config.batch, iterations * config.steps * config.robots
    precisions: tuple[Precision, ...] = ("float32", *reduced_precisions(device))
    for precision in precisions:
        floor = windows * update_flops(fitting, model) / matrix_peak(device, precision)
        whole = windows / (values[f"ours, {precision}"] or 1.0)
        rows.append(BenchRow(f"{updates:,} updates, {precision}: beside their products", whole / 60, "min", floor / 60))
        speed = values[f"iteration, {config.robots} environments: ours, {precision}"] or 1.0
        rows.append(BenchRow(f"{iterations:,} iterations, {precision}", steps / speed / 60, "min"))
    if device.type == "cuda":
        rows.append(BenchRow("kernels launched by an update", launches(fitting, device), "1"))
    return content_of("gpu", rows, device=str(device), threads=torch.get_num_threads())


def launches(config: BenchFitConfig, device: torch.device) -> int:
    """Return how many kernels an update of the loss and its gradient launches on a CUDA device."""
    model, windows, noise, _drawn, weights = random_problem(config, device)

    def loss() -> Tensor:
        return ensemble_loss(model, windows, LossConfig(), noise, weights).total

    loss().backward()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        loss().backward()
        torch.cuda.synchronize(device)
    return sum(event.count for event in profile.key_averages() if event.key in LAUNCHES)


def _rows(content: dict[str, Any]) -> list[BenchRow]:
    return [BenchRow(r["name"], r["value"], r["unit"], r["baseline"]) for r in content["rows"]]
