"""Exact metrics, thresholds and calibration over DataFrames."""

from sparkimb.evaluation.calibration import correct_priors
from sparkimb.evaluation.confusion import ConfusionMatrix, confusion_matrix
from sparkimb.evaluation.probabilities import ProbabilityMetrics, probability_metrics
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.thresholds import BestThreshold, best_threshold

__all__ = [
    "BestThreshold",
    "ConfusionMatrix",
    "ProbabilityMetrics",
    "RankingMetrics",
    "best_threshold",
    "confusion_matrix",
    "correct_priors",
    "probability_metrics",
]
