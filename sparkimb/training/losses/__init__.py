"""Losses for imbalanced classes, each named by its paper, for binary, multi-class and soft labels.

>>> import torch
>>> loss = from_counts("focal", [990, 10], gamma=2.0)
>>> loss(torch.zeros(4), torch.tensor([0, 0, 0, 1]))
tensor(2.2317)

Which prior a loss corrects for stands in its docstring.  One correction is enough: class weights, logit adjustment or
balanced softmax on natural batches, or class-balanced batches with a loss that corrects for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed.manifest import Manifest
from sparkimb.training.losses.asymmetric import AsymmetricLoss
from sparkimb.training.losses.base import REDUCTIONS, Counts, ImbalancedLoss
from sparkimb.training.losses.cross_entropy import ClassBalancedLoss, FocalLoss, WeightedCrossEntropyLoss
from sparkimb.training.losses.dice import DiceLoss, SelfAdjustingDiceLoss
from sparkimb.training.losses.margins import BalancedSoftmaxLoss, LDAMLoss, LogitAdjustedLoss

__all__ = [
    "LOSSES",
    "REDUCTIONS",
    "AsymmetricLoss",
    "BalancedSoftmaxLoss",
    "ClassBalancedLoss",
    "DiceLoss",
    "FocalLoss",
    "ImbalancedLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "SelfAdjustingDiceLoss",
    "WeightedCrossEntropyLoss",
    "from_counts",
    "from_manifest",
]

LOSSES: Mapping[str, type[ImbalancedLoss]] = {
    "cross_entropy": WeightedCrossEntropyLoss,
    "focal": FocalLoss,
    "class_balanced": ClassBalancedLoss,
    "ldam": LDAMLoss,
    "logit_adjusted": LogitAdjustedLoss,
    "balanced_softmax": BalancedSoftmaxLoss,
    "asymmetric": AsymmetricLoss,
    "dice": DiceLoss,
    "self_adjusting_dice": SelfAdjustingDiceLoss,
}


def from_counts(name: str, counts: Counts, **options: Any) -> ImbalancedLoss:
    """Build a loss for training rows of these classes.

    Parameters
    ----------
    name : str
        A key of LOSSES.
    counts : sequence, or dict by code
        Rows of each class, by code: of the rows that the model is trained on.
    **options
        Parameters of the loss.

    Raises
    ------
    SparkimbError
        For an unknown name, less than two classes, a class without rows, or values out of range.
    """
    if name not in LOSSES:
        raise SparkimbError(f"'{name}' is no loss. Choose one of: {', '.join(LOSSES)}.")
    return LOSSES[name].from_counts(counts, **options)


def from_manifest(path: str, name: str, *, filesystem: fs.FileSystem | None = None, **options: Any) -> ImbalancedLoss:
    """Build a loss for the rows of a materialized training set, as its files hold them: after any sampler.

    Parameters are those of `from_counts`, with the training set's path or URI in place of the counts, and a
    `filesystem` of pyarrow where the path's own is not to be used.  Rows are counted, not weights: where a weight
    column corrects for the prior, build a loss without class weights.
    """
    return from_counts(name, Manifest.read(path, filesystem=filesystem).counts, **options)
