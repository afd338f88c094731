"""Augmentation in the batch, where it lies: of rare classes, by a probability per class.

>>> augment = Compose([FeatureDropout(probability={1: 0.3}), GaussianNoise(scale=0.05, probability={1: 0.5})])
"""

from __future__ import annotations

from sparkimb.training.augment.base import Augmentation, Compose
from sparkimb.training.augment.images import ColorJitter, Flip, RandomCrop, Rotation
from sparkimb.training.augment.tables import FeatureDropout, GaussianNoise, Mixup, ReMix

__all__ = [
    "Augmentation",
    "ColorJitter",
    "Compose",
    "FeatureDropout",
    "Flip",
    "GaussianNoise",
    "Mixup",
    "RandomCrop",
    "ReMix",
    "Rotation",
]
