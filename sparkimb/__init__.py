"""Imbalanced learning for Apache Spark.

Samplers that change training rows only, class weights, and exact distributed metrics, as Spark ML stages.
"""

from sparkimb.adviser import Advice, advise
from sparkimb.errors import NotEnoughSamplesError, ScoringPathError, SparkimbError
from sparkimb.over_sampling import (
    ADASYN,
    SMOTE,
    SMOTEN,
    SMOTENC,
    SVMSMOTE,
    ADASYNModel,
    BorderlineSMOTE,
    BorderlineSMOTEModel,
    GaussianSMOTE,
    GaussianSMOTEModel,
    KMeansSMOTE,
    KMeansSMOTEModel,
    PartitionLocalSampler,
    PartitionLocalSamplerModel,
    RandomOverSampler,
    RandomOverSamplerModel,
    SafeLevelSMOTE,
    SafeLevelSMOTEModel,
    SMOTEModel,
    SMOTENCModel,
    SMOTENModel,
    SVMSMOTEModel,
)
from sparkimb.pipeline import Pipeline
from sparkimb.statistics import ImbalanceProfile, class_counts, imbalance_profile
from sparkimb.strategy import SamplingPlan
from sparkimb.under_sampling import RandomUnderSampler, RandomUnderSamplerModel
from sparkimb.weights import ClassWeigher, ClassWeigherModel

__version__ = "0.1.0"

__all__ = [
    "ADASYN",
    "SMOTE",
    "SMOTEN",
    "SMOTENC",
    "SVMSMOTE",
    "ADASYNModel",
    "Advice",
    "BorderlineSMOTE",
    "BorderlineSMOTEModel",
    "ClassWeigher",
    "ClassWeigherModel",
    "GaussianSMOTE",
    "GaussianSMOTEModel",
    "ImbalanceProfile",
    "KMeansSMOTE",
    "KMeansSMOTEModel",
    "NotEnoughSamplesError",
    "PartitionLocalSampler",
    "PartitionLocalSamplerModel",
    "Pipeline",
    "RandomOverSampler",
    "RandomOverSamplerModel",
    "RandomUnderSampler",
    "RandomUnderSamplerModel",
    "SMOTEModel",
    "SMOTENCModel",
    "SMOTENModel",
    "SVMSMOTEModel",
    "SafeLevelSMOTE",
    "SafeLevelSMOTEModel",
    "SamplingPlan",
    "ScoringPathError",
    "SparkimbError",
    "advise",
    "class_counts",
    "imbalance_profile",
]
