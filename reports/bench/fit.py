"""How fast is an update? Beside the obvious way: every member runs the whole window on its own, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from reports.bench.measure import BenchRow, beside, content_of
from reports.bench.one_member import member_output, member_std
from reports.bench.peak import recurrent_flops, seconds_on, share_of_peak
from rwmdata.config import Frozen
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.schema import Schema
from rwmmodel.data import Windows
from rwmmodel.devices import Precision, reduced_precisions, resolve_device, use_precision
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig
from rwmmodel.loss import LossConfig, draw_noise, ensemble_loss

OBVIOUS = "every member by itself, float32"
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


def bench_fit(config: BenchFitConfig | None = None, progress: Progress = silent) -> dict[str, object]:
    """Time updates (loss, gradient, Adam) on random windows.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: windows a second of both ways, how far their losses
        are apart under the same noise and bootstrap, and the share of the measured matrix peak.
    """
    config = config or BenchFitConfig()
    device = resolve_device(config.device)
    use_precision("float32", device)
    model, windows, noise, drawn, weights = random_problem(config, device)

    def ours() -> Tensor:
        return ensemble_loss(model, windows, LossConfig(), noise, weights).total

    def obvious() -> Tensor:
        return per_member_loss(model, windows, noise, drawn)

    difference = abs(float(ours().detach() / obvious().detach()) - 1)
    work: list[tuple[str, Precision, Callable[[], Tensor]]] = [(OBVIOUS, "float32", obvious)]
    work += [(f"ours, {precision}", precision, ours) for precision in ("float32", *reduced_precisions(device))]
    speeds: dict[str, float] = {}
    for k, (name, precision, loss) in enumerate(work):
        use_precision(precision, device)
        model.precision = precision
        speeds[name] = config.batch / fastest_update(model, loss, config.repeats, device)
        progress(k + 1, len(work), {"windows/s": speeds[name]})
    rows = beside(speeds[OBVIOUS], speeds, "windows/s")
    rows.append(BenchRow("relative difference of the losses", difference, "1"))
    for name, precision, _ in work[1:]:
        rows.append(share_of_peak(f"{name}: ", speeds[name] * update_flops(config, model), device, precision))
    return content_of("fit", rows, device=str(device), threads=torch.get_num_threads())


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
        hidden = aux_hidden = None
        seen = aux_seen = torch.cat((states[:, :m], actions[:, 1 : m + 1]), dim=-1)
        last = states[:, m - 1]
        for i in range(forecast):
            features, hidden = model.state_base.rnn(seen, hidden)  # type: ignore[operator]
            aux, aux_hidden = model.auxiliary_base.rnn(aux_seen, aux_hidden)  # type: ignore[operator]
            features, aux = features[:, -1], aux[:, -1]
            mean, std = member_output(head.mean, b, features) + last, member_std(head, b, features)
            row = m + i
            regression = (mean + std * noise[i, 1, b, own] - states[:, row]).square().sum(dim=-1).mean()
            contacts = cross_entropy(member_output(auxiliary.contact, b, aux), contact[:, row])
            falls = cross_entropy(member_output(auxiliary.termination, b, aux), termination[:, row])
            total = total + (regression + contacts + falls) / forecast
            if row + 1 < states.shape[1]:
                last = mean + std * noise[i, 0, b, own]
                seen = torch.cat((last, actions[:, row + 1]), dim=-1).unsqueeze(1)
                aux_seen = torch.cat((states[:, row], actions[:, row + 1]), dim=-1).unsqueeze(1)
        total = total + head.log_delta[b].exp().mean()
    return total / len(drawn)


def update_flops(config: BenchFitConfig, model: DynamicsEnsemble) -> float:
    """Return the floating point operations of the products our loss needs for one window, gradient included."""
    size, members, steps = model.config, config.members, config.forecast
    shared = 2 * size.history + steps - 1  # the state base's history, the auxiliary base's whole window
    fed_back = members * (steps - 1)
    heads = 2 * size.head_hidden * (4 * size.hidden + 2 * size.state_dim + size.contact_dim + 1) * members * steps
    return float(BACKWARD * (recurrent_flops(size) * (shared + fed_back) + heads))


def random_problem(
    config: BenchFitConfig, device: torch.device
) -> tuple[DynamicsEnsemble, Windows, Tensor, Tensor, Tensor]:
    """Return an untrained model, random windows, noise, and the bootstrap as indices and as weights."""
    dims = Schema.from_robot(load_robot(config.robot)).dims
    torch.manual_seed(config.seed)
    sizes = {f"{part}_dim": dims[part] for part in ("state", "action", "contact")}
    model = DynamicsEnsemble(EnsembleConfig(**sizes, **config.model_dump(include={"members", "hidden", "history"})))
    model.to(device)
    generator = torch.Generator(device).manual_seed(config.seed)
    shape = (config.batch, config.history + config.forecast)

    def normal(width: int) -> Tensor:
        return torch.randn(*shape, width, generator=generator, device=device)

    contact, termination = ((normal(n) > 0).float() for n in (dims["contact"], 1))
    windows = Windows(normal(dims["state"]), normal(dims["action"]), normal(0), contact, termination)
    noise = draw_noise(generator, config.forecast, config.members, config.batch, dims["state"])
    drawn = torch.randint(config.batch, (config.members, config.batch), generator=generator, device=device)
    weights = torch.stack([torch.bincount(own, minlength=config.batch) for own in drawn]).float()
    return model, windows, noise, drawn, weights


def fastest_update(model: DynamicsEnsemble, loss: Callable[[], Tensor], repeats: int, device: torch.device) -> float:
    """Return the seconds of the fastest update; a first one warms up and does not count."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def update() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    update()
    return min(seconds_on(device, update) for _ in range(repeats))
