"""What a model makes of windows before falls: forecasts under a policy or recorded actions, and from true states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reports.evaluate.falls_windows import BEYOND, Windows
from rwmdata.errors import RwmError
from rwmdata.schema import Schema
from rwmmodel.ensemble import DynamicsEnsemble, Prediction
from rwmrl.behaviour_base import Behaviour
from rwmrl.control_loop import act
from rwmrl.observations import policy_observation


@dataclass(frozen=True)
class Forecast:
    """What a model predicts after each of W windows' histories, K steps.

    ``states (W, K, S)`` in physical units; ``contact (W, K, C)``, ``termination (W, K)`` (of the members' mean) and
    ``any_member (W, K)`` (of the surest member) are probabilities; ``epistemic (W, K)``.
    """

    states: np.ndarray
    contact: np.ndarray
    termination: np.ndarray
    any_member: np.ndarray
    epistemic: np.ndarray


@torch.no_grad()
def forecast(model: DynamicsEnsemble, behaviour: Behaviour, windows: Windows, schema: Schema, given: bool) -> Forecast:
    """Let the ensemble's mean go on from each window's history to ``BEYOND`` steps after its last row.

    The policy acts on what is predicted, with the noise it saw in the simulator. With ``given`` the model is fed the
    recorded actions for as long as there are any, and then the policy's.

    Raises:
        RwmError: A prediction is not finite.
    """
    rows, history = torch.from_numpy(windows.rows), model.config.history
    command, noise = torch.from_numpy(windows.command), torch.from_numpy(windows.noise)

    def action_of(k: int, state: Tensor, last: Tensor) -> Tensor:
        if given and k < windows.lead:
            return rows[:, history + k, schema.action].to(state.device)
        seen = policy_observation(state.cpu(), command[:, k], last.cpu(), schema) + noise[:, k]
        return act(behaviour, {"policy": seen}, state.device)

    return _go_on(model, rows, schema, windows.lead + BEYOND, action_of)


def teacher_forced(model: DynamicsEnsemble, windows: Windows, schema: Schema) -> Forecast:
    """Predict each row after the history from the true rows before it, ``lead`` rows one step ahead each."""
    rows, history = torch.from_numpy(windows.rows), model.config.history

    def action_of(k: int, state: Tensor, last: Tensor) -> Tensor:
        return rows[:, history + k, schema.action].to(state.device)

    return _go_on(model, rows, schema, windows.lead, action_of, true_states=True)


@torch.no_grad()
def _go_on(
    model: DynamicsEnsemble,
    rows: Tensor,
    schema: Schema,
    steps: int,
    action_of: Callable[[int, Tensor, Tensor], Tensor],
    true_states: bool = False,
) -> Forecast:
    """Read the first M of ``rows (W, M + ..., width)`` and predict ``steps``, from predictions or from true states.

    ``action_of`` gets the step, the newest state in physical units and the last action.
    """
    history, normalizer = model.config.history, model.normalizer
    rows = rows.to(next(model.parameters()).device)
    states, actions = normalizer.state(rows[..., schema.state]), normalizer.action(rows[..., schema.action])
    carry = model.warm_up(states[:, : history - 1], actions[:, 1:history])
    state, last, parts = states[:, history - 1], rows[:, history - 1, schema.action], []
    for k in range(steps):
        last = action_of(k, normalizer.denorm_state(state), last)
        prediction, carry = model.step(state, normalizer.action(last), carry, std=False)
        state = states[:, history + k] if true_states else prediction.state
        if not prediction.state.isfinite().all():
            raise RwmError(f"The model's prediction is not finite {k + 1} steps after the history.", "rwm fit")
        parts.append((normalizer.denorm_state(prediction.state), *_ends(prediction), prediction.epistemic))
    return Forecast(*map(_over_steps, zip(*parts, strict=True)))


def _ends(prediction: Prediction) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probabilities of contact, of the mean's termination and of the surest member's."""
    contact, mean, members = prediction.contact, prediction.termination, prediction.member_termination
    assert contact is not None and mean is not None and members is not None
    # In float64 a sigmoid tells logits apart up to 36, not only up to 17.
    return contact.sigmoid(), mean.double().sigmoid()[:, 0], members.double().sigmoid().amax(dim=0)[:, 0]


def _over_steps(values: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(tuple(values), dim=1).cpu().numpy()


def tilt_deg(states: np.ndarray, schema: Schema) -> np.ndarray:
    """Return the angle between a base's vertical axis and the world's, degrees, of states ``(..., S)``."""
    x, y, z = np.moveaxis(states[..., schema.group("projected_gravity")].astype(np.float64), -1, 0)
    return np.degrees(np.arctan2(np.hypot(x, y), -z))
