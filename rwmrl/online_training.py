"""What online training adds to training in a simulator: a model fitted on the replay, and the replay as a dataset."""

from __future__ import annotations

import math
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np

from rwmdata.atomic import remove_folder
from rwmdata.catalog import Dataset
from rwmdata.episodes import read_episodes
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.manifest import Provenance
from rwmdata.robots import RobotSpec
from rwmdata.runs import Run
from rwmdata.text import quoted
from rwmdata.writer import DatasetWriter, new_dataset_path
from rwmmodel.devices import RESUMED_ELSEWHERE, require_precision, resolve_device, use_precision
from rwmrl.backends import resolve_backend
from rwmrl.envs.base import VecEnv
from rwmrl.envs.imagination import ImaginationEnv
from rwmrl.envs.online import OnlineEnv
from rwmrl.export import Recorder, provenance
from rwmrl.online_config import FinetuneConfig, PretrainConfig
from rwmrl.online_model import OnlineModel
from rwmrl.policy_network import MlpPolicy
from rwmrl.replay import Replay
from rwmrl.snapshots import Snapshot

STAGES = 10
"""Parts of a training that exported episodes are labelled by."""


class OnlineTraining:
    """Model, replay and export of an online training, as what is trained beside a policy.

    Args:
        home: Where the dataset goes.
        config: The training.
        robot: The robot.
        real: The simulated robots.
        resume: The run that is taken up again; what it has exported already is no taken name.

    Attributes:
        config: The training, with the architecture of the model that it goes on from, if any.
        env: The environment the policy is trained in.
        model: The model's side.
        joined: Iterations after which imagined robots stand beside the simulated ones; 0 where there are none.

    Raises:
        RwmError: The name of the export is taken, or model and robot or device and precision do not fit.
    """

    def __init__(
        self,
        home: Home,
        config: PretrainConfig,
        robot: RobotSpec,
        real: VecEnv,
        resume: Run | None = None,
        anchor: MlpPolicy | None = None,
    ) -> None:
        self.home, self.config, self.robot, self.anchor = home, config, robot, anchor
        self.joined = config.imagine_after if isinstance(config, FinetuneConfig) and config.imagine else 0
        if config.export and not (resume and self._exported(resume)):
            hint = f"rwm data rm {quoted(config.export)}" if resume else "--export NEW_NAME"
            new_dataset_path(home.data_dir, config.export, hint)
        if isinstance(config, FinetuneConfig) and not (config.warm_start and config.model):
            missing = "Finetune-v0 begins with a policy and a model"
            raise RwmError(f"{missing}.", "--policy RUN --model RUN, both of rwm train --task Pretrain-v0")
        device = resolve_device(config.device)
        if config.fit.precision != "auto":
            hint = RESUMED_ELSEWHERE if resume else "--set fit.precision=float32"
            require_precision(config.fit.precision, device, hint)
        fit, source = config.fit, home.model(config.model).file if config.model else None
        replay = Replay(real.num_envs, fit.replay_steps, real.schema, device, fit.held_out)
        self.model = OnlineModel(replay, fit, robot, config.iterations, config.seed, device, source)
        fit = self.model.config
        assert fit.precision != "auto"
        use_precision(fit.precision, device)
        self.config = config = config.model_copy(update={"fit": fit})
        if not replay.held_out.any():
            few = f"Of {real.num_envs} robots every {fit.held_out}th is held out, which is none"
            raise RwmError(f"{few}.", f"--set fit.held_out={max(2, real.num_envs // 4)}, or more robots")
        window, rows = fit.history + fit.forecast, min(fit.replay_steps, real.max_episode_length + 1)
        if window > rows:
            fault = f"A window of {window} rows (history + forecast) does not fit into {rows} rows of replay"
            raise RwmError(f"{fault}.", "--set fit.replay_steps=1000" if config.model else "--set fit.history=8")
        if isinstance(config, FinetuneConfig) and config.imagine and config.imagination.lam and fit.members == 1:
            fault = "The penalty is the members' disagreement, and the model has one member"
            raise RwmError(f"{fault}.", "--set imagination.lam=0, or a model of several members")
        recorded = self._recorded(real)
        self.recorder = Recorder(real, config.export_transitions, recorded) if config.export else None
        self.env = OnlineEnv(real, replay, self.recorder, self._stage, self._dream)

    def _recorded(self, real: VecEnv) -> np.ndarray:
        """Return the robots whose rows are exported, spread evenly: as many as fill the dataset in all iterations."""
        steps = self.config.iterations * self.config.ppo.num_steps
        count = min(math.ceil(self.config.export_transitions / steps), real.num_envs)
        return np.arange(count) * real.num_envs // count

    def _stage(self, steps: int) -> str:
        """Return the name of the policy that acts after so many steps: the iteration its part of the training began."""
        iterations = self.config.iterations
        part = min(steps // self.config.ppo.num_steps * STAGES // iterations, STAGES - 1)
        return f"iteration-{part * iterations // STAGES:06d}"

    def begin(self, iteration: int) -> None:
        """Let imagination begin where it is due."""
        if isinstance(self.config, FinetuneConfig) and self.config.imagine and iteration >= self.joined:
            self.env.imagine()

    def _dream(self) -> ImaginationEnv:
        assert isinstance(self.config, FinetuneConfig)
        options = self.config.imagination.model_copy(update={"seed": self.config.seed})
        # The simulator's task has its weights; imagination knows the robot's alone.
        weights = self.robot.reward_weights | self.robot.task_reward_weights.get(self.config.task, {})
        robot = self.robot.model_copy(update={"reward_weights": weights})
        return ImaginationEnv(deepcopy(self.model.model), self.env.replay, robot, options, self.anchor)

    def learn(self, iteration: int) -> dict[str, float]:
        """Update the model after iteration ``iteration`` of the policy; return what is to be logged."""
        numbers = self.model.learn(iteration)
        self._imagine_with_the_newest()
        return numbers

    def _imagine_with_the_newest(self) -> None:
        """Let imagined robots move as the model predicts now."""
        if imagined := self.env.imagined:
            imagined.model.load_state_dict(self.model.model.state_dict())
            imagined.starts.begin_anew()

    def save(self, run: Run, completed: int) -> None:
        """Write the model and the episodes that ended since the last checkpoint."""
        self.model.save(run.model_file)
        self._write_part(run, completed)

    def state(self, resumable: bool) -> Snapshot:
        """Return the model's part, and the replay where the environment's own state cannot be told with it."""
        beside: Snapshot = {"dropped": self.recorder.dropped} if self.recorder else {}
        if resumable and self.env.real.state() is None:
            beside["replay"] = self.env.replay.state()
        return self.model.state() | beside

    def restore(self, run: Run, state: Snapshot, anew: bool) -> None:
        """Go on from what :meth:`state` returned; episodes written after that checkpoint are made again."""
        for part in _parts(run):
            if int(part.name.rpartition("-")[2]) > state["completed"]:
                remove_folder(part)
        if anew and (replay := _replay_in(state)):
            recorded = sum(Dataset.open(part).rows for part in _parts(run))
            steps = state["completed"] * self.config.ppo.num_steps
            self.env.begin_anew(replay, steps, recorded, state.get("dropped", 0))
        self.model.restore(state)
        self._imagine_with_the_newest()

    def _exported(self, run: Run) -> Dataset | None:
        """Return the dataset that a run killed before it was marked as finished has written; None without one."""
        path = self.home.data_dir / (self.config.export or "")
        if not self.config.export or not path.exists():
            return None
        dataset = Dataset.open(path)
        return dataset if dataset.manifest.provenance.get("policy") == made_by(run) else None

    def finish(self, run: Run) -> Dataset | None:
        """Write the exported episodes as one dataset, where one was asked for."""
        name, recorder = self.config.export, self.recorder
        if not name or not recorder:
            return None
        dataset = self._exported(run) or self._export(run, name, recorder)
        shutil.rmtree(run.path / "replay", ignore_errors=True)
        return dataset

    def _export(self, run: Run, name: str, recorder: Recorder) -> Dataset:
        recorder.finish()
        self._write_part(run, self.config.iterations + 1)
        parts = [Dataset.open(part) for part in _parts(run)]
        dropped, real = recorder.dropped, self.env.real
        origin = self._provenance(run) | {"dropped_unstable_episodes": dropped}
        about = self.robot.name, real.schema, round(1 / self.robot.control_dt_s, 6), origin, self.config.seed
        left = self.config.export_transitions
        with DatasetWriter(self.home.data_dir, name, *about) as writer:
            for episode in (e for part in parts for e in read_episodes(part)):
                if left > 0:
                    writer.append(episode)
                    left -= len(episode.rows)
            return writer.commit()

    def _write_part(self, run: Run, completed: int) -> None:
        episodes = self.recorder.take() if self.recorder else []
        if not episodes:
            return
        name, hz = f"part-{completed:06d}", round(1 / self.robot.control_dt_s, 6)
        schema, origin = self.env.schema, self._provenance(run)
        with DatasetWriter(run.path / "replay", name, self.robot.name, schema, hz, origin) as writer:
            for episode in episodes:
                writer.append(episode)
            writer.commit()

    def _provenance(self, run: Run) -> Provenance:
        config, backend = self.config, resolve_backend(self.config.backend)
        return provenance(config, self.robot, backend, config.num_envs, made_by(run))


def made_by(run: Run) -> str:
    """Return what the provenance of a run's dataset names as its policy."""
    return f"train {run.id}"


def _replay_in(state: Snapshot) -> Snapshot | None:
    """Return the replay in a training's state, which is with the environment's where that could be told."""
    moment = state.get("moment")
    return state.get("replay") or (moment["environments"]["env"]["replay"] if moment else None)


def _parts(run: Run) -> list[Path]:
    return sorted((run.path / "replay").glob("part-*"))
