"""Environments, behaviours, data export, and training in the simulator and in imagination.

Names are looked up when they are used, because each needs its own optional packages.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "backends": ("make_env",),
    "behaviour_base": ("Behaviour", "BehaviourContext"),
    "behaviours": ("make_behaviour",),
    "cloning": ("CloningConfig", "clone_behaviour"),
    "control_loop": ("play",),
    "deploy": ("export_policy",),
    "envs.base": ("EnvOptions", "VecEnv"),
    "envs.imagination": ("ImaginationConfig", "ImaginationEnv"),
    "export": ("ExportConfig", "export_dataset"),
    "imagination_training": ("train_policy",),
    "judge": ("Judge", "JudgeConfig"),
    "offline_rl": ("OfflineRLConfig", "train_offline_rl"),
    "online_config": ("FinetuneConfig", "PretrainConfig"),
    "policy_config": ("PolicyConfig",),
    "policy_file": ("load_policy", "save_policy"),
    "simulator_training": ("train_in_simulator",),
    "sweep": ("sweep_policies",),
    "train_config": ("TrainConfig",),
}
_WHERE = {name: f"rwmrl.{module}" for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rwmrl' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
