"""A small dataset and a small model, so that imagination and PPO run in a moment."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rwmdata.runs import Run
from rwmmodel.checkpoint import save_model
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig, ModelInfo
from rwmmodel.normalizer import Normalizer
from rwmrl.envs.imagination import ImaginationConfig, ImaginationEnv

HISTORY = 6


@pytest.fixture
def dataset(make_dataset, schema):
    """Twelve episodes of small random motion around standing."""
    rng = np.random.default_rng(0)
    rows = np.zeros((12, 40, schema.width), np.float32)
    rows[..., schema.group("foot_contact")] = 1
    for episode in rows:
        episode[:, schema.state] = rng.normal(0, 0.05, (40, 45))
        episode[:, schema.group("projected_gravity")] = (0, 0, -1)
        episode[1:, schema.action] = rng.normal(0, 0.3, (39, 12))
    return make_dataset(rows, "small")


@pytest.fixture
def make_model(dataset):
    """Make an untrained ensemble that almost never predicts a fall."""

    def make(members=3, seed=0):
        torch.manual_seed(seed)
        config = EnsembleConfig(
            hidden=16, head_hidden=16, members=members, history=HISTORY, state_dim=45, action_dim=12, contact_dim=8
        )
        info = ModelInfo("anymal_d", dataset.schema.csv_names, 50.0, dataset.name)
        model = DynamicsEnsemble(config, Normalizer(45, 12, *dataset.normalizer()), info)
        with torch.no_grad():
            model.auxiliary_head.termination.bias_1.fill_(-20.0)
        return model.eval()

    return make


@pytest.fixture
def steerable_model(dataset):
    """An ensemble whose v_x, v_y and yaw rate become, in normalised units, what the first three actions say."""
    torch.manual_seed(0)
    config = EnsembleConfig(
        base="mlp", mlp_hidden=(6, 6), head_hidden=6, members=2, history=HISTORY, state_dim=45, action_dim=12,
        contact_dim=8,
    )  # fmt: skip
    model = DynamicsEnsemble(config, Normalizer(45, 12, *dataset.normalizer()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        newest = (HISTORY - 1) * 57
        first, second = model.state_base.layers[0], model.state_base.layers[2]
        for k, column in enumerate((0, 1, 5)):
            for unit, sign in ((2 * k, 1.0), (2 * k + 1, -1.0)):
                first.weight[unit, newest + 45 + k], first.weight[unit, newest + column] = sign, -sign
                model.state_head.mean.weight_1[:, unit, column] = sign
        second.weight.copy_(torch.eye(6))
        model.state_head.mean.weight_0.copy_(torch.eye(6))
        model.auxiliary_head.termination.bias_1.fill_(-20.0)
    return model.eval()


@pytest.fixture
def model_run(home, dataset, make_model):
    run = Run.create(home, "model", {}, {"dataset": dataset.name}, seed=0)
    save_model(make_model(), run.model_file)
    run.finish({})
    return run


@pytest.fixture
def watch_model():
    """Make a list of an imagination's predictions: state, carry, members' prediction and carry after each."""

    def watch(env):
        calls, step = [], env.model.step

        def watched(state, action, carry, *rest, **options):
            prediction, after = step(state, action, carry, *rest, **options)
            calls.append(SimpleNamespace(state=state.clone(), carry=carry, prediction=prediction, after=after))
            return prediction, after

        env.model.step = watched
        return calls

    return watch


@pytest.fixture
def make_env(dataset, make_model, robot):
    """Make an imagination of eight robots."""

    def make(members=3, calibration=None, policy=None, **options):
        model = make_model(members)
        model.calibration = calibration
        return ImaginationEnv(model, dataset, robot, ImaginationConfig(**{"num_envs": 8, **options}), policy)

    return make


@pytest.fixture
def ray_address():
    """Of a cluster of two nodes with one processor each, where one is wanted; else two workers of one node do."""
    pytest.importorskip("ray")
    if not os.environ.get("RWM_RAY_CLUSTER"):
        yield None
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()
