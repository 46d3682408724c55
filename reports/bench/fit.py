"""How fast is an update? Beside the obvious way: every member runs the whole window on its own, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rwmdata.config import Frozen
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmmodel.data import Windows
from rwmmodel.devices import Precision, reduced_precisions, resolve_device, use_precision
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.heads import StackedMLP
from rwmmodel.loss import LossConfig, draw_noise, ensemble_loss

PEAK_SIZE = 2048
BACKWARD = 3
"""A forward and a backward pass multiply about three times as much as a forward pass."""


class BenchFitConfig(Frozen):
    """Options of :func:`bench_fit`; the architecture is RWM-U's."""

    robot: str = "anymal_d"
    members: int = Field(5, ge=1)
    hidden: int = Field(256, ge=1)
    history: int = Field(32, ge=2)
    forecast: int = Field(8, ge=1)
    batch: int = Field(1000, ge=1)
    repeats: int = Field(3, ge=1)
    """The fastest of so many updates counts."""
    device: str = "auto"
    seed: int = 0


def bench_fit(config: BenchFitConfig | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Time updates (loss, gradient, Adam) on random windows.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: windows a second of both ways, how far their losses
        are apart under the same noise and bootstrap, and the share of the measured matrix peak.
    """
    c = config or BenchFitConfig()
    device = resolve_device(c.device)
    model, windows, noise, drawn, weights = _setting(c, device)

    def ours() -> Tensor:
        return ensemble_loss(model, windows, LossConfig(), noise, weights).total

    def obvious() -> Tensor:
        return per_member_loss(model, windows, noise, drawn)

    difference = abs(float(ours().detach() / obvious().detach()) - 1)
    work: list[tuple[str, Precision, Callable[[], Tensor]]] = [
        ("every member by itself, float32", "float32", obvious),
        ("ours, float32", "float32", ours),
    ]
    work += [(f"ours, {precision}", precision, ours) for precision in reduced_precisions(device)]
    speeds: dict[str, float] = {}
    for k, (name, precision, loss) in enumerate(work):
        use_precision(precision, device)
        model.precision = precision
        speeds[name] = c.batch / _seconds(model, loss, c.repeats, device)
        progress(k + 1, len(work), {"windows/s": speeds[name]})
    base = speeds["every member by itself, float32"]
    rows = [
        {"name": n, "value": v, "unit": "windows/s", "baseline": base, "ratio": v / base} for n, v in speeds.items()
    ]
    rows.append(
        {"name": "relative difference of the losses", "value": difference, "unit": "1", "baseline": None, "ratio": None}
    )
    for name, precision, _ in work[1:]:
        peak = matrix_peak(device, precision)
        value = speeds[name] * update_flops(c, model)
        rows.append(
            {
                "name": f"{name}: share of the matrix peak",
                "value": value / 1e9,
                "unit": "GFLOP/s",
                "baseline": peak / 1e9,
                "ratio": value / peak,
            }
        )
    return {"benchmark": "fit", "device": str(device), "threads": torch.get_num_threads(), "rows": rows}


def per_member_loss(model: DynamicsEnsemble, windows: Windows, noise: Tensor, drawn: Tensor) -> Tensor:
    """Return the loss of the default settings, written down as a reader of the paper would: five full passes.

    Args:
        model: A GRU ensemble.
        windows: ``(Bt, M + N, ...)``.
        noise: ``(N, 2, B, Bt, S)``.
        drawn: Each member's bootstrap as indices, ``(B, Bt)``.
    """
    m, total = model.config.history, noise.new_zeros(())
    forecast, head, auxiliary = len(noise), model.state_head, model.auxiliary_head
    for b, own in enumerate(drawn):
        states, actions = windows.states[own], windows.actions[own]
        contact, termination = windows.contact[own], windows.termination[own]
        low, delta = head.min_log_std[b], head.log_delta[b].exp()
        hidden = aux_hidden = None
        seen = aux_seen = torch.cat((states[:, :m], actions[:, 1 : m + 1]), dim=-1)
        last = states[:, m - 1]
        for i in range(forecast):
            features, hidden = model.state_base.rnn(seen, hidden)  # type: ignore[operator]
            aux, aux_hidden = model.auxiliary_base.rnn(aux_seen, aux_hidden)  # type: ignore[operator]
            features, aux = features[:, -1], aux[:, -1]
            mean = member_output(head.mean, b, features) + last
            upper = low + delta
            log_std = upper - F.softplus(upper - member_output(head.log_std, b, features))
            std = torch.exp(low + F.softplus(log_std - low))
            row = m + i
            regression = (mean + std * noise[i, 1, b, own] - states[:, row]).square().sum(dim=-1).mean()
            contacts = F.binary_cross_entropy_with_logits(member_output(auxiliary.contact, b, aux), contact[:, row])
            falls = F.binary_cross_entropy_with_logits(
                member_output(auxiliary.termination, b, aux), termination[:, row]
            )
            total = total + (regression + contacts + falls) / forecast
            if row + 1 < states.shape[1]:
                last = mean + std * noise[i, 0, b, own]
                seen = torch.cat((last, actions[:, row + 1]), dim=-1).unsqueeze(1)
                aux_seen = torch.cat((states[:, row], actions[:, row + 1]), dim=-1).unsqueeze(1)
        total = total + delta.mean()
    return total / len(drawn)


def update_flops(config: BenchFitConfig, model: DynamicsEnsemble) -> float:
    """Return the floating point operations of the products our loss needs for one window, gradient included."""
    c, members, steps = model.config, config.members, config.forecast
    recurrent = 2 * 3 * c.hidden * (c.state_dim + c.action_dim + c.hidden + (c.layers - 1) * 2 * c.hidden)
    shared = c.history + (c.history + steps - 1)  # the state base's history, the auxiliary base's whole window
    fed_back = members * (steps - 1)
    heads = 2 * c.head_hidden * (4 * c.hidden + 2 * c.state_dim + c.contact_dim + 1) * members * steps
    return float(BACKWARD * (recurrent * (shared + fed_back) + heads))


def matrix_peak(device: torch.device, precision: Precision) -> float:
    """Return the floating point operations a second of a large square product."""
    use_precision(precision, device)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(kind) for _ in range(2))
    best = min(_timed(lambda: a @ b, device) for _ in range(5))
    return 2 * PEAK_SIZE**3 / best


def _setting(c: BenchFitConfig, device: torch.device) -> tuple[DynamicsEnsemble, Windows, Tensor, Tensor, Tensor]:
    dims = Schema.from_robot(load_robot(c.robot)).dims
    torch.manual_seed(c.seed)
    model = DynamicsEnsemble(
        EnsembleConfig(
            state_dim=dims["state"],
            action_dim=dims["action"],
            contact_dim=dims["contact"],
            members=c.members,
            hidden=c.hidden,
            history=c.history,
        )
    ).to(device)
    generator = torch.Generator(device).manual_seed(c.seed)
    shape = (c.batch, c.history + c.forecast)

    def normal(width: int) -> Tensor:
        return torch.randn(*shape, width, generator=generator, device=device)

    contact, termination = ((normal(n) > 0).float() for n in (dims["contact"], 1))
    windows = Windows(normal(dims["state"]), normal(dims["action"]), normal(0), contact, termination)
    noise = draw_noise(generator, c.forecast, c.members, c.batch, dims["state"])
    drawn = torch.randint(c.batch, (c.members, c.batch), generator=generator, device=device)
    weights = torch.stack([torch.bincount(own, minlength=c.batch) for own in drawn]).float()
    return model, windows, noise, drawn, weights


def member_output(stack: StackedMLP, member: int, x: Tensor) -> Tensor:
    """Return what one member of a stack makes of features, by itself."""
    hidden = torch.relu(x @ stack.weight_0[member] + stack.bias_0[member])
    return hidden @ stack.weight_1[member] + stack.bias_1[member]


def _seconds(model: DynamicsEnsemble, loss: Callable[[], Tensor], repeats: int, device: torch.device) -> float:
    """Return the seconds of the fastest update; the first one, which warms up, does not count."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def update() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    update()
    return min(_timed(update, device) for _ in range(repeats))


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
