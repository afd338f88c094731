from . import augment, losses, transfer
from .huggingface import imbalanced_trainer
from .metrics import area_under_roc, average_precision, metrics_of, predict
from .mlp import MLP, feature_moments
from .trainer import Fitted, fit

__all__ = [
    "MLP",
    "Fitted",
    "area_under_roc",
    "augment",
    "average_precision",
    "feature_moments",
    "fit",
    "imbalanced_trainer",
    "losses",
    "metrics_of",
    "predict",
    "transfer",
]
