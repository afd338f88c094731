"""The names of the package; what each needs is imported at its first use."""

from .adviser import Advice, advise
from .errors import NotEnoughSamplesError, ScoringPathError, SparkimbError
from .over_sampling import (
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
from .pipeline import Pipeline
from .statistics import ImbalanceProfile, class_counts, imbalance_profile
from .strategy import SamplingPlan
from .under_sampling import RandomUnderSampler, RandomUnderSamplerModel
from .weights import ClassWeigher, ClassWeigherModel

__version__: str

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
