"""The dynamics ensemble: bases, heads, loss, fit, checkpoints."""

from rwmmodel.checkpoint import load_model, save_model
from rwmmodel.devices import Precision, resolve_device
from rwmmodel.ensemble import Carry, DynamicsEnsemble, EnsembleConfig, ModelInfo, Prediction
from rwmmodel.fit import fit_model, resume_fit
from rwmmodel.fit_config import FitConfig
from rwmmodel.loss import LossConfig, LossTerms, draw_bootstrap, draw_noise, ensemble_loss
from rwmmodel.normalizer import Normalizer
from rwmmodel.reference_checkpoint import export_reference, import_reference
from rwmmodel.validation import roll_mean

__all__ = [
    "Carry",
    "DynamicsEnsemble",
    "EnsembleConfig",
    "FitConfig",
    "LossConfig",
    "LossTerms",
    "ModelInfo",
    "Normalizer",
    "Precision",
    "Prediction",
    "draw_bootstrap",
    "draw_noise",
    "ensemble_loss",
    "export_reference",
    "fit_model",
    "import_reference",
    "load_model",
    "resolve_device",
    "resume_fit",
    "roll_mean",
    "save_model",
]
