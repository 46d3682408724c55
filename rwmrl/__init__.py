"""Environments, behaviours, data export, and training in the simulator and in imagination.

Names are looked up when they are used, because each needs its own optional packages.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "Behaviour": "rwmrl.behaviour_base",
    "BehaviourContext": "rwmrl.behaviour_base",
    "CloningConfig": "rwmrl.cloning",
    "EnvOptions": "rwmrl.envs.base",
    "ExportConfig": "rwmrl.export",
    "ImaginationConfig": "rwmrl.envs.imagination",
    "ImaginationEnv": "rwmrl.envs.imagination",
    "OfflineRLConfig": "rwmrl.offline_rl",
    "PolicyConfig": "rwmrl.policy_config",
    "TrainConfig": "rwmrl.simulator_training",
    "VecEnv": "rwmrl.envs.base",
    "clone_behaviour": "rwmrl.cloning",
    "export_dataset": "rwmrl.export",
    "export_policy": "rwmrl.deploy",
    "load_policy": "rwmrl.policy_file",
    "make_behaviour": "rwmrl.behaviours",
    "make_env": "rwmrl.backends",
    "save_policy": "rwmrl.policy_file",
    "sweep_policies": "rwmrl.sweep",
    "train_in_simulator": "rwmrl.simulator_training",
    "train_offline_rl": "rwmrl.offline_rl",
    "train_policy": "rwmrl.imagination_training",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rwmrl' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
