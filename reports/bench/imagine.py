"""How fast is imagination? Beside the obvious way: every head by itself, used or not, and each history read anew."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reports.bench.fit import matrix_peak, member_output
from rwmdata.catalog import Dataset
from rwmdata.config import Frozen
from rwmdata.episodes import Episode
from rwmdata.home import Home
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec, load_robot
from rwmdata.runs import Run
from rwmdata.schema import Schema
from rwmdata.writer import DatasetWriter
from rwmmodel.devices import Precision, reduced_precisions, resolve_device, use_precision
from rwmmodel.ensemble import Carry, DynamicsEnsemble, EnsembleConfig, Prediction
from rwmmodel.normalizer import Normalizer
from rwmrl.envs.imagination import ImaginationConfig, ImaginationEnv
from rwmrl.envs.recorded_starts import RecordedStarts, Start
from rwmrl.ppo import Runner, series
from rwmrl.ppo_config import PPOConfig

OBVIOUS = "every head by itself, float32"
NO_FALL = -20.0
"""Bias of the logit of termination."""


class BenchImagineConfig(Frozen):
    """Options of :func:`bench_imagine`; the architecture is RWM-U's."""

    robot: str = "anymal_d"
    num_envs: tuple[int, ...] = (1024, 8192)
    members: int = Field(5, ge=1)
    hidden: int = Field(256, ge=1)
    steps: int = Field(24, ge=1)
    """Steps of an iteration."""
    repeats: int = Field(3, ge=1)
    """The fastest of so many iterations counts."""
    device: str = "auto"
    seed: int = 0


class ObviousEnsemble(DynamicsEnsemble):
    """The same mathematics as a reader of the paper would write it down: all heads of all members, in a loop."""

    def step(
        self,
        state: Tensor,
        action: Tensor,
        carry: Carry,
        member_ids: Tensor | None = None,
        aux: bool = True,
        std: bool = True,
    ) -> tuple[Prediction, Carry]:
        """Predict one row ahead, see :meth:`DynamicsEnsemble.step`; nothing is left out."""
        assert carry.auxiliary is not None
        inputs = torch.cat((state, action), dim=-1).unsqueeze(1)
        found, carries = [], []
        for base, memory in ((self.state_base, carry.state), (self.auxiliary_base, carry.auxiliary)):
            output, hidden = base.rnn(inputs, torch.stack(memory))  # type: ignore[operator]
            found.append(output[:, 0])
            carries.append(hidden.unbind(0))
        features, aux_features = found
        means, stds, contacts, falls = [], [], [], []
        head, auxiliary = self.state_head, self.auxiliary_head
        for b in range(self.config.members):
            means.append(member_output(head.mean, b, features) + state)
            low = head.min_log_std[b]
            upper = low + head.log_delta[b].exp()
            log_std = upper - torch.nn.functional.softplus(upper - member_output(head.log_std, b, features))
            stds.append(torch.exp(low + torch.nn.functional.softplus(log_std - low)))
            contacts.append(member_output(auxiliary.contact, b, aux_features))
            falls.append(member_output(auxiliary.termination, b, aux_features))
        mean, deviation, contact, fall = (torch.stack(part) for part in (means, stds, contacts, falls))
        rows = torch.arange(len(state), device=state.device)

        def own(members: Tensor) -> Tensor:
            return members.mean(dim=0) if member_ids is None else members[member_ids, rows]

        epistemic = mean.std(dim=0).sum(dim=-1)
        aleatoric = deviation.sum(dim=-1).mean(dim=0)
        prediction = Prediction(
            own(mean), own(deviation), aleatoric, epistemic, None, own(contact), own(fall), mean, deviation
        )
        return prediction, Carry(tuple(carries[0]), tuple(carries[1]))


class ObviousStarts(RecordedStarts):
    """Reads every history when its episode begins."""

    def draw(self, count: int) -> Start:
        """Draw ``count`` starts."""
        self._is_kept.zero_()
        return self._draw(count)


def bench_imagine(config: BenchImagineConfig | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Time imagined steps and whole iterations (steps and PPO update) on random rows and an untrained model.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: environment steps a second of both ways at every
        number of environments, the share of the matrix peak, and how far the epistemic values are apart.
    """
    c = config or BenchImagineConfig()
    device = resolve_device(c.device)
    robot = load_robot(c.robot)
    ways: list[tuple[str, type[DynamicsEnsemble], Precision]] = [
        (OBVIOUS, ObviousEnsemble, "float32"),
        ("ours, float32", DynamicsEnsemble, "float32"),
    ]
    ways += [(f"ours, {precision}", DynamicsEnsemble, precision) for precision in reduced_precisions(device)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        dataset = _random_rows(home, robot, c.seed)
        for count, envs in enumerate(c.num_envs):
            trainings = {
                name: _training(_model(kind, precision, c, dataset, device), dataset, robot, c, envs, home)
                for name, kind, precision in ways
            }
            for repeat in range(c.repeats + 1):  # The first one warms up, and is never the fastest.
                for k, (name, (runner, run)) in enumerate(trainings.items()):
                    use_precision(ways[k][2], device)
                    runner.train(repeat + 1)
                    done = (count * (c.repeats + 1) + repeat) * len(ways) + k + 1
                    shown = {f"{name}, steps/s": series(run)["perf/steps_per_second"][-1] or 0.0}
                    progress(done, len(c.num_envs) * (c.repeats + 1) * len(ways), shown)
            speeds = {name: _speeds(run, c, envs) for name, (_, run) in trainings.items()}
            for what, found in zip(("collection", "iteration"), zip(*speeds.values(), strict=True), strict=True):
                rows += [
                    {
                        "name": f"{what}, {envs} environments: {name}",
                        "value": value,
                        "unit": "steps/s",
                        "baseline": found[0],
                        "ratio": value / found[0],
                    }
                    for name, value in zip(speeds, found, strict=True)
                ]
            for name, _, precision in ways[1:]:
                value, peak = speeds[name][0] * step_flops(c, dataset), matrix_peak(device, precision)
                rows.append(
                    {
                        "name": f"collection, {envs} environments: {name}, share of the matrix peak",
                        "value": value / 1e9,
                        "unit": "GFLOP/s",
                        "baseline": peak / 1e9,
                        "ratio": value / peak,
                    }
                )
        for name, kind, precision in ways[1:]:
            rows.append(
                {
                    "name": f"{name}: largest relative difference of the epistemic uncertainty",
                    "unit": "1",
                    "value": _difference(kind, precision, c, dataset, device),
                    "baseline": None,
                    "ratio": None,
                }
            )
    return {"benchmark": "imagine", "device": str(device), "threads": torch.get_num_threads(), "rows": rows}


def step_flops(config: BenchImagineConfig, dataset: Dataset) -> float:
    """Return the floating point operations of one step's products: bases, all means, one member's auxiliary heads."""
    dims, c = dataset.schema.dims, EnsembleConfig(**_sizes(config, dataset))
    recurrent = 2 * 3 * c.hidden * (dims["state"] + dims["action"] + c.hidden + (c.layers - 1) * 2 * c.hidden)
    means = 2 * c.members * c.head_hidden * (c.hidden + dims["state"])
    auxiliary = 2 * c.head_hidden * (2 * c.hidden + dims["contact"] + 1)
    return float(2 * recurrent + means + auxiliary)


def _sizes(c: BenchImagineConfig, dataset: Dataset) -> dict[str, int]:
    dims = dataset.schema.dims
    sizes = {"state_dim": dims["state"], "action_dim": dims["action"], "contact_dim": dims["contact"]}
    return sizes | {"members": c.members, "hidden": c.hidden}


def _model(
    kind: type[DynamicsEnsemble], precision: Precision, c: BenchImagineConfig, dataset: Dataset, device: torch.device
) -> DynamicsEnsemble:
    torch.manual_seed(c.seed)
    dims = dataset.schema.dims
    normalizer = Normalizer(dims["state"], dims["action"], *dataset.normalizer("auto"))
    model = kind(EnsembleConfig(**_sizes(c, dataset)), normalizer).to(device)
    model.precision = precision
    with torch.no_grad():  # An untrained model ends every other episode at once; here they end by time.
        model.auxiliary_head.termination.bias_1.fill_(NO_FALL)
    return model


def _random_rows(home: Home, robot: RobotSpec, seed: int) -> Dataset:
    """Write a small dataset of normally distributed rows that stand upright."""
    rng, schema = np.random.default_rng(seed), Schema.from_robot(robot)
    with DatasetWriter(home.data_dir, "random", robot.name, schema, 1 / robot.control_dt_s, {}) as writer:
        for _ in range(64):
            rows = np.zeros((80, schema.width), np.float32)
            rows[:, schema.state] = 0.1 * rng.normal(size=(80, schema.dims["state"]))
            rows[:, schema.group("projected_gravity")] = (0.0, 0.0, -1.0)
            rows[:, schema.action] = 0.5 * rng.normal(size=(80, schema.dims["action"]))
            writer.append(Episode(rows, truncated=True))
        return writer.commit()


def _training(
    model: DynamicsEnsemble, dataset: Dataset, robot: RobotSpec, c: BenchImagineConfig, envs: int, home: Home
) -> tuple[Runner, Run]:
    """Return what trains in the model, an iteration at a time."""
    env = ImaginationEnv(model, dataset, robot, ImaginationConfig(num_envs=envs, seed=c.seed))
    if isinstance(model, ObviousEnsemble):
        env.starts = ObviousStarts(model, dataset, env.starts.store, env.config.init_share, env.generator)
    run = Run.create(home, "policy", {}, {"dataset": dataset.name}, c.seed)
    return Runner(env, PPOConfig(num_steps=c.steps, checkpoint_interval=1), run, robot, c.seed), run


def _speeds(run: Run, c: BenchImagineConfig, envs: int) -> tuple[float, float]:
    """Return environment steps a second of the fastest collection, the policy's own share included, and iteration."""
    found = series(run)
    collected = min(v for v in found["perf/collect_s"] if v is not None)
    return c.steps * envs / collected, max(v for v in found["perf/steps_per_second"] if v is not None)


@torch.no_grad()
def _difference(
    kind: type[DynamicsEnsemble], precision: Precision, c: BenchImagineConfig, dataset: Dataset, device: torch.device
) -> float:
    """Return the largest relative difference of the epistemic uncertainty to the obvious way's, from equal carries."""
    generator, dims = torch.Generator(device).manual_seed(c.seed), dataset.schema.dims
    state, action = (torch.randn(1024, dims[p], generator=generator, device=device) for p in ("state", "action"))
    found = []
    ways: list[tuple[type[DynamicsEnsemble], Precision]] = [(ObviousEnsemble, "float32"), (kind, precision)]
    for each, arithmetic in ways:
        use_precision(arithmetic, device)
        model = _model(each, arithmetic, c, dataset, device)
        states, actions = (part.unsqueeze(1).expand(-1, model.config.history - 1, -1) for part in (state, action))
        found.append(model.step(state, action, model.warm_up(states, actions))[0].epistemic)
    return float(((found[1] - found[0]).abs() / found[0]).max())
