"""Losses that shift the logits by class: LDAM, logit adjustment and balanced softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparkimb.errors import SparkimbError
from sparkimb.training.losses.base import Counts, ImbalancedLoss, class_sizes, effective_number_weights
from sparkimb.training.losses.rows import Rows

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11


class LDAMLoss(ImbalancedLoss):
    """Cross-entropy that asks rare classes for a larger margin: label-distribution-aware margins [1]_.

    A row of class c must be ahead by a margin in proportion to n_c^(-1/4).  The margins make up for what a class of few
    rows generalises worse; the prior itself is corrected for by the weights after `drw_epoch` only (DRW).  Train on
    natural batches; class-balanced ones from `drw_epoch` on may take the place of DRW.

    Parameters
    ----------
    counts : sequence, or dict by code
        Rows of each class, by code.
    max_margin : float in (0, inf), default=0.5
        The rarest class's.
    scale : float in (0, inf), default=1.0
        Logits and margins are multiplied by it.  The authors take 30 for logits that are cosines, of a layer with
        normalised features and weights.
    drw_epoch : int in [0, inf), optional
        From this epoch on, rows are weighted by the effective numbers of their classes (deferred re-weighting); by
        default never.  The authors take the last fifth of the epochs.  `fit` and `imbalanced_trainer` tell the epoch;
        a loop of your own calls `set_epoch`.
    beta : float in [0, 1), default=0.9999
        Of these weights: see `ClassBalancedLoss`.
    reduction, ignore_index
        See `ImbalancedLoss`.

    Notes
    -----
    A soft label, of which the paper does not speak, takes of each class's margin its share.

    References
    ----------
    .. [1] Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.
    """

    margins: Tensor
    deferred_weights: Tensor

    def __init__(
        self,
        counts: Counts,
        *,
        max_margin: float = 0.5,
        scale: float = 1.0,
        drw_epoch: int | None = None,
        beta: float = 0.9999,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        for name, value in (("max_margin", max_margin), ("scale", scale)):
            if not 0 < value < math.inf:
                raise SparkimbError(f"{name} is {value}. It must be in (0, inf).")
        if drw_epoch is not None and drw_epoch < 0:
            raise SparkimbError(f"drw_epoch is {drw_epoch}. Give an epoch, counted from 0, or None for no DRW.")
        sizes = class_sizes(counts)
        self.classes = len(sizes)
        self.scale = scale
        self.drw_epoch = drw_epoch
        self.epoch = 0
        self.register_buffer("margins", torch.tensor([max_margin * (min(sizes) / n) ** 0.25 for n in sizes]))
        self.register_buffer("deferred_weights", torch.tensor(effective_number_weights(sizes, beta)))

    @classmethod
    def from_counts(cls, counts: Counts, **options: Any) -> Self:
        """Build the loss for these counts."""
        return cls(counts, **options)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0."""
        self.epoch = epoch

    def row_losses(self, rows: Rows) -> Tensor:
        """Return the loss of each row, [b]."""
        shifted = rows.logits - rows.all_shares() * self.margins.to(rows.logits.dtype)
        losses = -rows.log_probabilities(self.scale * shifted)
        if self.drw_epoch is not None and self.epoch >= self.drw_epoch:
            losses = losses * rows.at_codes(self.deferred_weights.to(losses.dtype))
        return rows.expected(losses)


class LogitAdjustedLoss(ImbalancedLoss):
    """Cross-entropy of the logits plus tau log prior, so that the logits alone are fair to every class [1]_.

    Corrects for the prior of the training rows: `argmax` of the logits then minimises the balanced error, and the
    logits are not the log odds of the data any more.  Train on natural batches.  Never combine it with class-balanced
    batches or resampled rows unless `counts` are theirs: the same prior would be corrected for twice.

    Parameters
    ----------
    counts : sequence, or dict by code
        Rows of each class, by code, or their shares.
    tau : float in [0, inf), default=1.0
        Strength; 0 is cross-entropy.
    reduction, ignore_index
        See `ImbalancedLoss`.

    See Also
    --------
    sparkimb.evaluation.LogitAdjustment : The same after training, of any model's probabilities.

    References
    ----------
    .. [1] Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """

    adjustments: Tensor

    def __init__(self, counts: Counts, *, tau: float = 1.0, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        if not 0 <= tau < math.inf:
            raise SparkimbError(f"tau is {tau}. It must be in [0, inf): 0 is cross-entropy.")
        sizes = class_sizes(counts)
        self.classes = len(sizes)
        self.tau = tau
        self.register_buffer("adjustments", torch.tensor([tau * math.log(n / sum(sizes)) for n in sizes]))

    @classmethod
    def from_counts(cls, counts: Counts, **options: Any) -> Self:
        """Build the loss for these counts."""
        return cls(counts, **options)

    def row_losses(self, rows: Rows) -> Tensor:
        """Return the loss of each row, [b]."""
        adjusted = rows.logits + self.adjustments.to(rows.logits.dtype)
        return rows.expected(-rows.log_probabilities(adjusted))


class BalancedSoftmaxLoss(LogitAdjustedLoss):
    """Cross-entropy of softmax with every class counted by its rows [1]_: `LogitAdjustedLoss` with tau 1.

    Corrects for the prior of the training rows.  Train on natural batches; never combine it with class-balanced
    batches or resampled rows unless `counts` are theirs.

    Parameters
    ----------
    counts : sequence, or dict by code
        Rows of each class, by code.
    reduction, ignore_index
        See `ImbalancedLoss`.

    References
    ----------
    .. [1] Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020.
    """

    def __init__(self, counts: Counts, *, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(counts, tau=1.0, reduction=reduction, ignore_index=ignore_index)
