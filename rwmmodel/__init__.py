"""The dynamics ensemble: bases, heads, loss, fit, checkpoints."""

from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.ensemble import Carry, DynamicsEnsemble, EnsembleConfig, ModelInfo, Prediction
from rwmmodel.fit import fit_model, resume_fit
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import LossConfig
from rwmmodel.normalizer import Normalizer
from rwmmodel.reference_checkpoint import export_reference, import_reference

__all__ = [
    "Carry", "DynamicsEnsemble", "EnsembleConfig", "FitConfig", "LossConfig", "ModelInfo", "Normalizer", "Prediction",
    "export_reference", "fit_model", "import_reference", "load_model", "resume_fit", "save_model",
]  # fmt: skip
