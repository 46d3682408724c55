"""How fast is imagination? Beside the obvious way: every head by itself, used or not, and each history read anew."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reports.bench.measure import BenchRow, beside, content_of
from reports.bench.one_member import member_output, member_std
from reports.bench.peak import recurrent_flops, share_of_peak
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
from rwmrl.ppo import Runner
from rwmrl.ppo_config import PPOConfig

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
        outputs, carries = [], []
        for base, memory in ((self.state_base, carry.state), (self.auxiliary_base, carry.auxiliary)):
            output, hidden = base.rnn(inputs, torch.stack(memory))  # type: ignore[operator]
            outputs.append(output[:, 0])
            carries.append(hidden.unbind(0))
        features, aux_features = outputs
        means, stds, contacts, falls = [], [], [], []
        head, auxiliary = self.state_head, self.auxiliary_head
        for b in range(self.config.members):
            means.append(member_output(head.mean, b, features) + state)
            stds.append(member_std(head, b, features))
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


class Way(NamedTuple):
    """One way to imagine: its name, its ensemble and its arithmetic."""

    name: str
    ensemble: type[DynamicsEnsemble]
    precision: Precision


OBVIOUS = Way("every head by itself, float32", ObviousEnsemble, "float32")


class ObviousStarts(RecordedStarts):
    """Reads every history when its episode begins."""

    def draw(self, count: int) -> Start:
        """Draw ``count`` starts."""
        self._kept = tuple(kept[:0] for kept in self._kept)
        return self._draw(count)


def bench_imagine(config: BenchImagineConfig | None = None, progress: Progress = silent) -> dict[str, object]:
    """Time imagined steps and whole iterations (steps and PPO update) on random rows and an untrained model.

    Returns:
        ``{"rows": [{name, value, unit, baseline, ratio}, ...]}``: environment steps a second of both ways at every
        number of environments, the share of the matrix peak, and how far the epistemic values are apart.
    """
    config = config or BenchImagineConfig()
    device, robot = resolve_device(config.device), load_robot(config.robot)
    precisions: tuple[Precision, ...] = ("float32", *reduced_precisions(device))
    ways = [OBVIOUS, *(Way(f"ours, {p}", DynamicsEnsemble, p) for p in precisions)]
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        dataset = _random_rows(home, robot, config.seed)
        total, done = len(config.num_envs) * (config.repeats + 1) * len(ways), 0
        for envs in config.num_envs:
            trainings = {
                way.name: _training(_model(way, config, dataset, device), dataset, robot, config, envs, home)
                for way in ways
            }
            for repeat in range(config.repeats + 1):  # The first one warms up, and is never the fastest.
                for way in ways:
                    runner, run = trainings[way.name]
                    use_precision(way.precision, device)
                    runner.train(repeat + 1)
                    done += 1
                    progress(done, total, {f"{way.name}, steps/s": run.series()["perf/steps_per_second"][-1] or 0.0})
            speeds = {name: _speeds(run, config, envs) for name, (_, run) in trainings.items()}
            for k, what in enumerate(("collection", "iteration")):
                named = {f"{what}, {envs} environments: {name}": speed[k] for name, speed in speeds.items()}
                rows += beside(speeds[OBVIOUS.name][k], named, "steps/s")
            for way in ways[1:]:
                flops = speeds[way.name][0] * step_flops(ensemble_config(config, dataset))
                subject = f"collection, {envs} environments: {way.name}, "
                rows.append(share_of_peak(subject, flops, device, way.precision))
        for way in ways[1:]:
            name = f"{way.name}: largest relative difference of the epistemic uncertainty"
            rows.append(BenchRow(name, _difference(way, config, dataset, device), "1"))
    return content_of("imagine", rows, device=str(device), threads=torch.get_num_threads())


def imagined_speeds(config: BenchImagineConfig, envs: int) -> tuple[float, float]:
    """Return environment steps a second of our collection and of whole iterations, in float32."""
    device, robot, way = resolve_device(config.device), load_robot(config.robot), Way("", DynamicsEnsemble, "float32")
    use_precision("float32", device)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        dataset = _random_rows(home, robot, config.seed)
        runner, run = _training(_model(way, config, dataset, device), dataset, robot, config, envs, home)
        for repeat in range(config.repeats + 1):
            runner.train(repeat + 1)
        return _speeds(run, config, envs)


def step_flops(size: EnsembleConfig) -> float:
    """Return the floating point operations of one step's products: bases, all means, one member's auxiliary heads."""
    means = 2 * size.members * size.head_hidden * (size.hidden + size.state_dim)
    auxiliary = 2 * size.head_hidden * (2 * size.hidden + size.contact_dim + 1)
    return float(2 * recurrent_flops(size) + means + auxiliary)


def ensemble_config(config: BenchImagineConfig, dataset: Dataset) -> EnsembleConfig:
    """Return the architecture that is timed."""
    sizes = {f"{name}_dim": dataset.schema.dims[name] for name in ("state", "action", "contact")}
    return EnsembleConfig(**sizes, members=config.members, hidden=config.hidden)


def _model(way: Way, config: BenchImagineConfig, dataset: Dataset, device: torch.device) -> DynamicsEnsemble:
    torch.manual_seed(config.seed)
    dims = dataset.schema.dims
    normalizer = Normalizer(dims["state"], dims["action"], *dataset.normalizer("auto"))
    model = way.ensemble(ensemble_config(config, dataset), normalizer).to(device)
    model.precision = way.precision
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
    model: DynamicsEnsemble, dataset: Dataset, robot: RobotSpec, config: BenchImagineConfig, envs: int, home: Home
) -> tuple[Runner, Run]:
    """Return a runner that trains in the model, an iteration at a time, and its run."""
    env = ImaginationEnv(model, dataset, robot, ImaginationConfig(num_envs=envs, seed=config.seed))
    if isinstance(model, ObviousEnsemble) and isinstance(env.starts, RecordedStarts):
        env.starts = ObviousStarts(model, dataset, env.starts.store, env.config.init_share, env.generator)
    run = Run.create(home, "policy", {}, {"dataset": dataset.name}, config.seed)
    return Runner(env, PPOConfig(num_steps=config.steps, checkpoint_interval=1), run, robot, config.seed), run


def _speeds(run: Run, config: BenchImagineConfig, envs: int) -> tuple[float, float]:
    """Return environment steps a second of the fastest collection, the policy's own share included, and iteration."""
    metrics = run.series()
    collect_s = min(v for v in metrics["perf/collect_s"] if v is not None)
    return config.steps * envs / collect_s, max(v for v in metrics["perf/steps_per_second"] if v is not None)


@torch.no_grad()
def _difference(way: Way, config: BenchImagineConfig, dataset: Dataset, device: torch.device) -> float:
    """Return the largest relative difference of the epistemic uncertainty to the obvious way's, from equal carries."""
    generator, dims = torch.Generator(device).manual_seed(config.seed), dataset.schema.dims
    state, action = (torch.randn(1024, dims[p], generator=generator, device=device) for p in ("state", "action"))
    epistemic = []
    for each in (OBVIOUS, way):
        use_precision(each.precision, device)
        model = _model(each, config, dataset, device)
        states, actions = (part.unsqueeze(1).expand(-1, model.config.history - 1, -1) for part in (state, action))
        epistemic.append(model.step(state, action, model.warm_up(states, actions))[0].epistemic)
    return float(((epistemic[1] - epistemic[0]).abs() / epistemic[0]).max())
