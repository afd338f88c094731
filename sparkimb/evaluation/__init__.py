"""Exact metrics, thresholds, costs, calibration and folds over DataFrames."""

from sparkimb.evaluation.calibration import correct_priors
from sparkimb.evaluation.classification_report import classification_report_imbalanced
from sparkimb.evaluation.confusion import ConfusionMatrix, confusion_matrix
from sparkimb.evaluation.cost import BayesDecision, CostSensitive, CostSensitiveModel
from sparkimb.evaluation.data_balance import aggregate_balance, distribution_balance, feature_balance
from sparkimb.evaluation.evaluators import ImbalancedBinaryEvaluator, ImbalancedMulticlassEvaluator
from sparkimb.evaluation.folds import stratified_split
from sparkimb.evaluation.instance_hardness import InstanceHardnessFolds, InstanceHardnessFoldsModel
from sparkimb.evaluation.intervals import Interval, confusion_interval, wilson_interval
from sparkimb.evaluation.isotonic import IsotonicCalibrator, IsotonicCalibratorModel
from sparkimb.evaluation.logit_adjustment import LogitAdjustment
from sparkimb.evaluation.multiclass_ranking import MulticlassRanking, multiclass_ranking
from sparkimb.evaluation.out_of_fold import out_of_fold_predictions
from sparkimb.evaluation.platt import PlattCalibrator, PlattCalibratorModel
from sparkimb.evaluation.prior_correction import PriorCorrection
from sparkimb.evaluation.probabilities import (
    MulticlassProbabilityMetrics,
    ProbabilityMetrics,
    multiclass_probability_metrics,
    probability_metrics,
)
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.score_gaps import ScoreGaps, gap_counts, score_gaps
from sparkimb.evaluation.stratified_folds import StratifiedFolds, StratifiedFoldsModel
from sparkimb.evaluation.threshold_tuner import ThresholdTuner, ThresholdTunerModel
from sparkimb.evaluation.thresholds import BestThreshold, best_threshold

__all__ = [
    "BayesDecision",
    "BestThreshold",
    "ConfusionMatrix",
    "CostSensitive",
    "CostSensitiveModel",
    "ImbalancedBinaryEvaluator",
    "ImbalancedMulticlassEvaluator",
    "InstanceHardnessFolds",
    "InstanceHardnessFoldsModel",
    "Interval",
    "IsotonicCalibrator",
    "IsotonicCalibratorModel",
    "LogitAdjustment",
    "MulticlassProbabilityMetrics",
    "MulticlassRanking",
    "PlattCalibrator",
    "PlattCalibratorModel",
    "PriorCorrection",
    "ProbabilityMetrics",
    "RankingMetrics",
    "ScoreGaps",
    "StratifiedFolds",
    "StratifiedFoldsModel",
    "ThresholdTuner",
    "ThresholdTunerModel",
    "aggregate_balance",
    "best_threshold",
    "classification_report_imbalanced",
    "confusion_interval",
    "confusion_matrix",
    "correct_priors",
    "distribution_balance",
    "feature_balance",
    "gap_counts",
    "multiclass_probability_metrics",
    "multiclass_ranking",
    "out_of_fold_predictions",
    "probability_metrics",
    "score_gaps",
    "stratified_split",
    "wilson_interval",
]
