"""Samplers that add rows."""

from sparkimb.over_sampling.adasyn import ADASYN, ADASYNModel
from sparkimb.over_sampling.borderline_smote import BorderlineSMOTE, BorderlineSMOTEModel
from sparkimb.over_sampling.gaussian_smote import GaussianSMOTE, GaussianSMOTEModel
from sparkimb.over_sampling.kmeans_smote import KMeansSMOTE, KMeansSMOTEModel
from sparkimb.over_sampling.partition_local import PartitionLocalSampler, PartitionLocalSamplerModel
from sparkimb.over_sampling.random import RandomOverSampler, RandomOverSamplerModel
from sparkimb.over_sampling.safe_level_smote import SafeLevelSMOTE, SafeLevelSMOTEModel
from sparkimb.over_sampling.smote import SMOTE, SMOTEModel
from sparkimb.over_sampling.smoten import SMOTEN, SMOTENModel
from sparkimb.over_sampling.smotenc import SMOTENC, SMOTENCModel
from sparkimb.over_sampling.svm_smote import SVMSMOTE, SVMSMOTEModel

__all__ = [
    "ADASYN",
    "SMOTE",
    "SMOTEN",
    "SMOTENC",
    "SVMSMOTE",
    "ADASYNModel",
    "BorderlineSMOTE",
    "BorderlineSMOTEModel",
    "GaussianSMOTE",
    "GaussianSMOTEModel",
    "KMeansSMOTE",
    "KMeansSMOTEModel",
    "PartitionLocalSampler",
    "PartitionLocalSamplerModel",
    "RandomOverSampler",
    "RandomOverSamplerModel",
    "SMOTEModel",
    "SMOTENCModel",
    "SMOTENModel",
    "SVMSMOTEModel",
    "SafeLevelSMOTE",
    "SafeLevelSMOTEModel",
]
