"""A policy's walks in the simulator, and windows of them: before its falls, and where it walks on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reports.evaluate.policy_score import SCENARIOS, Scenario
from rwmdata.progress import Progress, silent
from rwmdata.robots import RobotSpec
from rwmrl.backends import EMBEDDED, make_env
from rwmrl.behaviour_base import Behaviour
from rwmrl.control_loop import play
from rwmrl.envs.base import EnvOptions, Observations
from rwmrl.observations import policy_observation

BEYOND = 10
"""Control steps the model goes on after the step of the fall: it may fall a little later."""
CALM = 50
"""A walk goes on where it does not fall for this many steps after the forecast that is compared with one of a fall."""


@dataclass(frozen=True)
class Walks:
    """What R robots did in T steps of one scenario, episode after episode.

    ``rows (R, T, width)``; ``command (R, T, 3)`` each was made under; ``noise (R, T, O)`` on what the policy saw before
    it; ``pushed (R, T)`` bool. ``episodes`` has a row for each: robot, first step, length, whether it fell, and what
    randomisation drew.
    """

    rows: np.ndarray
    command: np.ndarray
    noise: np.ndarray
    pushed: np.ndarray
    episodes: pl.DataFrame


@dataclass(frozen=True)
class Windows:
    """W windows: the history of M rows, then ``lead`` rows, the last of them a fall's where the window is of one.

    ``rows (W, M + lead, width)``; ``command (W, lead + BEYOND, 3)`` and ``noise (W, lead + BEYOND, O)`` of the steps
    after the history, the last command held after the end of an episode. ``about`` has a row for each window:
    ``fall``, ``scenario``, ``episode``, ``age`` (control steps since the episode began), ``pushed`` (the base was
    kicked between the history and the fall), and what randomisation drew.
    """

    lead: int
    rows: np.ndarray
    command: np.ndarray
    noise: np.ndarray
    about: pl.DataFrame

    @property
    def fall(self) -> np.ndarray:
        """Which windows end in a fall, ``(W,)`` bool."""
        return self.about["fall"].to_numpy()


def simulate(
    robot: RobotSpec, behaviour: Behaviour, scenario: Scenario, seed: int, progress: Progress = silent
) -> Walks:
    """Let a policy walk for the longest time of an episode; robots that fall begin anew."""
    disturbed = SCENARIOS[scenario]
    options = EnvOptions(num_envs=behaviour.num_envs, seed=seed, pushes=disturbed, noise=disturbed, randomize=disturbed)
    env = make_env(EMBEDDED, robot, options)
    schema, steps, noise = env.schema, env.max_episode_length, []

    def perceived(k: int, observations: Observations) -> Observations:
        row = env.current_rows()
        clean = policy_observation(row[:, schema.state], env.command, row[:, schema.action], schema)
        noise.append((observations["policy"] - clean).cpu())
        return observations

    recorded: list[tuple[Tensor, ...]] = []
    first, episodes, fell = torch.zeros(env.num_envs, dtype=torch.int64), [], 0
    loop = play(env, behaviour, steps, perceived)
    drawn = env.episode_parameters()
    for k, played in enumerate(loop):
        step, kicked = played.step, env.pushed
        nobody = torch.zeros(env.num_envs, dtype=torch.bool)
        recorded.append((step.transition.cpu().clone(), played.command.cpu(), nobody if kicked is None else kicked))
        ended = step.done if k + 1 < steps else torch.ones_like(step.done)
        if ended.any():
            ids = ended.nonzero().squeeze(-1)
            episodes.append(_ended(ids, first, k, step.terminated, drawn))
            first[ids] = k + 1
            behaviour.reset(ids)
            drawn = env.episode_parameters()
        fell += int(step.terminated.sum())
        progress(k + 1, steps, {"falls": float(fell)})
    env.close()
    rows, command, pushed = (torch.stack(part, dim=1).numpy() for part in zip(*recorded, strict=True))
    return Walks(rows, command, torch.stack(noise, dim=1).numpy(), pushed, pl.concat(episodes))


def _ended(ids: Tensor, first: Tensor, last: int, fell: Tensor, drawn: dict[str, Tensor]) -> pl.DataFrame:
    columns = {"robot": ids, "first": first[ids], "length": last + 1 - first[ids], "fell": fell[ids]}
    columns |= {name: values[ids].double() for name, values in drawn.items()}
    return pl.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def cut(
    walks: Walks, history: int, lead: int, per_fall: int, scenario: str, before: int, rng: np.random.Generator
) -> Windows:
    """Return a window before every fall with rows enough, and up to ``per_fall`` times as many of walks that go on.

    An episode gives at most one window of each kind. Those of walks that go on end anywhere that no push follows
    within ``lead`` steps and no fall within ``lead + CALM``.

    Args:
        walks: What was simulated.
        history: Rows M of the history.
        lead: Control steps from the last row of the history to the fall.
        per_fall: Windows of walks that go on for each of a fall.
        scenario: Name of the circumstances.
        before: Episodes of earlier simulations, so that every episode has a number of its own.
        rng: Draws the windows.
    """
    episodes = walks.episodes.with_row_index("episode", offset=before)
    robot, first, length = (episodes[name].to_numpy() for name in ("robot", "first", "length"))
    falls = np.flatnonzero(episodes["fell"].to_numpy() & (length >= history + lead))
    ends = [*(first + length - 1 - lead)[falls]]
    kicks = np.cumsum(walks.pushed, axis=1, dtype=np.int64)
    chosen = [*falls]
    for e in rng.permutation(np.flatnonzero(length >= history + lead + CALM)):
        if len(chosen) == (1 + per_fall) * len(falls):
            break
        possible = np.arange(first[e] + history - 1, first[e] + length[e] - lead - CALM)
        possible = possible[kicks[robot[e], possible + lead] == kicks[robot[e], possible]]
        if len(possible):
            chosen.append(e)
            ends.append(rng.choice(possible))
    episode, end = np.array(chosen, np.int64), np.array(ends, np.int64)
    who, fall = robot[episode], np.arange(len(episode)) < len(falls)
    after = end[:, None] + 1 + np.arange(lead + BEYOND)
    last = (first + length - 1)[episode]
    pushed = kicks[who, end + lead - 1] > kicks[who, end]
    names = [name for name in episodes.columns if name not in ("robot", "first", "length", "fell")]
    about = episodes.select(names)[episode].with_columns(
        fall=fall, scenario=pl.lit(scenario), age=end - first[episode] + 1, pushed=pushed
    )
    return Windows(
        lead,
        walks.rows[who[:, None], end[:, None] + np.arange(1 - history, lead + 1)],
        walks.command[who[:, None], np.minimum(after, last[:, None])],
        walks.noise[who[:, None], np.minimum(after, walks.noise.shape[1] - 1)],
        about,
    )


def joined(parts: Sequence[Windows]) -> Windows:
    """Return the windows of several simulations as one; all have the same lead."""
    rows, command, noise = (np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "command", "noise"))
    return Windows(parts[0].lead, rows, command, noise, pl.concat([p.about for p in parts], how="diagonal"))
