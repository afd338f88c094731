"""Dice losses: the overlap of what is predicted and what is there, in which true negatives have no part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparkimb.errors import SparkimbError
from sparkimb.training.losses.base import ImbalancedLoss, row_weights
from sparkimb.training.losses.cross_entropy import log1mexp
from sparkimb.training.losses.rows import Rows


class DiceLoss(ImbalancedLoss):
    """One minus the Dice coefficient of probabilities and labels over the batch [1]_.

    Corrects for no prior: the coefficient, as F1 of which it is the soft form, does not count true negatives, so many
    easy ones change nothing.  It goes with natural and with class-balanced batches, but a batch needs some rows of each
    class: the loss of a batch is not a mean over its rows.

    Parameters
    ----------
    smooth : float in (0, inf), default=1.0
        Added above and below, so that a class without rows in the batch has a value.
    reduction : {"mean", "sum", "none"}, default="mean"
        Over the classes; "none" gives [C], and [1] with one logit per row, where class 1 alone is looked at.
    ignore_index
        See `ImbalancedLoss`.

    Notes
    -----
    As in the paper the sums below are of squares.  A weight counts a row that often.

    References
    ----------
    .. [1] Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
           Segmentation", 3DV 2016.
    """

    def __init__(self, *, smooth: float = 1.0, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.smooth = _positive("smooth", smooth)

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss: see `ImbalancedLoss.forward`, but for "none", which gives a value per class."""
        rows = self.rows(logits, labels)
        p, shares = torch.softmax(rows.logits, 1), rows.all_shares()
        if rows.binary:
            p, shares = p[:, 1:], shares[:, 1:]
        counted = torch.ones_like(p[:, 0]) if weight is None else row_weights(weight, p)
        if rows.kept is not None:
            counted = counted * rows.kept
        counted = counted.unsqueeze(1)  # and no matrix product, which autocast would do in 16 bits
        both = (counted * p * shares).sum(0)
        either = (counted * (p.square() + shares.square())).sum(0)
        losses = 1 - (2 * both + self.smooth) / (either + self.smooth)
        return losses if self.reduction == "none" else losses.sum() if self.reduction == "sum" else losses.mean()


class SelfAdjustingDiceLoss(ImbalancedLoss):
    """One minus a Dice coefficient of each row, in which easy rows fade [1]_.

    Corrects for no prior: a row counts by how unsure the model is of it, which takes the weight from many easy
    negatives.  It goes with natural and with class-balanced batches.

    Parameters
    ----------
    alpha : float in [0, inf), default=1.0
        Power of (1 - p) that fades easy rows; 0 fades none.
    smooth : float in (0, inf), default=1.0
        Added above and below, so that negatives count.
    reduction, ignore_index
        See `ImbalancedLoss`.

    Notes
    -----
    The paper speaks of one class against the rest.  Of [b, C] logits the losses of all classes are averaged, with the
    probabilities of softmax.

    References
    ----------
    .. [1] Li et al., "Dice Loss for Data-imbalanced NLP Tasks", ACL 2020.
    """

    def __init__(
        self, *, alpha: float = 1.0, smooth: float = 1.0, reduction: str = "mean", ignore_index: int = -100
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        if not 0 <= alpha < math.inf:
            raise SparkimbError(f"alpha is {alpha}. It must be in [0, inf).")
        self.alpha = alpha
        self.smooth = _positive("smooth", smooth)

    def row_losses(self, rows: Rows) -> Tensor:
        """Return the loss of each row, [b]."""
        log_p, shares = torch.log_softmax(rows.logits, 1), rows.all_shares()
        if rows.binary:
            shares, log_p, log_q = shares[:, 1:], log_p[:, 1:], log_p[:, :1]
        else:
            log_q = log1mexp(log_p)
        faded = (self.alpha * log_q + log_p).exp()
        return (1 - (2 * faded * shares + self.smooth) / (faded + shares + self.smooth)).mean(1)


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise SparkimbError(f"{name} is {value}. It must be in (0, inf).")
    return value
